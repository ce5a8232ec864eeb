"""Retention: known answers, a model left as it was, and what is refused."""

import pytest
import torch

from latticegnn.analysis import fvu, retention
from latticegnn.lattice import LatticeSpec
from latticegnn.model import LatticeModel

D = 6


@pytest.fixture
def model() -> LatticeModel:
    spec = LatticeSpec((4, 4, 4), radii=(0.5, 1.0, 1.5))
    made = LatticeModel(spec, D, channels=2, hidden=3, steps=4, port_map="bilinear", code_shape=(2, 2), skip=True)
    with torch.no_grad():
        made.decoder.weight.mul_(0.1)
    return made


def rows(count: int = 7) -> torch.Tensor:
    return torch.randn(count, D, generator=torch.Generator().manual_seed(0))


def test_a_row_holds_what_the_resized_model_does(model) -> None:
    x, mean = rows(), torch.zeros(D)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = list(retention(model, [(4, 4, 4), (6, 5, 7)], x, x, mean))
    assert [(tuple(row["shape"]), row["keep"]) for row in found] == [
        ((4, 4, 4), "cells"), ((4, 4, 4), "ratios"), ((6, 5, 7), "cells"), ((6, 5, 7), "ratios"),
    ]  # fmt: skip
    own = 1 - fvu(model.eval()(x).embedding.detach(), x, mean)
    for row in found:
        resized = model.resized(tuple(row["shape"]), keep=row["keep"]).eval()
        quality = 1 - fvu(resized(x).embedding.detach(), x, mean)
        assert row["explained"] == pytest.approx(quality, rel=1e-6)
        assert row["retention"] == pytest.approx(quality / own, rel=1e-6)
        assert (row["steps"], row["radius"]) == (resized.steps, resized.spec.max_radius)
        assert row["parameters"] == model.parameter_counts()["total"]
        assert "updates" not in row
        scaled = torch.linspace(row["gain"] - 1, row["gain"] + 1, 5)
        out = resized(x)
        signal = (out.code @ resized.decoder.weight.T).detach()
        tried = [1 - fvu(out.embedding.detach() + (a - 1) * signal, x, mean) for a in scaled]
        assert row["scaled_explained"] == pytest.approx(max(tried), rel=1e-5)
        assert tried[2] == max(tried), "no other gain is better"
    assert [row["retention"] for row in found[:2]] == [pytest.approx(1), pytest.approx(1)]
    assert found[2]["retention"] != pytest.approx(1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_fine_tuning_starts_from_the_trained_weights_at_every_size(model) -> None:
    x, seen = rows(), []

    def spoil(resized: LatticeModel) -> int:
        seen.append([value.clone() for value in resized.state_dict().values()])
        with torch.no_grad():
            for parameter in resized.transformer.decoder.parameters():
                parameter.zero_()
        return 3

    found = list(retention(model, [(5, 5, 5), (6, 6, 6)], x, x, torch.zeros(D), ["cells"], spoil))
    assert [row["updates"] for row in found] == [3, 3]
    for row in found:  # nothing is added to the input any more, which is the target
        assert (row["tuned_explained"], row["tuned_cosine"]) == pytest.approx((1, 1))
        assert row["tuned_retention"] == pytest.approx(row["retention"] / row["explained"])
    for start in seen:
        assert all(torch.equal(a, b) for a, b in zip(start, model.state_dict().values(), strict=True))


def test_a_rollout_that_overflows_is_nan(model) -> None:
    with torch.no_grad():
        model.cell.bypass.weight.mul_(3e3)
        model.decoder.weight.mul_(1e-18)
    (row,) = retention(model, [(12, 12, 12)], rows(), rows(), torch.zeros(D), ["cells"])
    assert row["explained"] != row["explained"]


def test_a_model_that_explains_nothing_is_refused(model, refuses) -> None:
    with torch.no_grad():
        model.decoder.bias.fill_(9)
    with refuses("must be above 0", "4 × 4 × 4", "train the model first"):
        list(retention(model, [(5, 5, 5)], rows(), rows(), torch.zeros(D)))
