"""Optimiser and schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Optimisation:
    """AdamW (Loshchilov and Hutter, 2019), one learning rate for the cell and one for the maps, in one cycle.

    Args:
        lr_cell: Peak learning rate of the shared cell, > 0. The cell sums its gradient over all cells and steps and is
            small; it takes ten times the rate of the maps.
        lr_maps: Peak learning rate of everything else, > 0.
        weight_decay: Decoupled weight decay, ≥ 0.
        betas: AdamW's averaging rates, each in [0, 1).
        warmup: Part of the updates over which the rates rise to their peak (Smith and Topin, 2018), in (0, 1); two
            updates at least.

    Raises:
        ValueError: For a value out of range.
    """

    lr_cell: float = 1e-2
    lr_maps: float = 1e-3
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    warmup: float = 0.1

    def __post_init__(self) -> None:
        """Check the settings."""
        rules = {
            "lr_cell": (self.lr_cell > 0, "above 0"),
            "lr_maps": (self.lr_maps > 0, "above 0"),
            "weight_decay": (self.weight_decay >= 0, "0 or more"),
            "betas": (len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas), "two numbers in [0, 1)"),
            "warmup": (0 < self.warmup < 1, "between 0 and 1"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise ValueError(
                    f"optim.{name} must be {rule}; got {getattr(self, name)}; the default is "
                    f"{type(self).__dataclass_fields__[name].default}."
                )


def configure(model: nn.Module, settings: Optimisation, updates: int) -> dict[str, Any]:
    """Make optimiser and schedule for a model, as Lightning's ``configure_optimizers`` returns them.

    Args:
        model: Parameters under ``cell`` form the group "cell", all others the group "maps".
        settings: Rates and schedule.
        updates: Optimiser steps of the whole run, ≥ 1.
    """
    groups: dict[str, list[nn.Parameter]] = {"cell": [], "maps": []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups["cell" if name.startswith("cell.") else "maps"].append(parameter)
    rates = {"cell": settings.lr_cell, "maps": settings.lr_maps}
    used = {name: parameters for name, parameters in groups.items() if parameters}
    optimizer = torch.optim.AdamW(
        [{"params": parameters, "lr": rates[name], "name": name} for name, parameters in used.items()],
        betas=settings.betas,
        weight_decay=settings.weight_decay,
    )
    total = max(updates, 3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=[rates[name] for name in used],
        total_steps=total,
        pct_start=max(settings.warmup, 2 / total),  # the peak is the second update or later: torch divides by its place
        cycle_momentum=False,
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
