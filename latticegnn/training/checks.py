"""What a run asks of the engine's settings, checked before anything is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def check_monitors(config: Any, known: Sequence[str]) -> None:
    """Refuse to select or to stop by what a run does not log, or the wrong way round.

    Args:
        config: The run's.
        known: What it logs after each epoch; less is better for the first two, more for the others.
    """
    for key in ("early_stopping", "checkpoint"):
        if config[key].monitor not in known:
            raise ValueError(
                f"{key}.monitor must be one of {', '.join(known)}; got {config[key].monitor!r}; choose one of them."
            )
        mode = "min" if config[key].monitor in known[:2] else "max"
        if config[key].mode != mode:
            raise ValueError(
                f"{key}.mode must be {mode} for {config[key].monitor}; got {config[key].mode!r}; set it to {mode}."
            )


def check_trainer(trainer: Any) -> None:
    """Refuse the engine's settings that a run has no use for or would be misled by."""
    if trainer.max_epochs is None or trainer.max_epochs < 1:
        raise ValueError(
            f"trainer.max_epochs must be at least 1, as the schedule needs an end; got {trainer.max_epochs}; set it."
        )
    if trainer.precision not in (None, 32, "32", "32-true", "bf16-mixed"):
        raise ValueError(
            "trainer.precision must be 32-true or bf16-mixed (16-mixed becomes bf16 on a CPU, and float16's gradients "
            f"vanish without a scaler); got {trainer.precision!r}; choose one of them."
        )
    if trainer.precision == "bf16-mixed" and not _bf16(trainer.accelerator):
        raise ValueError(
            "trainer.precision bf16-mixed needs a device that multiplies bfloat16; this one does not; set 32-true."
        )
    if trainer.max_steps not in (None, -1):
        raise ValueError(
            "a run's budget is set in epochs, so that each ends with a validation; got trainer.max_steps "
            f"{trainer.max_steps}; set trainer.max_epochs."
        )
    for key in ("limit_train_batches", "overfit_batches", "fast_dev_run", "val_check_interval"):
        if trainer[key] not in (None, 0, False):
            raise ValueError(
                f"an epoch of a run visits all its rows and ends with a validation; got trainer.{key} {trainer[key]}; "
                "set data.limit for fewer rows, trainer.max_epochs for fewer updates."
            )
    if trainer.use_distributed_sampler:
        raise ValueError(
            "the batches are shared among processes by the data itself; got trainer.use_distributed_sampler true; "
            "leave it out."
        )
    batches, every = trainer.limit_val_batches, trainer.check_val_every_n_epoch or 1
    if batches == 0 or every > trainer.max_epochs:
        raise ValueError(
            "a run must validate, as validation selects its weights; got trainer.limit_val_batches "
            f"{batches}, check_val_every_n_epoch {every}; leave them at their defaults."
        )


def _bf16(accelerator: Any) -> bool:
    if accelerator == "cpu" or not torch.cuda.is_available():
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return torch.cuda.is_bf16_supported(including_emulation=False)
