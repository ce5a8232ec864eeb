"""Steps used against quality: what is measured is what rollouts give."""

import math

import pytest
import torch

from latticegnn.analysis import cosine, fvu, reciprocal_rank, steps_against_quality
from latticegnn.lattice import LatticeSpec
from latticegnn.model import LatticeModel

SPEC = LatticeSpec((3, 3, 5), radii=(0.5, 1.0, 1.5))
RULE = {"relative": {"tolerance": 0.06}, "max_steps": 15}


@pytest.fixture
def model() -> LatticeModel:
    return LatticeModel(SPEC, embedding_dim=12, channels=4, hidden=4, steps=5, clamp=True)


def rows(count: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    scale = torch.logspace(-1, 1, count).unsqueeze(1)
    return scale * torch.randn(count, 12, generator=generator), torch.randn(count, 12, generator=generator)


def test_figures_are_those_of_the_rollouts(model) -> None:
    inputs, targets = rows()
    mean = torch.zeros(12)
    fixed, ruled = steps_against_quality(model, inputs, targets, mean, True, {"6": 6, "rule": RULE}, batch_size=7)
    with torch.no_grad():
        out = model.rollout(inputs, steps=6).embedding
        halted = model.rollout(inputs, stopping=RULE)
    assert (fixed["rule"], fixed["steps"], fixed["steps_10"], fixed["steps_90"]) == ("6", 6.0, 6, 6)
    assert math.isnan(fixed["settled"])
    for found, prediction in ((fixed, out), (ruled, halted.embedding)):
        assert found["fvu"] == pytest.approx(fvu(prediction, targets, mean), rel=1e-5)
        assert found["cosine"] == pytest.approx(cosine(prediction, targets), rel=1e-5)
        assert found["mrr@10"] == pytest.approx(float(reciprocal_rank(prediction, targets).mean()), rel=1e-5)
    taken = sorted(halted.steps.tolist())
    assert ruled["steps"] == pytest.approx(sum(taken) / 20)
    assert (ruled["steps_10"], ruled["steps_50"], ruled["steps_90"]) == (taken[2], taken[10], taken[18])
    assert ruled["settled"] == pytest.approx(float(halted.settled.double().mean()))
    assert 0 < ruled["settled"] < 1, "a rule that all or none satisfy shows nothing"
    assert "mrr@10" not in steps_against_quality(model, inputs, targets, mean, False, {"6": 6})[0]


def test_a_rollout_that_diverges_is_told_as_what_it_is(model) -> None:
    with torch.no_grad():
        model.cell.step.fill_(1e6)
    inputs, targets = rows()
    (found,) = steps_against_quality(model, inputs, targets, torch.zeros(12), True, {"far": 30})
    assert all(math.isnan(found[name]) for name in ("fvu", "cosine", "mrr@10"))
