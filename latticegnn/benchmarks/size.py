"""One cell trained at one size and put into others: what it keeps of its quality, and what a step costs there."""

from __future__ import annotations

import json
import logging
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from latticegnn.analysis.scaling import retention
from latticegnn.benchmarks.alone import alone, process_peak_bytes
from latticegnn.benchmarks.results import Row, Table
from latticegnn.lattice import Keep
from latticegnn.lattice.storage import write_atomically
from latticegnn.model import LatticeModel
from latticegnn.training.losses import LossWeights, loss_terms
from latticegnn.training.optim import Optimisation, configure

KEEPS: tuple[Keep, ...] = ("cells", "ratios")
SIZES_FILE = "sizes.json"
TUNING = Optimisation(lr_cell=1e-3, lr_maps=3e-4, lr_decoder=3e-4)
CELLS = 1 << 15  # of all samples of a batch in fine-tuning, where it has more than four
MANY = 1 << 13

logger = logging.getLogger("latticegnn")


def measure_run(run: Path, sides: Sequence[int], rows: int, updates: int, few: int) -> list[dict[str, Any]]:
    """Evaluate a run's model on other cubes, zero-shot and fine-tuned, and write ``sizes.json`` into its folder.

    Args:
        run: A run folder; its model must be one that can be resized.
        sides: Of the cubes.
        rows: Test rows evaluated, the first of the split; the same at every size.
        updates: Of fine-tuning, in batches of 32 samples or as many as have `CELLS` cells, at least 4.
        few: Updates where one is dearest, at more than `MANY` cells.

    Returns:
        The rows of `retention`, each with what `profile` measured.

    Raises:
        FileNotFoundError: When the folder holds no run that is done.
        ValueError: When its data has changed since, or its model cannot be resized so.
    """
    from latticegnn.training.analyses import FinishedRun  # seconds, which the processes that `profile` needs can spare

    opened = FinishedRun(run)
    inputs, targets = opened.data.splits["train"].tensors()
    given, wanted = (part[:rows] for part in opened.data.splits["test"].tensors())
    model = opened.model

    def fine_tune(resized: LatticeModel) -> int:
        count = few if resized.spec.num_nodes > MANY else updates
        tune(resized, inputs, targets, opened.loss, count, max(4, min(32, CELLS // resized.spec.num_nodes)))
        return count

    found = []
    cubes = [(side, side, side) for side in sides]
    for row in retention(model, cubes, given, wanted, targets.mean(dim=0), KEEPS, fine_tune if updates else None):
        cost = alone(profile, model=str(run / "model"), shape=row["shape"], keep=row["keep"])
        logger.info("%s, %s: retention %.3f", row["shape"], row["keep"], row["retention"])
        found.append(row | cost)
    content = {"trained": list(model.spec.shape), "rows": len(given), "sizes": found}
    write_atomically(run / SIZES_FILE, json.dumps(content, indent=2).encode())
    return found


def tune(
    model: LatticeModel,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    loss: LossWeights,
    updates: int,
    batch: int,
) -> None:
    """Train a model for a few updates of `TUNING`, on rows drawn with the same seed for every model."""
    model.train()
    made = configure(model, TUNING, updates)
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    generator = torch.Generator().manual_seed(0)
    for _ in range(updates):
        drawn = torch.randint(len(inputs), (batch,), generator=generator)
        terms = loss_terms(model(inputs[drawn]).embedding, targets[drawn], loss)
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()


def profile(model: str, shape: Sequence[int], keep: Keep) -> dict[str, Any]:
    """Measure one sample on a resized model: milliseconds of a lattice step, and the process's peak memory.

    Args:
        model: Folder of the saved model.
        shape: Of the new lattice.
        keep: See `LatticeModel.resized`.

    Returns:
        ``forward_ms`` and ``backward_ms`` (forward and backward) of CPU time a step, medians of three rollouts; and
        ``peak_bytes`` of the process, interpreter and libraries included, or None where it cannot be told.
    """
    x, y, z = shape
    resized = LatticeModel.from_pretrained(model).resized((x, y, z), keep=keep)
    embedding = torch.randn(1, resized.embedding_dim, generator=torch.Generator().manual_seed(0))

    def forward() -> None:
        with torch.no_grad():
            resized(embedding)

    def both() -> None:
        resized(embedding).embedding.square().mean().backward()

    found: dict[str, Any] = {"forward_ms": _milliseconds(forward) / resized.steps}
    resized.train()
    found["backward_ms"] = _milliseconds(both) / resized.steps
    return found | {"peak_bytes": process_peak_bytes()}


def _milliseconds(action: Callable[[], None]) -> float:
    action()
    taken = []
    for _ in range(3):
        start = time.process_time()
        action()
        taken.append(1e3 * (time.process_time() - start))
    return statistics.median(taken)


def size_table(name: str, trained: Sequence[int], rows: Sequence[dict[str, Any]]) -> Table:
    """Lay out what `measure_run` found."""
    lines: list[Row] = []
    for row in rows:
        line: dict[str, Any] = {
            "cube": f"{row['shape'][0]}³",
            "radii kept in": row["keep"],
            "radius": row["radius"],
            "steps": row["steps"],
            "backend": row["backend"],
            "1 − FVU": row["explained"],
            "cosine": row["cosine"],
            "retention": row["retention"],
            "best gain": row["gain"],
            "1 − FVU with it": row["scaled_explained"],
        }
        if "updates" in row:
            line |= {
                "updates": row["updates"],
                "1 − FVU tuned": row["tuned_explained"],
                "cosine tuned": row["tuned_cosine"],
                "retention tuned": row["tuned_retention"],
            }
        peak = row["peak_bytes"]
        lines.append(
            line
            | {
                "parameters": row["parameters"],
                "ms a step": row["forward_ms"],
                "with backward": row["backward_ms"],
                "peak GB": None if peak is None else peak / 1e9,
            }
        )
    note = (
        f"Trained at {' × '.join(map(str, trained))}, then the same weights at every size. Steps in milliseconds of "
        "CPU time for one sample, one thread; peak memory of the whole process in a training step of one sample."
    )
    return Table(name, note, lines)
