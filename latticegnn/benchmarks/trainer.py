"""Training through the real trainer, data and logs included, against the same updates in a plain loop."""

from __future__ import annotations

import contextlib
import copy
import io
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from latticegnn.benchmarks.results import Claim, Result, Row, Table
from latticegnn.training.fit import Run
from latticegnn.training.losses import loss_terms
from latticegnn.training.module import EmbeddingModule
from latticegnn.training.optim import configure

FAST, DEFAULT = "configs/fast.yaml", "configs/default.yaml"
RATE, OVERHEAD = 10.0, 8.0  # batches a second; percent
WINDOW = 10  # updates that are timed together: one interval of the log
_ROOT = Path(__file__).parents[2]
_BATCH = 32


@dataclass
class Pace:
    """What a run took, by window of `WINDOW` updates; seconds of an update.

    Args:
        wall: By the clock, through the trainer.
        trainer: CPU time, through the trainer.
        plain: CPU time, in the plain loop.
    """

    wall: list[float] = field(default_factory=list)
    trainer: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)

    @property
    def batches(self) -> float:
        """Batches a second through the trainer."""
        return 1 / statistics.median(self.wall)

    @property
    def overhead(self) -> float:
        """CPU time that the trainer adds, in percent of the plain loop's; the median over windows."""
        return statistics.median(100 * (a / b - 1) for a, b in zip(self.trainer, self.plain, strict=True))


class Stopwatch(pl.Callback):
    """Times windows of updates, and after each repeats it in a plain loop: same batches, a copy of the model.

    The first window is not measured. What the plain loop takes is no part of the next window.

    Args:
        pace: Takes the figures.
    """

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self._batches: list[dict[str, Tensor]] = []
        self._start = (0.0, 0.0)
        self._warm = False
        self._plain: PlainLoop | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Start the first window."""
        self._plain = PlainLoop(pl_module, int(trainer.estimated_stepping_batches), trainer.gradient_clip_val)
        self._start = _clocks()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """End a window where it is full."""
        self._batches.append(batch)
        if len(self._batches) < WINDOW:
            return
        wall, cpu = (now - then for now, then in zip(_clocks(), self._start, strict=True))
        assert self._plain is not None
        begun = time.process_time()
        for kept in self._batches:
            self._plain.update(kept)
        plain = time.process_time() - begun
        if self._warm:
            self.pace.wall.append(wall / WINDOW)
            self.pace.trainer.append(cpu / WINDOW)
            self.pace.plain.append(plain / WINDOW)
        self._warm = True
        self._batches.clear()
        self._start = _clocks()


class PlainLoop:
    """The updates that a run makes, without the trainer: loss, gradient, clipping, optimiser, schedule.

    Args:
        module: Whose model is copied, and whose loss and optimiser are taken.
        updates: Length of the schedule.
        clip: Greatest norm of the gradient; None for any.
    """

    def __init__(self, module: EmbeddingModule, updates: int, clip: float | None) -> None:
        self.model, self.loss, self.clip = copy.deepcopy(module.model), module.loss, clip
        made = configure(self.model, module.optim, updates)
        self.optimizer, self.schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]

    def update(self, batch: dict[str, Tensor]) -> None:
        """Make one update."""
        terms = loss_terms(self.model(batch["input"]).embedding, batch["target"], self.loss)
        loss = torch.stack(list(terms.values())).sum()
        self.optimizer.zero_grad()
        loss.backward()
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        self.schedule.step()


def measure(quick: bool = False) -> Result:
    """Train by the shipped configurations and judge the claims; with ``quick`` the fast one, with one thread.

    Raises:
        FileNotFoundError: Outside of a checkout, where there are no configurations.
    """
    paces: dict[tuple[str, int], Pace] = {}
    for name in (FAST,) if quick else (FAST, DEFAULT):
        # Each number of threads is compiled for anew.
        for threads in (1,) if quick else (1, 2):
            paces[name, threads] = pace(find(name), threads, windows=2 if quick else 12)
    return Result("trainer", [table(paces)], judge(paces))


def find(name: str) -> Path:
    """Find a configuration of the checkout that this package runs from."""
    file = _ROOT / name
    if not file.is_file():
        raise FileNotFoundError(
            f"the trainer is measured with the configurations of a checkout; {file} is not a file; install from a "
            "clone with pip install -e, or leave out: trainer."
        )
    return file


def pace(config: Path, threads: int, windows: int, extra: list[str] | None = None) -> Pace:
    """Train one epoch by a configuration, on random embeddings in place of a teacher's, and time it.

    Args:
        config: The configuration; its task, baselines and number of epochs are replaced.
        threads: PyTorch's.
        windows: Measured windows, ≥ 1; one more comes first.
        extra: Further arguments, as for the command line.
    """
    found = Pace()
    before, flags = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        file = Path(scratch) / "vectors.npy"
        words = [
            "--config", str(config), "--data.task", "vectors", "--data.path", str(file), "--data.limit", "null",
            "--data.batch_size", str(_BATCH), "--run_dir", str(Path(scratch) / "runs"), "--log_level", "error",
            "--trainer.max_epochs", "1", "--refit_readout", "false", "--baselines", "[]", *(extra or []),
        ]  # fmt: skip
        # The progress bar is part of what a run takes, but not of what this one shows.
        for redirect in (contextlib.redirect_stdout, contextlib.redirect_stderr):
            stack.enter_context(redirect(io.StringIO()))
        run = Run(words)
        # Three quarters of the rows are trained on.
        rows = -(-4 * (windows + 1) * WINDOW * _BATCH // 3) + _BATCH
        vectors = np.random.default_rng(0).normal(size=(rows, run.model.embedding_dim)).astype(np.float32)
        np.save(file, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
        run.cli.trainer.callbacks.append(Stopwatch(found))  # type: ignore[attr-defined]
        torch.set_num_threads(threads)
        try:
            run.execute()
        finally:
            torch.set_num_threads(before)
            torch.use_deterministic_algorithms(flags)
    return found


def table(paces: dict[tuple[str, int], Pace]) -> Table:
    """Lay out the figures by configuration and number of threads."""
    rows: list[Row] = [
        {
            "configuration": name,
            "threads": threads,
            "batches/s": found.batches,
            "ms of CPU, trainer": 1e3 * statistics.median(found.trainer),
            "ms of CPU, plain loop": 1e3 * statistics.median(found.plain),
            "overhead %": found.overhead,
        }
        for (name, threads), found in paces.items()
    ]
    return Table(
        "Through the trainer",
        f"`latticegnn fit` on random embeddings in batches of {_BATCH}, data, logs and progress bar included. Batches "
        f"a second by the clock; medians over windows of {WINDOW} updates, so that each holds one write of the log. "
        "After each window a plain loop (loss, gradient, clipping, AdamW, schedule) repeats its batches on a copy of "
        "the model; the overhead is what the trainer takes beyond that in CPU time.",
        rows,
    )


def judge(paces: dict[tuple[str, int], Pace]) -> list[Claim]:
    """Hold the fast configuration against what is claimed.

    The rate, claimed for two cores, is that of the better number of threads where both were measured; what the trainer
    adds is that of one thread.
    """
    fast = {threads: found for (name, threads), found in paces.items() if name == FAST}
    claims = [Claim(f"{FAST}, 1 thread: what the trainer adds to a plain loop", fast[1].overhead, OVERHEAD, unit="%")]
    if len(fast) > 1:
        best = max(fast, key=lambda threads: fast[threads].batches)
        counted = f"{best} thread{'' if best == 1 else 's'}"
        text = f"{FAST}, two cores, {counted}: training rate"
        claims.append(Claim(text, fast[best].batches, RATE, at_most=False, unit="batches/s"))
    return claims


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()
