"""What a halting head is trained on: the answer of every step it may stop at, and its probabilities."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from latticegnn.model import LatticeModel, LatticeOutput
from latticegnn.nn import Halting


@dataclass(frozen=True)
class Pondered:
    """The answers of the K steps at which a rollout may halt.

    Args:
        answers: Each step's answer [K, B, D].
        log_p: Log of the probability to halt there [K, B]; the probabilities of a sample sum to one.
        divergence: KL divergence of these from the prior, the mean over samples in nats.
    """

    answers: Tensor
    log_p: Tensor
    divergence: Tensor


def head(model: LatticeModel) -> Halting | None:
    """Return the model's halting head, where it has one."""
    criterion = model.stopping.criterion if model.stopping is not None else None
    return criterion if isinstance(criterion, Halting) else None


def ponder(model: LatticeModel, output: LatticeOutput, embedding: Tensor) -> Pondered | None:
    """Read out a rollout in training at every step where the model's head may halt; None without a head.

    Args:
        model: The model.
        output: What its rollout gave, with the trajectory.
        embedding: What it was given [B, D].
    """
    halting = head(model)
    if halting is None:
        return None
    assert output.trajectory is not None
    log_p = halting.log_probabilities(output.trajectory)
    states = output.trajectory[halting.first :]
    count = len(states)
    answers, _ = model.read(embedding.repeat(count, 1), states.flatten(0, 1))
    return Pondered(answers.unflatten(0, (count, -1)), log_p, halting.divergence(log_p))
