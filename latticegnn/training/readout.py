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

    Args:
        model: Its output has ``embedding`` and ``code``; its ``decoder`` is the linear layer between them, and ``skip``
            says whether the input is added.
        train: The rows that are fitted, `SAMPLE` of them at most.
        validation: The rows that decide.
        loss: Weights of the loss.
        span: Fewest and most steps after which a lattice is read, the rows taking turns; after its own unless given.

    Returns:
        The penalty chosen; 0 where the decoder was kept.
    """
    model.eval()
    (inputs, targets), (given, expected) = train.tensors(SAMPLE), validation.tensors()
    code, held_out = _read(model, inputs, span), _read(model, given, span)
    wanted = targets - inputs if model.skip else targets
    mean, deviation, centre = code.mean(dim=0), code.std(dim=0).clamp_min(1e-8), wanted.mean(dim=0)
    z = (code - mean) / deviation
    base = given if model.skip else torch.zeros(())
    decoder: nn.Linear = model.decoder  # type: ignore[assignment]

    def score(weight: Tensor, bias: Tensor) -> float:
        terms = loss_terms(base + held_out @ weight.T + bias, expected, loss)
        return float(torch.stack(list(terms.values())).sum())

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


def _read(model: nn.Module, inputs: Tensor, span: tuple[int, int] | None, batch_size: int = 256) -> Tensor:
    batches = inputs.split(batch_size)
    if span is None:
        return torch.cat([model(batch).code for batch in batches])
    assert isinstance(model, LatticeModel)
    low, high = span
    codes = []
    for batch in batches:
        run, turn = model.begin(batch), low + torch.arange(len(batch)) % (high - low + 1)
        code = model.read(batch, run.state)[1]
        for step in range(1, high + 1):
            state, rows = run.step(), (turn == step).nonzero()[:, 0]
            code[rows] = model.read(batch[rows], state[rows])[1]
        codes.append(code)
    return torch.cat(codes)


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
