"""The last layer is linear, so it need not be left where gradient descent stopped."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from latticegnn.data.split import SAMPLE, EmbeddingSplit
from latticegnn.model import LatticeModel
from latticegnn.training.losses import LossWeights, loss_terms

logger = logging.getLogger("latticegnn")

PENALTIES = tuple(10.0**k for k in range(-4, 4))
"""Ridge penalties tried, in units of the variance of a number read; a code of K numbers sums to K of them."""


@torch.no_grad()
def refit_readout(
    model: nn.Module,
    train: EmbeddingSplit,
    validation: EmbeddingSplit,
    loss: LossWeights,
    span: tuple[int, int] | None = None,
) -> float:
    r"""Solve the decoder by ridge regression on what the trained model reads, the rest held fixed.

    With z the standardised code of the n training rows and y what is to be decoded (the target, less the input where
    the model has a skip),

    .. math::
        W = \arg\min \sum_i \|y_i - \bar y - W z_i\|^2 + n \lambda \|W\|^2,

    as in echo state networks (Jaeger, 2001). Numbers read from neighbouring ports are strongly correlated, and gradient
    descent is slow along their small directions. The validation loss picks λ among `PENALTIES`, or keeps the decoder
    as it was.

    A lattice with ``prefixes`` is solved for all of them at once, each row standing once for each prefix with the
    numbers beyond it at zero, and is judged by the mean over them: one decoder, the objective that training has.

    Args:
        model: Its output has ``embedding`` and ``code``; its ``decoder`` is the linear layer between them, and ``skip``
            says whether the input is added.
        train: The rows that are fitted, `SAMPLE` of them at most.
        validation: The rows that decide.
        loss: Weights of the loss.
        span: Fewest and most steps after which a lattice is read, the rows taking turns; after its own unless given.
            One with ``stopping`` is read where each row stops, as validation reads it.

    Returns:
        The penalty chosen; 0 where the decoder was kept.
    """
    model.eval()
    (inputs, targets), (given, expected) = train.tensors(SAMPLE), validation.tensors()
    code, copies = _read(model, inputs, span)
    held_out, _ = _read(model, given, span)
    wanted = (targets - inputs if model.skip else targets).repeat(copies, 1)
    mean, deviation, centre = code.mean(dim=0), code.std(dim=0).clamp_min(1e-8), wanted.mean(dim=0)
    z = (code - mean) / deviation
    base = given.repeat(copies, 1) if model.skip else torch.zeros(())
    decoder: nn.Linear = model.decoder  # type: ignore[assignment]

    def score(weight: Tensor, bias: Tensor) -> float:
        predictions = (base + held_out @ weight.T + bias).chunk(copies)
        terms = [torch.stack(list(loss_terms(part, expected, loss).values())).sum() for part in predictions]
        return float(torch.stack(terms).mean())

    best, chosen = score(decoder.weight, decoder.bias), 0.0
    for penalty, solution in _ridge(z, wanted - centre):
        weight = solution / deviation
        bias = centre - weight @ mean
        value = score(weight, bias)
        if value < best:
            best, chosen = value, penalty
            solved = weight, bias
    if chosen:
        decoder.weight.copy_(solved[0])
        decoder.bias.copy_(solved[1])
    logger.info("readout: %s", f"solved with penalty {chosen:g}" if chosen else "kept as trained")
    return chosen


def _read(model: nn.Module, inputs: Tensor, span: tuple[int, int] | None, batch_size: int = 256) -> tuple[Tensor, int]:
    """Return what is read, one prefix after the other where the model has any, and how many there are."""
    batches = inputs.split(batch_size)
    if not isinstance(model, LatticeModel):
        return torch.cat([model(batch).code for batch in batches]), 1
    turns = span if model.stopping is None else None
    code = torch.cat([model(batch).code if turns is None else _in_turn(model, batch, *turns) for batch in batches])
    prefixes = model.exit.prefixes
    return torch.cat([model.exit.keep(code, count) for count in prefixes]), len(prefixes)


def _in_turn(model: LatticeModel, inputs: Tensor, low: int, high: int) -> Tensor:
    run, turn = model.begin(inputs), low + torch.arange(len(inputs)) % (high - low + 1)
    code = model.read(inputs, run.state)[1]
    for step in range(1, high + 1):
        state, rows = run.step(), (turn == step).nonzero()[:, 0]
        code[rows] = model.read(inputs[rows], state[rows])[1]
    return code


def _ridge(z: Tensor, y: Tensor) -> Iterator[tuple[float, Tensor]]:
    """Solve for W [D, K] with each penalty, in the smaller of the two spaces: K numbers read or n rows."""
    rows, width = z.shape
    # Many numbers read are nearly the same; their matrix of products needs the digits, a kernel of rows the memory.
    z, y = (z.double(), y.double()) if width <= rows else (z, y)
    products = z.T @ z if width <= rows else z @ z.T
    right = z.T @ y if width <= rows else y
    for penalty in PENALTIES:
        shifted = products.clone()
        shifted.diagonal().add_(penalty * rows)
        solution = torch.cholesky_solve(right, torch.linalg.cholesky(shifted))
        yield penalty, (solution if width <= rows else z.T @ solution).T.float()
