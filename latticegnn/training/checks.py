"""What a run asks of the engine's settings, checked before anything is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from latticegnn.data.mixture import ranked
from latticegnn.training.decoding import TEXT_BASELINES, TOKEN_METRIC
from latticegnn.training.losses import EMBEDDING_TERMS

_LESS_IS_BETTER = ("validation/loss", "validation/fvu")


def logged(config: Any, metrics: Sequence[str]) -> list[str]:
    """Name what a run logs after each epoch, and so what may be monitored.

    Args:
        config: The run's.
        metrics: Of embeddings, the loss first and the one for pairs last.
    """
    if not any(map(ranked, (config.data, *(config.data.more or ())))):
        metrics = metrics[:-1]
    if config.decoder is None:
        return list(metrics)
    wordy = any(name in TEXT_BASELINES for name in config.baselines)  # those log nothing of embeddings
    embeds = any(config.loss[name] for name in EMBEDDING_TERMS) and not wordy
    return [*(metrics if embeds else metrics[:1]), TOKEN_METRIC]


def check_monitors(config: Any, known: Sequence[str]) -> None:
    """Refuse to select or to stop by what a run does not log, or the wrong way round.

    Args:
        config: The run's.
        known: What it logs after each epoch.
    """
    for key in ("early_stopping", "checkpoint"):
        if config[key].monitor not in known:
            raise ValueError(
                f"{key}.monitor must be one of {', '.join(known)}; got {config[key].monitor!r}; choose one of them."
            )
        mode = "min" if config[key].monitor in _LESS_IS_BETTER else "max"
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


def check_text(config: Any) -> None:
    """Refuse settings of a text decoder that the others contradict, and the other way round."""
    wanted = [name for name in config.baselines if name in TEXT_BASELINES]
    if config.decoder is None:
        for given, name in ((config.loss.tokens, f"loss.tokens {config.loss.tokens}"), (wanted, f"baselines {wanted}")):
            if given:
                raise ValueError(
                    f"tokens are a text decoder's; got {name} and no decoder; describe one under decoder:."
                )
        if config.model.tokens is not None:
            raise ValueError(
                f"a lattice that takes tokens is trained by a text decoder; got model.tokens {config.model.tokens} and "
                "no decoder; describe one under decoder:."
            )
        return
    embeds = any(config.loss[name] for name in EMBEDDING_TERMS)
    tokens_in = config.model.tokens is not None
    tasks = [source.task for source in (config.data, *(config.data.more or ()))]
    halting = config.model.stopping is not None and "halting" in config.model.stopping
    moved = config.decoder.freeze or config.decoder.source == "embedding" or not embeds
    rules = {
        f"a text decoder is trained by its term of the loss; got loss.tokens {config.loss.tokens}; set it above 0": (
            config.loss.tokens == 0
        ),
        f"a text decoder learns from texts; got data.task {tasks}; take tasks of texts": "vectors" in tasks,
        f"rows of a pool have no texts; got pool.size {config.pool.size} with a decoder; set it to 0": config.pool.size,
        "with a halting head every step has an answer of its own, and a text decoder reads one; got both; leave out "
        "one of them": halting,
        "solving the readout needs a loss on embeddings, and must not move what a decoder reads or what is frozen; got "
        f"refit_readout true with decoder.source {config.decoder.source}, decoder.freeze {config.decoder.freeze}; set "
        "refit_readout to false": config.refit_readout and moved,
        "a lattice that takes tokens is trained by loss.tokens alone; got weights of "
        f"{[name for name in EMBEDDING_TERMS if config.loss[name]]}; set them to 0": tokens_in and embeds,
        f"a lattice that takes tokens has no embedding to start a baseline from; got {config.baselines}; leave in "
        "majority alone": tokens_in and set(config.baselines) - {"majority"},
        f"a bigram is of next words; got baselines {wanted} with data.task {tasks}; leave it out": (
            "bigram" in wanted and tasks != ["next_token"]
        ),
    }
    for rule, broken in rules.items():
        if broken:
            raise ValueError(f"{rule}.")


def _bf16(accelerator: Any) -> bool:
    if accelerator == "cpu" or not torch.cuda.is_available():
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return torch.cuda.is_bf16_supported(including_emulation=False)
