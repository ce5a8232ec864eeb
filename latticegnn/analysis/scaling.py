"""What a trained cell keeps of its quality when the lattice grows around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from latticegnn.analysis.metrics import cosine, fvu
from latticegnn.lattice import Keep
from latticegnn.model import LatticeModel

FineTune = Callable[[LatticeModel], int]
"""Trains a model in place and returns the number of updates."""

CELL_STATES = 1 << 20
"""Pairs of cell and sample whose states are held at once in evaluation."""


def retention(
    model: LatticeModel,
    sizes: Sequence[tuple[int, int, int]],
    inputs: Tensor,
    targets: Tensor,
    train_mean: Tensor,
    keep: Sequence[Keep] = ("cells", "ratios"),
    fine_tune: FineTune | None = None,
) -> Iterator[dict[str, Any]]:
    r"""Evaluate the same weights on lattices of other sizes, as they are and after a short training there.

    .. math::
        \text{retention} = \frac{1 - \mathrm{FVU}(\text{size})}{1 - \mathrm{FVU}(\text{trained size})}

    The divisor is always the model as it was trained; the trained size, where it is among the sizes, is fine-tuned as
    the others are, so that a gain of mere training shows.

    Args:
        model: The trained model; it stays as it is.
        sizes: Shapes, in the order in which they are evaluated.
        inputs: Rows held out [n, D].
        targets: What is wanted for them [n, D].
        train_mean: Mean of the training targets [D].
        keep: What stays of the radii, see `LatticeModel.resized`; each size is evaluated with each.
        fine_tune: Trains a copy at each size; None evaluates zero-shot alone.

    Yields:
        A row for each size and keep: ``shape``, ``keep``, ``radius`` in cells, ``steps``, ``backend``, ``parameters``,
        ``explained`` (1 − FVU), ``cosine``, ``retention``; ``gain``, the one factor on what is read that would fit
        these rows best, and ``scaled_explained``, what they would then give: an upper bound that tells a signal grown
        faint from one that is lost. After fine-tuning also ``updates`` and the same with the prefix ``tuned_``. A
        rollout that overflowed has nan.

    Raises:
        ValueError: When the model explains nothing at its own size, or cannot be resized.
    """
    base = _quality(model, inputs, targets, train_mean)["explained"]
    if not base > 0:
        raise ValueError(
            f"retention is a share of what a model explains at its own size, which must be above 0; got {base:.3g} "
            f"at {' × '.join(map(str, model.spec.shape))}; train the model first, or look at the targets."
        )
    for shape in sizes:
        for kept in keep:
            resized = model.resized(shape, keep=kept)
            row: dict[str, Any] = {
                "shape": list(shape),
                "keep": kept,
                "radius": resized.spec.max_radius,
                "steps": resized.steps,
                "backend": resized.cell.backend,
                "parameters": resized.parameter_counts()["total"],
            }
            found = _quality(resized, inputs, targets, train_mean)
            row |= found | {"retention": found["explained"] / base}
            if fine_tune is not None:
                row["updates"] = fine_tune(resized)
                found = _quality(resized, inputs, targets, train_mean)
                row |= {f"tuned_{name}": value for name, value in found.items()}
                row["tuned_retention"] = found["explained"] / base
            yield row


@torch.no_grad()
def _quality(model: LatticeModel, inputs: Tensor, targets: Tensor, train_mean: Tensor) -> dict[str, float]:
    training = model.training
    model.eval()
    outputs = [model(batch) for batch in inputs.split(max(1, CELL_STATES // model.spec.num_nodes))]
    model.train(training)
    prediction = torch.cat([out.embedding for out in outputs])
    if not bool(torch.isfinite(prediction).all()):
        return dict.fromkeys(("explained", "cosine", "gain", "scaled_explained"), float("nan"))
    signal = torch.cat([out.code for out in outputs]) @ model.decoder.weight.T
    rest = prediction - signal
    gain = float(((targets - rest) * signal).sum() / signal.square().sum().clamp_min(torch.finfo(signal.dtype).tiny))
    return {
        "explained": 1 - fvu(prediction, targets, train_mean),
        "cosine": cosine(prediction, targets),
        "gain": gain,
        "scaled_explained": 1 - fvu(rest + gain * signal, targets, train_mean),
    }
