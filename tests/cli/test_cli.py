"""The command line: what it prints, and with which status it ends."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch
import yaml

import latticegnn as lg
from latticegnn import __version__
from latticegnn.cli import COMMANDS
from latticegnn.data import EmbeddingCache
from latticegnn.training import callbacks

ROOT = Path(__file__).resolve().parents[2]
FIT = ("fit", "--config", "tiny.yaml")


def test_a_corrupt_cache_shard_is_told_in_one_line(folder, call) -> None:
    lines = (
        "the cat\na dog\nred bird\nsmall mat\nblue rug\nlarge cat\nthe dog sits\nbird sings\na mat\nsome rug\nwet dog"
    )
    (folder / "texts.txt").write_text("\n".join(f"{line} {k}" for k in range(12) for line in lines.splitlines()))
    words = (*FIT, "--data.task", "file", "--data.path", "texts.txt", "--data.cache_dir", "cache")
    status, _, err = call(*words, "--model.embedding_dim", "384")
    assert status == 0, err
    (shard,) = Path("cache").glob("*/*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    status, _, err = call(*words, "--model.embedding_dim", "384")
    assert status == 2
    assert len(err) == 1, err
    for part in ("latticegnn: A cache shard's content must have the sha256", str(shard), "Delete that file"):
        assert part in err[0]


def test_rows_of_nan_are_dropped_and_counted(folder, call) -> None:
    status, out, err = call(*FIT, "--data.path", "holes.npy", "--log_level", "warning")
    assert status == 0
    assert err == ["WARNING dropped rows by reason: {'nan': 2}"]
    content = json.loads((Path(out[-1]) / "metrics.json").read_text())
    assert content["data"]["dropped"]["nan"] == 2
    assert sum(content["data"]["rows"].values()) == 148


def test_fit_prints_the_table_and_the_folder_last(folder, call) -> None:
    status, out, err = call(*FIT, "--baselines", "[mean]")
    assert (status, err) == (0, [])
    assert [line.split()[0] for line in out[:-2]] == ["model", "─" * len(out[1]), "lattice", "mean"]
    assert out[-2].startswith("lattice − mean: fvu ")
    place = Path(out[-1])
    assert place.parent == Path("runs")
    drawn = {"table_fvu", "curves", "gates", "tiers", "lattice", "gate_maps", "signal"}
    assert {file.name for file in (place / "figures").iterdir()} == {f"{name}.png" for name in drawn}
    assert Path("runs/latest").resolve() == place.resolve()
    assert f"- {out[-2]}" in (place / "model" / "README.md").read_text(encoding="utf-8").splitlines()


def test_experiment_prints_a_row_a_variant(folder, call) -> None:
    content = {"base": "tiny.yaml", "seeds": [0], "variants": {"plain": {}, "attention": {"model": {"hidden": 5}}}}
    (folder / "mine.yaml").write_text(yaml.safe_dump(content))
    status, out, _ = call("experiment", "--config", "mine.yaml", "--workers", "1")
    assert status == 0
    assert sorted(line.split()[0] for line in out[2:-2]) == ["attention", "plain"]
    assert out[-2].startswith("plain − attention: fvu ")
    assert out[-1] == "runs/mine"
    assert len(list(Path("runs/mine").glob("*-seed0-*/metrics.json"))) == 2
    assert {file.name for file in Path("runs/mine/figures").iterdir()} == {"ablation_fvu.png", "curves.png"}


def test_doctor_is_ready_on_the_configurations_that_are_shipped(call, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    for name in ("default", "smoke"):
        status, out, err = call("doctor", "--config", f"configs/{name}.yaml")
        assert status == 0, out
        assert out[-1] == "ready"
        assert [line for line in out if line.startswith("FAIL")] == []
        assert all(line.startswith("INFO") for line in err)
        assert sum(line.startswith("ok    gradient at ") for line in out) == 7


def test_doctor_names_the_steps_that_are_needed(call) -> None:
    status, out, err = call("doctor", "--config", str(ROOT / "configs" / "default.yaml"), "--model.steps", "3")
    assert (status, err, out[-1]) == (1, [], "NOT ready")
    (line,) = (line for line in out if line.startswith("FAIL"))
    for part in ("light cone", "Received steps=3", "7 steps are needed", "Set steps to 7 or more"):
        assert part in line


def test_an_experiment_that_is_stopped_says_how_to_go_on(folder, call, monkeypatch) -> None:
    start = callbacks.SeedEachBatch.on_train_batch_start

    def interrupt(self, trainer, *rest) -> None:
        if trainer.global_step == 2:
            signal.raise_signal(signal.SIGTERM)
        start(self, trainer, *rest)

    monkeypatch.setattr(callbacks.SeedEachBatch, "on_train_batch_start", interrupt)
    (folder / "mine.yaml").write_text(yaml.safe_dump({"base": "tiny.yaml", "seeds": [0], "variants": {"plain": {}}}))
    status, _, err = call("experiment", "--config", "mine.yaml")
    assert status == 128 + signal.SIGTERM
    assert "stopped by SIGTERM; saved" in err[-1]
    assert "call the same command again to go on" in err[-1]


def test_the_cache_is_listed_verified_and_pruned(folder, call) -> None:
    class Teacher:
        source, fingerprint, dim = "a/teacher", "f" * 64, 3

        def encode(self, texts, batch_size=32, progress=False):
            return np.ones((len(texts), 3), dtype=np.float32)

    EmbeddingCache("c").embed(Teacher(), ["one", "two"])
    status, out, _ = call("cache", "ls", "--root", "c")
    assert status == 0
    assert out[0].split() == ["teacher", "source", "texts", "dim", "MB", "last", "used"]
    assert out[2].split()[:5] == ["f" * 12, "a/teacher", "2", "3", "0.0"]
    assert call("cache", "verify", "--root", "c")[:2] == (0, ["c: 0 damaged"])
    (shard,) = Path("c").glob("*/*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-1])
    status, out, _ = call("cache", "verify", "--root", "c")
    assert status == 1
    assert out[0] == f"damaged: {shard}; delete it, and its embeddings will be computed again"
    assert call("cache", "prune", "--root", "c", "--max_gb", "0")[:2] == (0, ["c: deleted 0.0 MB"])
    assert not shard.exists()
    for words in (("prune",), ("ls", "--max_gb", "1")):
        status, _, err = call("cache", *words)
        assert status == 2
        assert "prune needs --max_gb" in err[0]


def test_describe_a_full_cube(call) -> None:
    status, out, err = call("describe", "--spec.shape", "[8, 8, 8]", "--spec.connectivity", "full")
    assert (status, err) == (0, [])
    assert out[0] == "8 × 8 × 8 = 512 cells, full, open, raster"
    assert out[1] == "max radius 1.60   thresholds 0.16 / 1.04 / 1.60"
    degrees = {line.split()[0]: line.split()[1] for line in out[2:6]}
    assert degrees == {"local": "0–0", "functional": "3–6", "distant": "505–508", "all": "511"}
    assert out[-1] == "light cone, z- to z+: 1 step"


def test_describe_a_cube_of_radius(call) -> None:
    _, out, _ = call("describe", "--spec.shape", "[8, 8, 8]")
    degrees = {line.split()[0]: line.split()[1] for line in out[2:6]}
    assert degrees == {"local": "0–0", "functional": "3–6", "distant": "3–12", "all": "6–18"}
    assert out[-1] == "light cone, z- to z+: 7 steps"
    _, out, _ = call("describe", "--spec.shape", "[8, 8, 8]", "--spec.boundary", "periodic", "--outputs.face", "x+")
    assert out[-1] == "light cone, z- to x+: 4 steps"


def test_describe_in_json(call) -> None:
    _, out, _ = call("describe", "--spec.shape", "[8, 8, 8]", "--json")
    content = json.loads("\n".join(out))
    assert (content["shape"], content["cells"], content["steps_needed"]) == ([8, 8, 8], 512, 7)
    assert content["max_radius"] == pytest.approx(1.6)
    assert content["thresholds"] == pytest.approx([0.16, 1.04, 1.6])
    tiers = {row["tier"]: (row["min_degree"], row["max_degree"]) for row in content["tiers"]}
    assert tiers == {"local": (0, 0), "functional": (3, 6), "distant": (3, 12)}


def test_describe_says_why_no_signal_crosses(call) -> None:
    words = ("describe", "--spec.shape", "[3, 3, 3]", "--spec.radii", "[0.1, 0.2, 0.3]")
    status, out, _ = call(*words)
    assert status == 0
    assert out[-1].startswith("light cone, z- to z+: The output ports must lie inside")
    _, out, _ = call(*words, "--json")
    assert json.loads("\n".join(out))["steps_needed"] is None


def test_export_can_be_read_by_networkx(call, tmp_path) -> None:
    file = tmp_path / "cube.graphml"
    status, out, err = call("export", "--spec.shape", "[3, 3, 3]", "--spec.connectivity", "full", "--output", str(file))
    assert (status, out, err) == (0, [str(file)], [])
    graph = nx.read_graphml(file)
    assert len(graph) == 27
    others = [(a, b) for a, b in graph.edges() if a != b]
    assert len(others) == 27 * 26
    distances = {data["distance"] for a, b, data in graph.edges(data=True) if a != b}
    assert min(distances) == pytest.approx(1)
    assert max(distances) == pytest.approx(12**0.5)


@pytest.mark.parametrize("suffix", [".gexf", ".json"])
def test_export_takes_the_format_from_the_name(suffix, call, tmp_path) -> None:
    file = tmp_path / f"cube{suffix}"
    status, out, err = call("export", "--spec.shape", "[2, 3, 2]", "--output", str(file))
    assert (status, out, err) == (0, [str(file)], [])
    graph = lg.from_networkx(lg.read_network(file))
    assert graph.grid_shape == (2, 3, 2)
    assert torch.equal(graph.edge_index, lg.build_graph(lg.LatticeSpec((2, 3, 2))).edge_index)


def test_help_and_version(call) -> None:
    status, out, _ = call("--help")
    assert status == 0
    assert [line.split()[0] for line in out if line.startswith("  ")] == list(COMMANDS)
    assert call()[0] == 2
    assert call("--version") == (0, [f"latticegnn {__version__}"], [])
    for command in COMMANDS:
        status, out, _ = call(command, "--help")
        assert (status, out[0].split()[:3]) == (0, ["usage:", "latticegnn", command])


def test_an_interrupted_run_says_so(call, monkeypatch) -> None:
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("latticegnn.commands.runs.fit", interrupt)
    status, _, err = call("fit")
    assert status == 130
    assert err == ["latticegnn: interrupted; what was saved stays in the run folder."]


@pytest.mark.parametrize(
    ("words", "text"),
    [(("-m", "latticegnn", "--help"), "usage: latticegnn COMMAND"), (("scripts/train.py", "--help"), "latticegnn fit")],
)
def test_the_program_runs_as_a_process(words, text) -> None:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    command = [sys.executable, *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert text in done.stdout
