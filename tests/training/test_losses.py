"""The loss terms: values computed by hand, exact gradients, and weights that are checked."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from latticegnn.training.losses import TERMS, LossWeights, cosine, loss_terms, reconstruction


def test_reconstruction_sums_over_dimensions_and_averages_over_rows() -> None:
    prediction, target = torch.tensor([[1.0, 2.0], [0.0, -1.0]]), torch.tensor([[0.0, 0.0], [0.0, 2.0]])
    assert reconstruction(prediction, target).item() == pytest.approx((1 + 4 + 9) / 2)
    assert reconstruction(target, target).item() == 0


def test_cosine_is_free_of_scale_and_ends_at_two() -> None:
    target = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    diagonal = torch.tensor([[0.1, 0.0], [5.0, 5.0]])
    assert cosine(diagonal, target).item() == pytest.approx(((1 - 0.6) + (1 - math.sqrt(0.5))) / 2)
    assert cosine(7 * target, target).item() == pytest.approx(0, abs=1e-6)
    assert cosine(-target, target).item() == pytest.approx(2)


@pytest.mark.parametrize("name", TERMS)
def test_gradients_are_exact(name) -> None:
    generator = torch.Generator().manual_seed(0)
    prediction, target = torch.randn(2, 4, 5, dtype=torch.float64, generator=generator)
    assert gradcheck(TERMS[name], (prediction.requires_grad_(), target.requires_grad_()))


def test_terms_are_weighted_and_a_weight_of_zero_leaves_one_out() -> None:
    prediction, target = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    terms = loss_terms(prediction, target, LossWeights(reconstruction=0.5, cosine=3.0))
    assert {name: value.item() for name, value in terms.items()} == {"reconstruction": 2.5, "cosine": 3.0}
    assert list(loss_terms(prediction, target, LossWeights(reconstruction=0.0))) == ["cosine"]


@pytest.mark.parametrize("value", [-0.1, float("nan")])
def test_a_weight_below_zero_is_refused(value, refuses) -> None:
    with refuses("loss.cosine must be 0 or more", f"got {value}", "set it to 0"):
        LossWeights(cosine=value)


def test_some_weight_must_be_left(refuses) -> None:
    with refuses("at least one loss weight must be above 0", "all are 0", "set loss.reconstruction to 1"):
        LossWeights(0.0, 0.0)
