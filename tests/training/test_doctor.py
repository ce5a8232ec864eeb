"""Readiness: gradients reach what is to be trained, and what stands in the way is named."""

import pytest
import torch

from latticegnn.lattice import LatticeSpec
from latticegnn.model import LatticeModel
from latticegnn.training.doctor import Finding, examine, gradients

PARTS = [
    "gradient at expert local", "gradient at expert functional", "gradient at expert distant", "gradient at gate",
    "gradient at bypass", "gradient at maps", "gradient at input through the volume",
]  # fmt: skip


def found(arguments: list[str]) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(arguments)}


def make(**settings) -> LatticeModel:
    spec = LatticeSpec((3, 3, 5), radii=(0.5, 1.0, 1.5))
    return LatticeModel(spec, **{"embedding_dim": 12, "channels": 4, "hidden": 4, "steps": 5} | settings)


def test_everything_is_in_order(tiny_config) -> None:
    report = found(["--config", str(tiny_config)])
    assert all(finding.ok for finding in report.values())
    assert [name for name in report if name.startswith("gradient")] == PARTS
    assert report["configuration"].text == "cell 406, maps 293, total 699"
    assert report["tier distant"].text == "3–12 neighbours, 272 edges"
    assert report["light cone"].text == "9 of 9 output ports reached within 5 steps, the last after 4"
    assert report["data"].text.endswith("train 114, validation 18, test 18 rows")


def test_too_few_steps_end_the_examination(tiny_config) -> None:
    report = found(["--config", str(tiny_config), "--model.steps", "3"])
    assert list(report) == ["torch", "configuration"]
    assert not report["configuration"].ok
    assert "steps=3" in report["configuration"].text
    assert "4 steps are needed" in report["configuration"].text


def test_a_blind_lattice_is_seen_through(tiny_config) -> None:
    words = ["--config", str(tiny_config), "--model.steps", "3", "--model.require_light_cone", "false"]
    report = found(words)
    assert (report["light cone"].ok, report["light cone"].text) == (
        False,
        "0 of 9 output ports reached within 3 steps; it takes 4 steps",
    )
    bad = report["gradient at input through the volume"]
    assert (bad.ok, bad.text.partition(";")[0]) == (False, "0")
    assert "check experts, steps and ports" in bad.text


def test_ports_without_any_way_need_a_larger_radius(tiny_config) -> None:
    words = ["--model.spec.radii", "[0.1, 0.2, 0.3]", "--model.require_light_cone", "false"]
    cone = found(["--config", str(tiny_config), *words])["light cone"]
    assert not cone.ok
    assert cone.text.endswith("it takes a larger radius or connectivity: full")


def test_the_direct_path_does_not_hide_a_blind_volume() -> None:
    model = make(skip=True, steps=3, require_light_cone=False)
    assert not {f.name: f.ok for f in gradients(model)}["gradient at input through the volume"]


@pytest.mark.parametrize("skip", [False, True])
def test_gradients_are_those_of_the_squared_answer(skip) -> None:
    model = make(skip=skip)
    report = {finding.name: finding.text for finding in gradients(model, batch=4)}
    assert all(p.grad is None for p in model.parameters()), "nothing is left behind"
    embedding = torch.randn(4, 12, generator=torch.Generator().manual_seed(0))
    out = model(embedding).embedding
    (out - embedding if skip else out).square().sum().backward()
    for name, part in {"gate": model.cell.gate, "maps": model.transformer}.items():
        norm = torch.cat([p.grad.flatten() for p in part.parameters()]).norm().item()
        assert report[f"gradient at {name}"] == f"{norm:.3g}"


def test_data_that_cannot_be_read_is_found(tiny_config, tmp_path) -> None:
    report = found(["--config", str(tiny_config), "--data.path", str(tmp_path / "none.npy")])
    assert not report["data"].ok
    assert str(tmp_path / "none.npy") in report["data"].text
    assert all(finding.ok for name, finding in report.items() if name != "data")
