"""What a run watches and keeps while it trains."""

from __future__ import annotations

import hashlib
import logging
import random
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

from latticegnn.model import LatticeModel
from latticegnn.nn import Implicit, SoftTiers
from latticegnn.training.checkpoints import progress_file, saved

logger = logging.getLogger("latticegnn")

KEPT = 2
"""Checkpoints to go on from that are kept: the last one, and the one before should the last be damaged."""


class GateLog(pl.Callback):
    """Logs, after each epoch, how the cell mixes its experts at the last step of a rollout over one validation batch.

    ``gate/<tier>`` is the mean weight of the tier's expert, ``gate/entropy`` the mean entropy of the mixture in nats;
    likewise ``zone/<k>`` and ``zone/entropy``, where input ports are placed by zones. ``threshold/local`` and
    ``threshold/functional`` are where soft tiers end, in cells.
    """

    @torch.no_grad()
    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Look at the first batch of the epoch."""
        model = pl_module.model
        if batch_idx > 0 or not isinstance(model, LatticeModel):
            return
        weights = model.cell.gates(model(pl_module.given(batch, "validation")).state).flatten(0, 1)
        pl_module.log_dict(_usage("gate", list(model.cell.experts), weights))
        if isinstance(model.cell.aggregator, SoftTiers):
            ends = model.cell.aggregator.thresholds().tolist()
            pl_module.log_dict(dict(zip(("threshold/local", "threshold/functional"), ends, strict=True)))
        if model.entry.router is not None:
            weights = model.entry.router.weights(batch["input"])
            pl_module.log_dict(_usage("zone", [str(zone) for zone in range(weights.shape[1])], weights))


def _usage(mixture: str, names: list[str], weights: torch.Tensor) -> dict[str, float]:
    """Give the mean of weights [n, number of names] for each name, and their mean entropy."""
    usage = {f"{mixture}/{name}": float(mean) for name, mean in zip(names, weights.mean(dim=0), strict=True)}
    return usage | {f"{mixture}/entropy": float(torch.special.entr(weights).sum(dim=-1).mean())}


class GradientWatch(pl.Callback):
    """Logs the norm of the gradient of each group of parameters before clipping, and stops when one is not finite.

    ``gradient/<group>`` is the Euclidean norm over the group's parameters, see `latticegnn.training.optim.configure`.
    Of an implicit gradient also ``adjoint/change`` and ``adjoint/residual``, see `latticegnn.nn.implicit.Adjoint`.
    """

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:
        """Look at the gradient that the next update takes."""
        norms = {
            f"gradient/{group['name']}": torch.nn.utils.get_total_norm(
                [p.grad for p in group["params"] if p.grad is not None]
            )
            for group in optimizer.param_groups
        }
        broken = [name for name, norm in norms.items() if not torch.isfinite(norm)]
        if broken:
            raise FloatingPointError(
                f"the gradient must be finite; {', '.join(broken)} is not at update {trainer.global_step}, batch rows "
                f"{pl_module.rows}; lower the learning rates or inspect these rows"
            )
        pl_module.log_dict(norms)
        mode = pl_module.model.gradient if isinstance(pl_module.model, LatticeModel) else None
        if isinstance(mode, Implicit) and mode.last is not None:
            pl_module.log_dict({"adjoint/change": mode.last.change, "adjoint/residual": mode.last.residual})


class SeedEachBatch(pl.Callback):
    """Seeds every generator anew before each batch, from seed, epoch, batch and process.

    What is drawn for a batch then hangs on nothing that came before it: a run that goes on draws what it would have
    drawn without the interruption.

    Args:
        seed: Of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Seed for a training batch."""
        self._seed("train", trainer, batch_idx)

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Seed for a validation batch."""
        self._seed("validation", trainer, batch_idx)

    def _seed(self, part: str, trainer: pl.Trainer, batch_idx: int) -> None:
        place = f"{part} {self.seed} {trainer.current_epoch} {batch_idx} {trainer.global_rank}"
        number = int.from_bytes(hashlib.sha256(place.encode()).digest()[:4])
        random.seed(number)
        np.random.seed(number)  # noqa: NPY002  (a user's layer may draw from it)
        torch.manual_seed(number)


class Stopped(Exception):
    """Training was asked to stop, by Ctrl-C or SIGTERM, and has saved where it stood.

    Args:
        number: The signal's.
        file: The checkpoint.
    """

    def __init__(self, number: int, file: Path) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; saved {file}")
        self.number, self.file = number, file


class Progress(pl.Callback):
    """Saves where training stands, so that a killed run can go on to the weights it would have had.

    A checkpoint is due every `seconds`, at the start of an epoch where none was saved since, and at the end; the last
    two are kept. After the last batch of an epoch it waits until the epoch has been validated. The first SIGINT or
    SIGTERM saves and raises `Stopped`; a second SIGINT interrupts at once.

    Args:
        folder: Where the checkpoints are kept.
        seconds: Between two of them, ≥ 0; 0 saves after every update.
    """

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self.seconds = folder, seconds
        self._due = 0.0
        self._signal: int | None = None
        self._handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Listen for signals; remove what a killed run left half-written."""
        self._due = time.monotonic() + self.seconds
        if trainer.is_global_zero:
            for part in self.folder.glob(".*.ckpt.*"):
                part.unlink()
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
            for number in self._handlers:
                signal.signal(number, self._note)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Keep the log's count of updates, in which the engine counts one twice when a run goes on."""
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Save where a checkpoint is due and the epoch goes on."""
        updated = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if updated and batch_idx + 1 < trainer.num_training_batches:
            self._save_if_due(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Save the end of the epoch before, now that it has been validated."""
        if trainer.current_epoch > 0:
            # As the engine does next; a checkpoint that still counts the last epoch's batches would skip this one's.
            trainer.fit_loop.epoch_loop.batch_progress.reset_on_run()
            self._save_if_due(trainer, always=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Save the end."""
        self._save_if_due(trainer, always=True)
        self._listen_no_more()

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Give the signals back."""
        self._listen_no_more()

    def _save_if_due(self, trainer: pl.Trainer, always: bool = False) -> None:
        # All processes must save together, so all must agree.
        def of_any(process: bool) -> bool:
            return trainer.strategy.reduce_boolean_decision(process, all=False)

        if not always and not of_any(self._signal is not None or time.monotonic() >= self._due):
            return
        asked, file = of_any(self._signal is not None), progress_file(self.folder, trainer.global_step)
        if not always:
            # The engine logs an update after this hook, too late for a kill in between. `read_history` takes it once.
            trainer._logger_connector.update_train_step_metrics()
        for log in trainer.loggers:
            log.save()  # what was logged up to here must not be lost with what comes after
        trainer.save_checkpoint(file)
        self._due = time.monotonic() + self.seconds
        if trainer.is_global_zero:
            for old in saved(self.folder)[KEPT:]:
                old.unlink(missing_ok=True)
        if asked:
            raise Stopped(self._signal or signal.SIGTERM, file)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number
        logger.warning("%s: saving after this update, then stopping", signal.Signals(number).name)

    def _listen_no_more(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}
