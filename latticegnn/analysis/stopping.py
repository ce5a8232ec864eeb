"""What stopping costs and saves: steps used against the quality of the answers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from latticegnn.analysis.metrics import figures
from latticegnn.model import LatticeModel
from latticegnn.nn import Halting, Stopping

Rule = int | Stopping | Mapping[str, Any]
"""A number of steps for all samples, or a rule, or its settings."""

QUANTILES = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class StoppingRules:
    """Rules that a trained model is measured under, one after the other.

    Args:
        criterion: A name of `latticegnn.nn.stopping.CRITERIA` that takes a tolerance.
        tolerances: Of the criterion, > 0.
        adaptive: Whether tolerances count in the largest change that a sample has shown.
        steps: Fixed numbers of steps to measure beside them, ≥ 0.
        max_steps: Steps that no sample exceeds under a rule.

    Raises:
        ValueError: When there is nothing to measure.
    """

    criterion: str = "relative"
    tolerances: list[float] = field(default_factory=lambda: [0.3, 0.1, 0.03, 0.01])
    adaptive: bool = False
    steps: list[int] = field(default_factory=lambda: [8, 12, 16, 24])
    max_steps: int = 24

    def __post_init__(self) -> None:
        """Check that something is to be measured."""
        if not (self.tolerances or self.steps) or None in (self.tolerances, self.steps):
            raise ValueError(
                f"stopping needs tolerances or numbers of steps, each a list; got {self.tolerances} and {self.steps}; "
                "write tolerances: [0.1, 0.01], for example."
            )

    def named(self, model: LatticeModel) -> dict[str, Rule]:
        """Return the rules by name, the model's own halting head among them where it has one.

        Raises:
            ValueError: For a criterion or limits that this model cannot have.
        """
        rules: dict[str, Rule] = {f"{steps} steps": steps for steps in self.steps}
        for tolerance in self.tolerances:
            name = f"{self.criterion} ≤ {tolerance:g}{' × its largest' if self.adaptive else ''}"
            settings = {"tolerance": tolerance, "adaptive": self.adaptive}
            rules[name] = model.build_stopping({self.criterion: settings, "max_steps": self.max_steps})
        own = model.stopping
        if own is not None and isinstance(own.criterion, Halting):
            rules["halting head"] = Stopping(own.criterion, own.min_steps, self.max_steps)
        return rules


@torch.no_grad()
def steps_against_quality(
    model: LatticeModel,
    inputs: Tensor,
    targets: Tensor,
    train_mean: Tensor,
    pairs: bool,
    rules: Mapping[str, Rule],
    batch_size: int = 256,
) -> list[dict[str, Any]]:
    """Measure the answers of a model that stops by one rule after the other.

    Args:
        model: The trained model; it is put into evaluation mode.
        inputs: Held-out inputs.
        targets: What is wanted for them.
        train_mean: Mean of the training targets, for FVU.
        pairs: Whether finding the right target among all is a task, see `latticegnn.analysis.row_statistics`.
        rules: By a name to show.
        batch_size: Rows carried through at a time; nothing but memory hangs on it.

    Returns:
        A row a rule: ``rule``; ``steps``, the mean, and ``steps_10``, ``steps_50``, ``steps_90``, the least number
        that this percentage of the samples does not exceed; ``settled``, the part of the samples that had settled, NaN
        for a number of steps; and the metrics of `row_statistics`, NaN where an answer is not finite, which is what a
        rollout that diverges ends in.

    Shapes:
        inputs [n, D], targets [n, D], train_mean [D].
    """
    model.eval()
    rows = []
    for name, rule in rules.items():
        given: dict[str, Any] = {"steps": rule} if isinstance(rule, int) else {"stopping": rule}
        outputs = [model.rollout(batch, **given) for batch in inputs.split(batch_size)]
        steps = torch.cat([out.steps for out in outputs]).double()
        settled = [math.nan if out.settled is None else float(out.settled.double().sum()) for out in outputs]
        quantiles = steps.quantile(torch.tensor(QUANTILES, dtype=torch.float64), interpolation="higher").tolist()
        row = {"rule": name, "steps": float(steps.mean())}
        row |= {f"steps_{round(100 * q)}": int(value) for q, value in zip(QUANTILES, quantiles, strict=True)}
        row["settled"] = sum(settled) / len(steps)
        prediction = torch.cat([out.embedding for out in outputs])
        rows.append(row | figures(prediction, targets, train_mean, pairs))
    return rows
