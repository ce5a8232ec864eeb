"""The solved readout: closed form, choice by validation, and both spaces."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from latticegnn.analysis.baselines import CodeMLP
from latticegnn.analysis.metrics import fvu
from latticegnn.data import EmbeddingData
from latticegnn.lattice import LatticeSpec
from latticegnn.model import LatticeModel
from latticegnn.training.losses import LossWeights, loss_terms
from latticegnn.training.readout import _read, refit_readout

SPEC = LatticeSpec((5, 5, 5), radii=(0.5, 1.0, 1.5))
DIM = 12


@pytest.fixture
def splits():
    generator = np.random.default_rng(0)
    hidden = generator.standard_normal((300, 4)).astype(np.float32)
    mix = generator.standard_normal((4, DIM)).astype(np.float32)
    noise = 0.1 * generator.standard_normal((300, DIM)).astype(np.float32)
    return EmbeddingData.from_arrays(hidden @ mix + noise, np.tanh(hidden @ mix)).splits


def loss_of(model: nn.Module, split) -> float:
    with torch.no_grad():
        return float(sum(loss_terms(model(split.inputs).embedding, split.targets, LossWeights()).values()))


@pytest.mark.parametrize("skip", [False, True])
def test_the_solution_is_the_ridge_regression_of_its_penalty(splits, skip) -> None:
    model = LatticeModel(SPEC, embedding_dim=DIM, steps=5, skip=skip)
    train = splits["train"]
    model.fit_maps(train.inputs, train.targets)
    penalty = refit_readout(model, train, splits["validation"], LossWeights())
    assert penalty > 0
    with torch.no_grad():
        code = model(train.inputs).code.double()
    y = (train.targets - train.inputs * skip).double()
    y = y - y.mean(0)
    z = (code - code.mean(0)) / code.std(0)

    def objective(weight: torch.Tensor) -> float:
        return float((y - z @ weight.T).square().sum() + penalty * len(z) * weight.square().sum())

    best = objective(torch.linalg.solve(z.T @ z + penalty * len(z) * torch.eye(z.shape[1]).double(), z.T @ y).T)
    found = objective(model.decoder.weight.detach().double() * code.std(0))
    assert best <= found < best * 1.001
    other = objective(0.9 * model.decoder.weight.detach().double() * code.std(0))
    assert other > best * 1.001, "the objective does not tell a wrong solution from the right one"


def test_the_validation_loss_never_rises_and_nothing_else_moves(splits) -> None:
    model = LatticeModel(SPEC, embedding_dim=DIM, steps=5)
    model.fit_maps(splits["train"].inputs, splits["train"].targets)
    before = {name: value.clone() for name, value in model.state_dict().items() if "decoder" not in name}
    loss = loss_of(model, splits["validation"])
    refit_readout(model, splits["train"], splits["validation"], LossWeights())
    assert loss_of(model, splits["validation"]) < loss
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


def test_a_decoder_that_no_penalty_betters_is_kept(splits) -> None:
    model = LatticeModel(SPEC, embedding_dim=DIM, steps=5)
    train, held_out = splits["train"], splits["validation"]
    model.fit_maps(train.inputs, train.targets)
    # Fitted to the held-out rows themselves, no fit to the training rows can do better on them.
    refit_readout(model, held_out, held_out, LossWeights())
    weight = model.decoder.weight.clone()
    assert refit_readout(model, train, held_out, LossWeights()) == 0
    assert torch.equal(model.decoder.weight, weight)


def test_more_numbers_than_rows_are_solved_in_the_space_of_rows(splits) -> None:
    model = LatticeModel(SPEC, embedding_dim=DIM, steps=5)
    train = splits["train"]
    model.fit_maps(train.inputs, train.targets)
    wide = CodeMLP(model, hidden=4 * len(train))
    loss = loss_of(wide, splits["validation"])
    penalty = refit_readout(wide, train, splits["validation"], LossWeights())
    assert penalty > 0
    assert loss_of(wide, splits["validation"]) < loss


def test_a_readout_for_any_step_is_solved_on_rows_that_take_turns(splits) -> None:
    model = LatticeModel(SPEC, embedding_dim=DIM, steps=5).eval()
    train = splits["train"]
    model.fit_maps(train.inputs, train.targets)
    with torch.no_grad():
        apart = [model.rollout(train.inputs, steps=steps).code for steps in (5, 6, 7)]
        wanted = torch.stack([apart[row % 3][row] for row in range(len(train.inputs))])
        found, _ = _read(model, train.inputs, (5, 7), batch_size=300)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)

    settling = LatticeModel(SPEC, embedding_dim=DIM, steps=5, stopping={"relative": {"tolerance": 0.3}, "max_steps": 7})
    with torch.no_grad():
        own = settling.eval()(train.inputs)
    assert len(own.steps.unique()) > 1
    assert torch.equal(_read(settling, train.inputs, (5, 7), batch_size=300)[0], own.code), "where each row stops"

    def worst(model: LatticeModel) -> float:
        test = splits["test"]
        with torch.no_grad():
            answers = [model.rollout(test.inputs, steps=steps).embedding for steps in (5, 6, 7)]
        return max(fvu(answer, test.targets, train.targets.mean(dim=0)) for answer in answers)

    at_its_own, over_all = copy.deepcopy(model), copy.deepcopy(model)
    refit_readout(at_its_own, train, splits["validation"], LossWeights())
    refit_readout(over_all, train, splits["validation"], LossWeights(), (5, 7))
    assert worst(over_all) < worst(at_its_own)
