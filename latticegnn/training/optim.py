"""Optimiser and schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

GROUPS = ("cell", "maps", "decoder", "text")


@dataclass(frozen=True)
class Optimisation:
    r"""AdamW (Loshchilov and Hutter, 2019) with a learning rate for each part of the model, and its schedule.

    Over the updates u = 1 … U of a run, with w of them for the warm-up, a rate is its peak times

    - ``one_cycle``: a half cosine from 1/25 to 1 over w, another down to 1/250,000 (Smith and Topin, 2018);
    - ``cosine``: :math:`u / w` at first, then :math:`\tfrac12 (1 + \cos \pi \frac{u - w}{U - w})`
      (Loshchilov and Hutter, 2017);
    - ``plateau``: 1; multiplied by ``factor`` whenever the validation loss has not fallen for more than ``patience``
      epochs. No warm-up.

    Args:
        lr_cell: Peak learning rate of the shared cell, > 0. The cell sums its gradient over all cells and steps and is
            small; it takes ten times the rate of the maps.
        lr_maps: Peak learning rate of the maps into the lattice, > 0, and of all that is neither cell nor decoder.
        lr_decoder: Peak learning rate of the decoder, the map from what is read to the embedding, > 0.
        lr_text: Peak learning rate of a text decoder, > 0.
        weight_decay: Decoupled weight decay, ≥ 0.
        weight_decay_text: That of a text decoder, ≥ 0; on some thousand texts it overfits with little.
        betas: AdamW's averaging rates, each in [0, 1).
        schedule: One of the three.
        warmup: Part of the updates over which the rates rise to their peak, in (0, 1); two updates at least.
        factor: Of a plateau, in (0, 1).
        patience: Epochs of a plateau, ≥ 0.

    Raises:
        ValueError: For a value out of range.
    """

    lr_cell: float = 1e-2
    lr_maps: float = 1e-3
    lr_decoder: float = 1e-3
    lr_text: float = 1e-3
    weight_decay: float = 0.01
    weight_decay_text: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    schedule: Literal["one_cycle", "cosine", "plateau"] = "one_cycle"
    warmup: float = 0.1
    factor: float = 0.3
    patience: int = 3

    def __post_init__(self) -> None:
        """Check the settings."""
        rules = {
            "lr_cell": (self.lr_cell > 0, "above 0"),
            "lr_maps": (self.lr_maps > 0, "above 0"),
            "lr_decoder": (self.lr_decoder > 0, "above 0"),
            "lr_text": (self.lr_text > 0, "above 0"),
            "weight_decay": (self.weight_decay >= 0, "0 or more"),
            "weight_decay_text": (self.weight_decay_text >= 0, "0 or more"),
            "betas": (len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas), "two numbers in [0, 1)"),
            "schedule": (self.schedule in ("one_cycle", "cosine", "plateau"), "one_cycle, cosine or plateau"),
            "warmup": (0 < self.warmup < 1, "between 0 and 1"),
            "factor": (0 < self.factor < 1, "between 0 and 1"),
            "patience": (self.patience >= 0, "0 or more"),
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
        model: Parameters whose name begins with ``text`` form the group "text"; of the others those with a part
            ``cell`` in it the group "cell", those with ``decoder`` the group "decoder", the rest the group "maps".
        settings: Rates and schedule.
        updates: Optimiser steps of the whole run, ≥ 1.
    """
    groups: dict[str, list[nn.Parameter]] = {name: [] for name in GROUPS}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parts = name.split(".")
            group = next((name for name in ("cell", "decoder") if name in parts), "maps")
            groups["text" if parts[0] == "text" else group].append(parameter)
    used = {name: parameters for name, parameters in groups.items() if parameters}
    optimizer = torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": getattr(settings, f"lr_{name}"),
                "weight_decay": settings.weight_decay_text if name == "text" else settings.weight_decay,
                "name": name,
            }
            for name, parameters in used.items()
        ],
        betas=settings.betas,
    )
    return {"optimizer": optimizer, "lr_scheduler": _schedule(optimizer, settings, updates)}


def _schedule(optimizer: torch.optim.Optimizer, settings: Optimisation, updates: int) -> Any:
    total = max(updates, 3)
    if settings.schedule == "one_cycle":
        schedule: Any = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=[group["lr"] for group in optimizer.param_groups],
            total_steps=total,
            # The peak is the second update or later: torch divides by its place.
            pct_start=max(settings.warmup, 2 / total),
            cycle_momentum=False,
        )
        return {"scheduler": schedule, "interval": "step"}
    if settings.schedule == "plateau":
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=settings.factor, patience=settings.patience
        )
        return {"scheduler": schedule, "interval": "epoch", "monitor": "validation/loss"}
    rise = max(2, round(settings.warmup * total))

    def share(update: int) -> float:
        if update < rise:
            return (update + 1) / rise
        return (1 + math.cos(math.pi * (update - rise) / (total - rise))) / 2

    return {"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, share), "interval": "step"}
