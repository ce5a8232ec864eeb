"""Quality over output ports and steps: the plain twin, the light cone's edge, refusals."""

import math

import pytest
import torch

from latticegnn.analysis import Surface, cosine, fvu, quality_surface, reciprocal_rank
from latticegnn.data import EmbeddingData
from latticegnn.lattice import LatticeSpec, Nested, Ports
from latticegnn.model import LatticeModel
from latticegnn.training.losses import LossWeights
from latticegnn.training.readout import refit_readout

SPEC = LatticeSpec((3, 3, 5), radii=(0.5, 1.0, 1.5))
D = 12


def make(**settings) -> LatticeModel:
    ends = {"inputs": Ports("z-", "nested"), "outputs": Ports("z+", "nested")}
    model = LatticeModel(SPEC, D, steps=5, **ends | settings)
    rows = sample()
    model.fit_maps(rows, rows)
    return model


def sample(count: int = 60) -> torch.Tensor:
    return torch.randn(count, D, generator=torch.Generator().manual_seed(0)) * 0.7 ** torch.arange(D)


@pytest.mark.parametrize("skip", [False, True])
def test_each_place_is_a_rollout_of_its_own(skip) -> None:
    model, rows, mean = make(skip=skip, prefixes=[2, 9]), sample(), sample().mean(0)
    targets = rows.roll(1, dims=1)
    surface = quality_surface(model, rows, targets, [9, 2, 5], [5, 7], mean, pairs=True, batch_size=25)
    assert model.training, "the model is left as it was"
    assert [(row["steps"], row["ports"]) for row in surface] == [(t, k) for t in (5, 7) for k in (9, 2, 5)]
    model.eval()
    for row in surface:
        with torch.no_grad():
            plain = model.rollout(rows, row["steps"], ports=row["ports"]).embedding
        assert row["fvu"] == pytest.approx(fvu(plain, targets, mean), rel=1e-5)
        assert row["cosine"] == pytest.approx(cosine(plain, targets), rel=1e-5, abs=1e-7)
        assert row["mrr@10"] == pytest.approx(float(reciprocal_rank(plain, targets).mean()), rel=1e-5)


def test_more_ports_tell_more_where_the_readout_was_solved_for_each() -> None:
    model, splits = make(prefixes=[2, 4, 9]), EmbeddingData.from_arrays(sample(300).numpy()).splits
    refit_readout(model, splits["train"], splits["validation"], LossWeights())
    (rows, targets), mean = splits["test"].tensors(), splits["train"].targets.mean(0)
    surface = quality_surface(model, rows, targets, [2, 4, 9], [5], mean)
    few, some, every = (row["fvu"] for row in surface)
    assert few > some > every < 1
    assert "mrr@10" not in surface[0]


def test_before_the_light_cone_arrives_the_answer_does_not_hang_on_the_question() -> None:
    rows, model = sample(), make()
    early, swapped = (quality_surface(model, e, rows, [3, 9], [3], rows.mean(0)) for e in (rows, rows.flip(0)))
    late, other = (quality_surface(model, e, rows, [3, 9], [4], rows.mean(0)) for e in (rows, rows.flip(0)))
    assert early == swapped
    assert late != other


def test_a_rollout_that_diverges_is_told_and_stops_nothing() -> None:
    model, rows = make(), sample()
    with torch.no_grad():
        for weight in model.cell.bypass.parameters():
            weight.mul_(30)
    whole, lost = quality_surface(model, rows, rows, [9], [1, 300], rows.mean(0), pairs=True)
    assert all(math.isfinite(value) for value in whole.values())
    assert all(math.isnan(lost[metric]) for metric in ("fvu", "cosine", "mrr@10"))


@pytest.mark.parametrize(
    ("build", "rule", "received", "remedy"),
    [
        (lambda: Surface([], [5]), "both ports and steps", "ports []", "surface: {ports"),
        (lambda: Surface([4], []), "both ports and steps", "steps []", "surface: {ports"),
        (lambda: Surface([4], [8, -1]), "not be negative", "[8, -1]", "0 or more"),
        (lambda: Surface([4, 10], [5]).check(make()), "from 1 to 9", "got 10", "take one of these"),
        (lambda: Surface([4], [5]).check(make(outputs=Ports("z+"))), "in an order", "4 of 9", "placement: nested"),
        (
            lambda: quality_surface(make(outputs=Ports("z+", Nested(4))), sample(), sample(), [9], [5], torch.zeros(D)),
            "from 1 to 4", "got 9", "take one of these",
        ),
    ],
)  # fmt: skip
def test_refusals(build, rule, received, remedy, refuses) -> None:
    with refuses(rule, received, remedy):
        build()
