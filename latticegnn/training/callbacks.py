"""What a run notes while it trains."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch

from latticegnn.model import LatticeModel


class GateLog(pl.Callback):
    """Logs, after each epoch, how the cell mixes its experts at the last step of a rollout over one validation batch.

    ``gate/<tier>`` is the mean weight of the tier's expert, ``gate/entropy`` the mean entropy of the mixture in nats.
    """

    @torch.no_grad()
    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Look at the first batch of the epoch."""
        model = pl_module.model
        if batch_idx > 0 or not isinstance(model, LatticeModel):
            return
        weights = model.cell.gates(model(batch["input"]).state)
        usage = weights.mean(dim=(0, 1))
        entropy = torch.special.entr(weights).sum(dim=-1).mean()
        values = {f"gate/{name}": float(usage[k]) for k, name in enumerate(model.cell.experts)}
        pl_module.log_dict(values | {"gate/entropy": float(entropy)})
