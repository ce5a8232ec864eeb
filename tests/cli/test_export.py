"""latticegnn export: a lattice, or a trained model as a program, and what contradicts itself."""

import json

import pytest
import torch

import latticegnn as lg


@pytest.fixture
def run(folder):
    """A run's folder with a model that stops by itself, and the name of its teacher."""
    spec = lg.LatticeSpec(shape=(3, 3, 3), connectivity="full")
    model = lg.LatticeModel(spec, 6, channels=3, steps=1, stopping={"absolute": {"tolerance": 0.1}})
    model.save_pretrained(folder / "run" / "model")
    (folder / "run" / "model" / "teacher.json").write_text('{"source": "packaged:minilm"}')
    return folder / "run"


def test_a_run_becomes_a_program(run, call) -> None:
    status, out, err = call("export", "--model", "run", "--output", "cube.pt2", "--steps", "1")
    assert (status, out) == (0, ["cube.pt2"])
    assert err[0].startswith("1 steps; differs from the model by at most ")
    told = json.loads((run.parent / "cube.pt2.json").read_text())
    assert told["teacher"] == {"source": "packaged:minilm"}
    e = torch.randn(3, 6)
    with torch.no_grad():
        wanted = lg.LatticeModel.from_pretrained("run/model").rollout(e, steps=1).embedding
    found, _ = torch.export.load("cube.pt2").module()(e)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


MISTAKES = {
    "no steps": (("--model", "run", "--output", "cube.pt2"), ("the same number of steps", "'absolute'", "give steps")),
    "no model": (("--output", "cube.pt2"), ("made of a trained model", "'cube.pt2' without", "add for instance")),
    "no such ending": (("--model", "run", "--output", "cube.bin"), ("whose name ends in", "'cube.bin'", "name it so")),
    "two lattices": (
        ("--model", "run", "--output", "cube.pt2", "--spec.shape=[3, 3, 3]"),
        ("has its own lattice", "--model beside --spec.shape", "leave one of them out"),
    ),
    "steps of a graph": (
        ("--output", "cube.graphml", "--steps", "2"), ("for a trained model", "without --model", "leave it out"),
    ),
    "no run": (("--model", "none", "--output", "cube.pt2"), ("a run's folder or a saved", "none is", "runs/latest")),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_what_contradicts_itself_is_one_line(name, run, call) -> None:
    words, parts = MISTAKES[name]
    before = sorted(run.parent.iterdir())
    status, out, err = call("export", *words)
    assert (status, out, len(err)) == (2, [], 1)
    for part in parts:
        assert part in err[0]
    assert sorted(run.parent.iterdir()) == before
