"""A configuration chooses the gradient, and training goes its way."""

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from latticegnn.lattice import LatticeSpec
from latticegnn.model import LatticeModel
from latticegnn.nn import Implicit
from latticegnn.nn.gradient import Checkpointed, Full, GradientMode, Truncated
from latticegnn.report.run import read_history
from latticegnn.training.estimate import StepMemory, step_memory

MODES: dict[str, tuple[object, type[GradientMode]]] = {
    "null": (None, Full),
    "full": ("full", Full),
    "checkpointed": ("checkpointed", Checkpointed),
    "truncated": ({"truncated": {"steps": 3}}, Truncated),
    "implicit": ({"implicit": {"tolerance": 0.01}}, Implicit),
}


@pytest.fixture(scope="module")
def trained(start, tiny_config, tmp_path_factory):
    """One short run of each mode: its model, weights and history."""
    found = {}
    for name, (setting, _) in MODES.items():
        folder = tmp_path_factory.mktemp(name)
        content = yaml.safe_load(tiny_config.read_text())
        content["model"] |= {"gradient": setting, "clamp": True, "steps": 16}
        (folder / "run.yaml").write_text(yaml.safe_dump(content))
        run = start(folder / "runs", config=folder / "run.yaml")
        run.execute()
        found[name] = run, load_file(run.folder / "model" / "model.safetensors"), read_history(run.folder)
    return found


@pytest.mark.parametrize("name", MODES)
def test_each_mode_trains_from_yaml(name, trained) -> None:
    run, _, _ = trained[name]
    model = run.cli.model.lattice
    assert type(model.gradient) is MODES[name][1]
    assert json.loads((run.folder / "model" / "config.json").read_text())["model"]["gradient"] == MODES[name][0]
    losses = run.cli.model.losses
    assert len(losses) == 7
    assert sum(losses[-2:]) < sum(losses[:2])


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], value) for name, value in other.items())


def test_exact_modes_train_to_the_same_bits_and_others_do_not(trained) -> None:
    weights = {name: found[1] for name, found in trained.items()}
    assert same(weights["full"], weights["null"])
    assert same(weights["checkpointed"], weights["null"])
    assert not same(weights["truncated"], weights["null"])
    assert not same(weights["implicit"], weights["null"])


def test_the_log_says_how_well_the_adjoint_was_solved(trained) -> None:
    logged = {name: set(history) for name, (_, _, history) in trained.items()}
    assert {"adjoint/change", "adjoint/residual"} <= logged["implicit"]
    assert not {"adjoint/change", "adjoint/residual"} & logged["full"]
    residuals = [value for _, value in trained["implicit"][2]["adjoint/residual"]]
    assert residuals
    assert all(0 < value <= 0.01 for value in residuals)


def test_the_estimate_of_memory_knows_what_is_kept() -> None:
    def found(gradient: object, steps: int) -> StepMemory:
        spec = LatticeSpec((4, 4, 4), radii=(0.5, 1.0, 1.5))
        model = LatticeModel(spec, 8, channels=4, hidden=4, steps=4, clamp=True, gradient=gradient, execution="fused")
        return step_memory(model, 2, steps, 2**30)

    state = 4 * 64 * 2 * 4
    one = found("full", 2).kept - found("full", 1).kept
    assert found("full", 40).kept == found("full", 1).kept + 39 * one
    assert found({"truncated": {"steps": 3}}, 40) == found("full", 3)
    implicit = found({"implicit": {}}, 40)
    assert implicit == found({"implicit": {}}, 4)
    assert implicit.kept == found("full", 1).kept
    assert implicit.work == found("full", 1).work + 22 * state


@pytest.mark.parametrize("words", ["checkpointed", "{truncated: {steps: 3}}", "{implicit: {solver: iteration}}"])
def test_the_command_line_takes_what_yaml_takes(words, start, tmp_path) -> None:
    run = start(tmp_path, "--model.gradient", words, "--model.clamp", "true")
    assert run.cli.model.lattice.settings["gradient"] == yaml.safe_load(words)
