"""Peers are what they are called, take their turns, and their tables divide the right figures."""

import itertools
import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.peers import automata, environment, measure, page, parity, sentences
from benchmarks.peers.child import timed
from benchmarks.peers.egnca import EdgeAutomaton
from benchmarks.peers.process import Peer, interleaved
from latticegnn.analysis.baselines import principal_components
from latticegnn.benchmarks import peer

TINY = peer.Case(3, 2, 2)


@pytest.fixture
def waiting(tmp_path, monkeypatch) -> str:
    """A peer that needs nothing but Python, and writes down its turns."""
    turns = tmp_path / "turns"
    (tmp_path / "stand_in.py").write_text(
        "import os\n"
        "from benchmarks.peers.child import serve\n"
        "def prepare(name, fails=False):\n"
        "    print('a library that talks')\n"
        "    def make_round(number):\n"
        f"        open({str(turns)!r}, 'a').write(f'{{name}}{{number}} ')\n"
        "        if fails:\n"
        "            raise MemoryError('no room for this')\n"
        "        return {'training': 2.0 if name == 'a' else 1.0}\n"
        "    cores = list(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else [0]\n"
        "    return {'parameters': 3, 'cores': cores}, make_round\n"
        "serve(prepare)\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "stand_in"


def test_peers_take_turns_in_processes_of_their_own(waiting, tmp_path) -> None:
    found = interleaved({name: (waiting, {"name": name}) for name in "ab"}, rounds=3)
    assert (tmp_path / "turns").read_text(encoding="utf-8").split() == ["a0", "b0", "a1", "b1", "a2", "b2"]
    assert found["a"]["rounds"] == [{"training": 2.0}] * 3
    assert found["b"]["parameters"] == 3
    assert found["a"]["cores"] == found["b"]["cores"]
    assert len(found["a"]["cores"]) == 1
    if sys.platform == "linux":
        assert 5 < found["b"]["libraries_mb"] <= found["b"]["peak_mb"] < 100


def test_a_peer_that_dies_says_why(waiting, refuses) -> None:
    one = Peer(waiting, {"name": "a", "fails": True})
    with refuses("must live to its end", "MemoryError: no room for this", "leave this peer out", ChildProcessError):
        one.round(0)
    one.kill()


def test_times_are_of_every_action(monkeypatch) -> None:
    monkeypatch.setattr("benchmarks.peers.child.LEAST_SECONDS", 0.002)
    sizes = {"small": torch.ones(8, 8), "large": torch.ones(400, 400)}
    first, make_round = timed({name: lambda one=one: one @ one for name, one in sizes.items()})
    times = make_round(0)
    assert list(first) == list(times) == ["small", "large"]
    assert 0 < times["small"] < times["large"]


@pytest.mark.parametrize("steps", [1, 3])
def test_27_offsets_are_the_convolution(steps) -> None:
    found = parity.offsets(*parity.reference((3, 4, 2), steps=steps), steps)
    assert found.last < 1e-6
    assert found.gradient < 1e-6


def test_automata_that_differ_are_not_timed(refuses) -> None:
    automaton, arrays = parity.reference((3, 4, 2))
    with torch.no_grad():
        automaton.inner.bias += 1e-3
    with refuses("compute the same to 1e-05", "the cell differs by", "compare its layout"):
        parity.check("the cell", parity.offsets(automaton, arrays))


def test_messages_on_edges_are_those_of_the_formula() -> None:
    torch.manual_seed(0)
    layer, h = EdgeAutomaton((2, 3, 2), 2, 5).double(), torch.randn(2, 12, 2).double()
    cells = torch.tensor(list(itertools.product(range(2), range(3), range(2))))
    expected = h.clone()
    for b, i in itertools.product(range(2), range(12)):
        heard = torch.zeros(5).double()
        for j in range(12):
            offset = cells[i] - cells[j]
            if i != j and int(offset.abs().max()) <= 1:
                square = offset.square().sum().double()[None]
                heard = heard + layer.edge(torch.cat([h[b, i], h[b, j], square]))
        expected[b, i] += layer.node(torch.cat([h[b, i], heard]))
    torch.testing.assert_close(layer(h), expected, rtol=1e-10, atol=1e-10)


def test_messages_on_edges_do_not_know_directions() -> None:
    """Turning the cube by a quarter turns the answer: the invariance that E(n)-GNCA is named for."""
    torch.manual_seed(0)
    layer, h = EdgeAutomaton((3, 3, 3), 2, 4), torch.randn(1, 27, 2)

    def turned(state: torch.Tensor) -> torch.Tensor:
        return torch.rot90(state.view(1, 3, 3, 3, 2), 1, (1, 3)).reshape(1, 27, 2)

    torch.testing.assert_close(layer(turned(h)), turned(layer(h)), rtol=1e-5, atol=1e-6)


def test_variants_on_torch_are_timed_and_laid_out(monkeypatch) -> None:
    monkeypatch.setattr("benchmarks.peers.child.LEAST_SECONDS", 0.0)
    found = {}
    for variant in (peer.CONV, automata.OFFSETS, automata.EDGES, automata.OURS_EAGER):
        facts, make_round = automata.prepare(variant, **vars(TINY))
        found[variant] = facts | {"rounds": [make_round(0), make_round(1)], "peak_mb": 2.0, "libraries_mb": 1.0}
        assert all(time > 0 for made in found[variant]["rounds"] for time in made.values())
        found[variant]["cell_steps"] = 27 * 2 * 2
    counts = {name: figures["parameters"] for name, figures in found.items()}
    assert counts[peer.CONV] == 27 * 64 + 64 * 64 + 64 + 64 * 16 + 16
    assert counts[automata.EDGES] == 33 * 64 + 64 + 64 * 64 + 64 + 80 * 64 + 64 + 64 * 16 + 16
    assert abs(counts[automata.OURS_EAGER] - counts[peer.CONV]) <= 0.02 * counts[peer.CONV]
    same, timing = page.same(measure.compare(None)), page.timing(str(TINY), found)
    against = page.head_to_head({str(TINY): found})
    assert [row["variant"] for row in timing.rows] == list(found)
    assert timing.rows[0]["training ÷ Conv3d"] == "1 [1 – 1]"
    assert [row["case, peer"] for row in against.rows] == [f"{TINY}: {peer.CONV}", f"{TINY}: {automata.EDGES}"]
    assert [row["against Conv3d"] for row in same.rows] == [automata.OFFSETS]


def test_ratios_are_taken_round_by_round() -> None:
    made = [{"training": 4.0, "forward": 1.0}, {"training": 30.0, "forward": 9.0}]
    facts = {"parameters": 1, "first_seconds": 0.1, "peak_mb": math.nan, "libraries_mb": 1.0, "cell_steps": 1000}
    found = {peer.CONV: facts | {"rounds": made}, "ours": facts | {"rounds": [made[0], {"training": 10, "forward": 9}]}}
    (row,) = page.head_to_head({"case": found}).rows
    assert row["÷ ours"] == "2 [1 – 3]"  # not the ratio of the medians, 17 / 7
    text = page.written(measure.Machine.here(), [1.25, 3.0], 2, [page.timing("case", found)])
    assert "Load average 1.2 at the start and 3.0 at the end" in text
    assert "| ours | 1 | 5 | 1 [1 – 1] | 7 | 0.667 [0.333 – 1] | – | 1 | 0.1 |" in text


def test_the_recipe_in_dense_layers_is_pca(monkeypatch) -> None:
    pytest.importorskip("sentence_transformers")
    monkeypatch.setattr(sentences, "CODE", 3)
    rows = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)) @ torch.tensor([3.0, 2, 1, 0.5, 0.1]).diag()
    made = sentences.principal_components(rows + 1)
    torch.testing.assert_close(made.answer(rows + 1), principal_components(rows + 1, 3)(rows + 1).embedding)
    assert made.parameters == 5 * 3 + 3 * 5 + 5


def test_a_student_learns_at_the_rate_that_validation_prefers(monkeypatch) -> None:
    pytest.importorskip("sentence_transformers")
    monkeypatch.setattr(sentences, "CODE", 3)
    monkeypatch.setattr(sentences, "RATES", (1e-9, 1e-2))
    rows = torch.randn(80, 5, generator=torch.Generator().manual_seed(0))
    made = sentences.student(rows, rows[:20], 200, seed=0)
    assert float((made.answer(rows) - rows).square().mean()) < 0.6  # untaught: above 1; PCA-3: about a third
    assert made.parameters == 5 * 3 + 3 + 3 * 5 + 5


def test_sentences_are_laid_out_with_their_spread() -> None:
    one = {"parameters": 7, "fvu": 0.4, "cosine": 0.8, "neighbour_recall@10": 0.7}
    facts = {"rows": 2800, "held_out": 60, "epochs": 3, "updates": 12}
    found = {
        sentences.LATTICE: facts | {"rounds": [one | {"seconds": 6.0}, one | {"seconds": 8.0, "fvu": 0.5}]},
        sentences.PCA: facts | {"rounds": [one | {"seconds": 2.0}, one | {"seconds": 1.0}]},
    }
    ours, theirs = page.embeddings(found).rows
    assert (ours["fvu"], ours["training, s"], ours["ours ÷ it"]) == ("0.450 ± 0.071", 7.0, "1 [1 – 1]")
    assert (theirs["fvu"], theirs["ours ÷ it"]) == ("0.400 ± 0.000", "5.5 [3 – 8]")


@pytest.mark.slow
def test_the_quick_form_is_measured_from_end_to_end(tmp_path, monkeypatch, capsys) -> None:
    """With variants that need no compiler."""
    monkeypatch.setattr(automata, "VARIANTS", (peer.CONV, automata.OURS_EAGER))
    page_file, found_file = tmp_path / "peers.md", tmp_path / "peers.json"
    words = ["--quick", "--rounds", "2", "--markdown", str(page_file), "--json", str(found_file)]
    assert measure.main(words) == 0
    assert not page_file.exists(), "the quick form is no page"
    (found,) = json.loads(found_file.read_text(encoding="utf-8"))["speed"].values()
    assert list(found) == [peer.CONV, automata.OURS_EAGER]
    for figures in found.values():
        assert [set(made) for made in figures["rounds"]] == [{"forward", "training"}] * 2
        assert min(made["training"] - made["forward"] for made in figures["rounds"]) > 0
    assert "Head to head, training" in capsys.readouterr().out


@pytest.mark.parametrize(("rounds", "words"), [("0", "take 5"), ("-3", "got -3")])
def test_rounds_are_at_least_one(rounds, words) -> None:
    with pytest.raises(ValueError, match=words):
        measure.main(["--rounds", rounds])


def test_an_environment_that_is_there_is_taken(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("LATTICEGNN_CACHE", str(tmp_path))
    there = tmp_path / "peers" / "cax"
    (there / "bin").mkdir(parents=True)
    (there / "bin" / "python").symlink_to(sys.executable)
    shutil.copyfile(environment.HERE / "requirements-cax.txt", there / environment.STAMP)
    assert environment.python("cax") == there / "bin" / "python"


@pytest.mark.slow
def test_an_environment_is_made_once_and_again_when_its_pins_change(tmp_path, monkeypatch, refuses) -> None:
    monkeypatch.setenv("LATTICEGNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(environment, "HERE", tmp_path)
    pins = tmp_path / "requirements-one.txt"
    pins.write_text("# nothing\n", encoding="utf-8")
    found = environment.python("one")
    assert found == tmp_path / "cache" / "peers" / "one" / "bin" / "python"
    made = found.lstat().st_mtime_ns
    assert environment.python("one").lstat().st_mtime_ns == made
    found.unlink()  # as where the Python that it was made with is gone
    assert environment.python("one").exists()
    pins.write_text("no such == requirement\n", encoding="utf-8")
    with refuses("environment must install", "requirements-one.txt", "run this again", ChildProcessError):
        environment.python("one")
    assert not (found.parents[1] / environment.STAMP).exists()


@pytest.mark.slow
def test_cax_computes_the_same() -> None:
    """Where its environment can be had."""
    try:
        python = environment.python("cax")
    except ChildProcessError as error:
        pytest.skip(str(error))
    arrays = dict(parity.reference(steps=3)[1])
    parity.check("CAX", parity.cax(Path(python), arrays, 3))
    arrays["inner.bias"] = arrays["inner.bias"] + np.float32(1e-3)
    assert parity.cax(Path(python), arrays, 3).last > parity.TOLERANCE
