"""Reading at any time: what a rollout's answer is worth after each of its steps."""

from __future__ import annotations

import torch
from torch import Tensor

from latticegnn.analysis.metrics import figures
from latticegnn.model import LatticeModel

BATCH = 256


@torch.no_grad()
def quality_by_steps(
    model: LatticeModel, inputs: Tensor, targets: Tensor, train_mean: Tensor, pairs: bool, last: int
) -> list[dict[str, float]]:
    """Read a model's answer after each step of one rollout, in evaluation mode, and measure it.

    A model trained at one number of steps is usually good at that one alone; one trained with drawn numbers keeps its
    answer (Mordvintsev et al., 2020). Only one state is held at a time.

    Args:
        model: Left in the mode it was in.
        inputs: Embeddings held out.
        targets: The embeddings wanted for them.
        train_mean: Mean of the training targets.
        pairs: Whether targets are answers to be found among others, see `row_statistics`.
        last: Steps to take, ≥ 1.

    Returns:
        For each step from 1 on ``steps`` and the metrics of `latticegnn.analysis.evaluate`, NaN where an answer is not
        finite.

    Shapes:
        inputs [n, D], targets [n, D], train_mean [D], n ≥ 11.

    Raises:
        ValueError: When ``last`` is below 1, or for what `row_statistics` refuses.
    """
    if last < 1:
        raise ValueError(f"an answer is read after each of at least 1 step; got a last step of {last}; raise it.")
    answers: list[list[Tensor]] = [[] for _ in range(last)]
    training = model.training
    model.eval()
    try:
        for batch in inputs.split(BATCH):
            run = model.begin(batch)
            for parts in answers:
                parts.append(model.read(batch, run.step())[0])
    finally:
        model.train(training)
    return [
        {"steps": step, **figures(torch.cat(parts), targets, train_mean, pairs)}
        for step, parts in enumerate(answers, start=1)
    ]
