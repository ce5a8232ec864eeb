"""Every example runs as a stranger would run it, and what it prints is true."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from latticegnn.lattice import from_networkx, read_network
from latticegnn.nn.classpath import resolve

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
# The examples' own tests of their layers, collected here too.
TestDiffuse = resolve(f"{EXAMPLES / '10_swap_a_layer.py'}:TestDiffuse", {})
DIGITS = EXAMPLES / "20_self_autoencoding_digits.py"
TestCourier = resolve(f"{DIGITS}:TestCourier", {})


def run(name: str, *words: str) -> str:
    """The output of an example, run in a process of its own."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(EXAMPLES / name), *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_first_lattice() -> None:
    output = run("00_first_lattice.py")
    assert "512 cells" in output
    assert re.search(r"functional .* 3 to 6 neighbours", output)
    assert re.search(r"distant .* 3 to 12 neighbours", output)
    assert "7904 edges" in output
    assert "with 5 steps a model is refused: The output ports must lie inside" in output
    assert "arrives at z+ at step 7; the light cone says 7" in output
    rows = re.findall(r"^ +(\d) ((?: +\S+){8})$", output, flags=re.MULTILINE)
    assert [int(step) for step, _ in rows] == list(range(9))
    for step, row in rows:  # the triangle of the light cone
        assert [mark == "." for mark in row.split()] == [z > int(step) for z in range(8)]


@pytest.mark.slow
def test_swap_a_layer() -> None:
    output = run("10_swap_a_layer.py")
    found = re.findall(r"distant tier: (\w+) +cell of (\d+) parameters +before ([\d.]+) +after ([\d.]+)", output)
    assert [name for name, *_ in found] == ["default", "Diffuse"]
    assert found[0][1] != found[1][1]
    for _, _, before, after in found:
        assert float(before) > 1
        assert float(after) < 0.05


@pytest.mark.slow
def test_self_autoencoding_digits(tmp_path) -> None:
    output = run(DIGITS.name, "--quick", "--folder", str(tmp_path))
    rows = dict(re.findall(r"^ +(\S.*?) {2,}([\d.]+)", output, flags=re.MULTILINE))
    errors = {name: float(value) for name, value in rows.items()}
    assert errors["cube, quick form"] < errors["mean digit"] / 2
    assert errors["the hole shut at test"] > errors["mean digit"]
    leak = re.search(r"through a shut hole passes ([\d.e-]+)", output)
    assert leak is not None
    assert float(leak[1]) < 1e-6
    (done,) = tmp_path.glob("digits_quick-seed0/result.json")
    before = done.stat().st_mtime_ns
    again = run(DIGITS.name, "--quick", "--folder", str(tmp_path))
    assert re.findall(r"^  (\S.*)$", again, flags=re.MULTILINE) == re.findall(r"^  (\S.*)$", output, re.MULTILINE)[1:]
    assert done.stat().st_mtime_ns == before, "what is done is kept"


@pytest.mark.parametrize("other", [["--hold"], ["--figure", "drawn.png"]])
def test_the_quick_form_of_the_digits_stands_alone(other, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", [DIGITS.name, "--quick", *other])
    with pytest.raises(SystemExit):
        sys.modules[TestCourier.layer.__module__].main()
    assert "leave one out" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["digits", "digits_hold"])
def test_the_full_form_of_the_digits_is_as_told(name, monkeypatch) -> None:
    """Pixels are laid as they are, one cell of the wall is open, and only a cell that counts comes to rest."""
    monkeypatch.chdir(ROOT)  # the layer is named by its path from there
    example = sys.modules[resolve(f"{DIGITS}:Courier", {}).__module__]
    given, model, plan = example.configured(name, 1)
    image = torch.rand(2, 64, generator=torch.Generator().manual_seed(0))
    assert (given["model"]["seed"], plan.until) == (1, {"digits": 32, "digits_hold": 40}[name])
    assert torch.equal(model.transformer.encode(image), image)
    layer = model.dynamics.dead.view(8, 8, 8)
    assert not layer[:, :, [0, 1, 2, 3, 5, 6, 7]].any()
    assert (~layer[:, :, 4]).nonzero().tolist() == [[3, 3]]
    with torch.no_grad():
        states = model.eval().rollout(image, 2 * model.steps, trajectory=True).trajectory
    moved = (states[1:] - states[:-1])[..., :-1].abs().amax(dim=(1, 2, 3))
    assert float(moved[: model.steps].min()) > 1e-3
    assert (float(moved[-10:].max()) < 1e-6) == (name == "digits_hold")


@pytest.mark.slow
def test_a_digit_is_held_by_the_model_that_learned_to_bring_it(tmp_path, monkeypatch) -> None:
    example = sys.modules[resolve(f"{DIGITS}:Courier", {}).__module__]
    folder = tmp_path / "configs"
    shutil.copytree(example.CONFIGS, folder)
    for name, count in (("digits", "updates: 1200"), ("digits_hold", "updates: 300")):
        file = folder / f"{name}.yaml"
        stated = file.read_text(encoding="utf-8")
        assert count in stated
        file.write_text(stated.replace(count, "updates: 2"), encoding="utf-8")
    monkeypatch.setattr(example, "CONFIGS", folder)
    monkeypatch.chdir(ROOT)
    held = example.result("digits_hold", 0, tmp_path)
    first = example.result("digits", 0, tmp_path)
    assert held["cpu_seconds"] > first["cpu_seconds"] > 0
    assert held["settings"]["start"] == first["settings"]
    moved, went_on = (abs(done["2N"] - done["N"]) for done in (held, first))
    assert moved < went_on / 2, "it comes to rest soon after N"


@pytest.mark.slow
def test_to_networkx() -> None:
    output = run("30_to_networkx.py")
    assert "216 nodes" in output
    assert "local 216, functional 1080, distant 1800" in output
    assert "8 have 6, 48 have 9, 96 have 13, 64 have 18" in output
    assert "face neighbours alone: clustering 0.000" in output
    assert "graph the same after the round trip, state the same to the last bit" in output


@pytest.mark.slow
def test_regeneration(tmp_path) -> None:
    output = run("40_regeneration.py", "--quick", "--folder", str(tmp_path))
    rows = [line.split() for line in output.splitlines() if line.startswith(("damage", "twin"))]
    assert [row[:2] for row in rows] == [["damage", "0"], ["twin", "0"]]
    for _, _, *row in rows:
        before, struck, *healed = map(float, row[:7])
        of_before, returned, worst = (float(value.rstrip("%")) for value in (row[7], row[8], row[10]))
        assert 0.2 < before < 1, "an epoch is enough to carry something across"
        assert struck < before
        assert of_before == pytest.approx(100 * healed[-1] / before, abs=0.5)
        assert returned == pytest.approx(100 * (healed[-1] - struck) / (before - struck), abs=5)
        assert worst <= of_before
        assert row[9] == "never" or 0 <= int(row[9]) <= 10
    assert (tmp_path / "regeneration.png").is_file()


@pytest.mark.slow
def test_effective_graph(tmp_path) -> None:
    file = tmp_path / "graph.gexf"
    output = run("60_effective_graph.py", "--updates", "60", "--output", str(file))
    before, after = map(float, re.search(r"before training ([\d.]+), after 60 updates ([\d.]+)", output).groups())
    assert after < 0.5 < before
    assert "216 cells, 1440 pairs of neighbours" in output
    layers = [line.split() for line in re.findall(r"^ +\d +36 .*$", output, flags=re.MULTILINE)]
    assert [row[0] for row in layers] == ["0", "1", "2", "3", "4", "5"], "the signal crosses a layer a step"
    heard = [float(row[2]) for row in layers]
    assert 0.95 < sum(heard) / 6 <= 1.0, "each cell hears one cell's worth, in all tiers that it has"
    rows = re.findall(r"^  (gate-weighted|equal weights) +([\d. ]+)$", output, flags=re.MULTILINE)
    for name, figures in rows:
        clustering, by_chance, length, random_length, sigma = map(float, figures.split())
        assert sigma == pytest.approx(clustering / by_chance / (length / random_length), rel=0.05), name
        assert sigma > 1, "a lattice of radius 1.5 is full of triangles"
    assert len(rows) == 2
    graph = from_networkx(read_network(file))
    assert graph.gate.shape == (216, 3)
    assert len(graph.edge_weight) == graph.num_edges == 3096


@pytest.mark.slow
def test_heat_and_waves(tmp_path) -> None:
    output = run("70_heat_and_waves.py", "--figure", str(tmp_path / "drawn.png"))
    row = re.compile(r"^  (\S.*?) {2,}([\d.]+) +([\d.]+) +(-?\d\.\de[+-]\d\d)", flags=re.MULTILINE)
    rows = {name: tuple(map(float, numbers)) for name, *numbers in row.findall(output.partition("a medium of")[0])}
    assert len(rows) == 4 + 2 + 4 + 6 + 2
    assert rows["left in it, step 1"][:2] == (1 - 0.6, 1 - 0.6)
    assert rows["mean square distance, 7 steps"][1] == pytest.approx(0.6 * 7)  # a walk of so many steps of length 1
    assert max(abs(difference) for *_, difference in rows.values()) < 1e-12
    assert float(re.search(r"any cell after any step: (\S+)", output)[1]) < 1e-12
    learned = [(name, *map(float, numbers)) for name, *numbers in row.findall(output.partition("a medium of")[2])]
    for name, measured, truth, difference in learned:
        assert difference == pytest.approx(measured - truth, rel=0.06), name
        if "along" in name:
            assert truth == (0.1 if name.startswith("diffusivity") else 0.5)
            assert measured == pytest.approx(truth, rel=0.01), name
        elif "jagged" in name:
            assert measured > 0.5, "the example says that it does not get there"
        else:
            assert measured == pytest.approx(truth, rel=0.02), "what is left is the noise"
    assert len(learned) == 4 + 5
    assert (tmp_path / "drawn.png").is_file()


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.py")), ids=lambda file: file.name)
def test_examples_are_numbered_and_guarded(file) -> None:
    assert re.match(r"\d\d_[a-z_]+\.py$", file.name)
    text = file.read_text(encoding="utf-8")
    assert 'if __name__ == "__main__":\n    main()' in text
    assert file.name in text.split('"""')[1], "the docstring says how to run it"
