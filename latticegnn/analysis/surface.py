"""How good a trained model is when fewer of its output ports are read, after fewer or more steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latticegnn.analysis.metrics import figures
from latticegnn.model import LatticeModel


@dataclass(frozen=True)
class Surface:
    """The places at which a model's quality is measured.

    Args:
        ports: Numbers of output ports to read, the first ones of an ordered placement.
        steps: Numbers of steps, each ≥ 0.

    Raises:
        ValueError: When one of the two is empty, or a number of steps is negative.
    """

    ports: list[int]
    steps: list[int]

    def __post_init__(self) -> None:
        """Check the settings."""
        if not self.ports or not self.steps:
            raise ValueError(
                f"surface needs both ports and steps; got ports {self.ports} and steps {self.steps}; set for example "
                "surface: {ports: [16, 64], steps: [8, 12]}."
            )
        if min(self.steps) < 0:
            raise ValueError(f"surface.steps must not be negative; got {self.steps}; take 0 or more.")

    def check(self, model: LatticeModel) -> None:
        """Raise what measuring would raise, before anything is trained.

        Raises:
            ValueError: When the model has not so many output ports, or they have no order.
        """
        for count in self.ports:
            model.exit.keep(torch.zeros(1, model.extractor.width), count)


@torch.no_grad()
def quality_surface(
    model: LatticeModel,
    inputs: Tensor,
    targets: Tensor,
    ports: Sequence[int],
    steps: Sequence[int],
    train_mean: Tensor,
    pairs: bool = False,
    batch_size: int = 256,
) -> list[dict[str, float]]:
    """Measure a model, in evaluation mode, at every number of output ports and of steps.

    Args:
        model: A trained lattice.
        inputs: Held-out input embeddings [n, D].
        targets: What is wanted for them [n, D].
        ports: Numbers of output ports to read.
        steps: Numbers of steps to take; each is one rollout, which all of ``ports`` are read from.
        train_mean: Mean of the training targets [D], the reference of FVU.
        pairs: Whether targets are answers to be found among all.
        batch_size: Rows rolled out at once.

    Returns:
        A row for each number of steps and of ports: ``steps``, ``ports`` and the metrics of `row_statistics`, NaN where
        an answer is not finite.

    Raises:
        ValueError: When the model has not so many output ports, they have no order, or a number of steps is negative;
            or for what `row_statistics` refuses.
    """
    training = model.training
    model.eval()
    rows: list[dict[str, float]] = []
    try:
        for taken in steps:
            read = torch.cat([model.rollout(batch, taken).code for batch in inputs.split(batch_size)])
            for count in ports:
                prediction = model.decoder(model.exit.keep(read, count)) + (inputs if model.skip else 0)
                measured = figures(prediction, targets, train_mean, pairs)
                rows.append({"steps": taken, "ports": count, **measured})
    finally:
        model.train(training)
    return rows
