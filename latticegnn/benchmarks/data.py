"""Data that must not be waited for: cached reading, embedding, batches, and a file larger than what is held of it."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latticegnn.benchmarks import trainer
from latticegnn.benchmarks.alone import alone, process_peak_bytes
from latticegnn.benchmarks.measure import cpu_milliseconds, one_thread
from latticegnn.benchmarks.results import Claim, Result, Row, Table
from latticegnn.data import EmbeddingCache, EmbeddingData, Teacher, sentences
from latticegnn.data.pooling import pool

DIM = 768
READ, EMBED, WAIT, RESIDENT = 50_000, 1.1, 2.0, 1.0  # vectors/s; times a bare loop; percent of a step; GB
_BATCH = 32


class Lookup:
    """An encoder that looks vectors up: what fills the cache at once, since only reading it is timed.

    Args:
        rows: Vectors.
    """

    source, fingerprint, dim = "benchmark", "0" * 64, DIM

    def __init__(self, rows: int) -> None:
        self.vectors = np.random.default_rng(0).normal(size=(rows, DIM)).astype(np.float32)

    def encode(self, texts: Sequence[str], batch_size: int = 32, progress: bool = False) -> np.ndarray:
        """Look the vectors up; a text is its row's number."""
        return self.vectors[[int(text) for text in texts]]


def measure(quick: bool = False) -> Result:
    """Measure all four; with ``quick`` fewer vectors and texts, and a smaller file."""
    tables, claims = [], []
    for table, found in (
        reading(5_000 if quick else 50_000, rounds=3 if quick else 7),
        embedding(128 if quick else 768, rounds=3 if quick else 5),
        waiting(windows=2 if quick else 6),
        resident(0.4 if quick else 4.0),
    ):
        tables.append(table)
        claims += found
    return Result("data", tables, claims)


def reading(rows: int, rounds: int) -> tuple[Table, list[Claim]]:
    """Read vectors back from the cache, checksums included, against `numpy.load` of the same matrix."""
    teacher, texts = Lookup(rows), [str(row) for row in range(rows)]
    with tempfile.TemporaryDirectory() as scratch:
        store, file = EmbeddingCache(Path(scratch) / "cache"), Path(scratch) / "vectors.npy"
        store.embed(teacher, texts)
        np.save(file, teacher.vectors)
        took = cpu_milliseconds(
            {"cache": lambda: store.embed(teacher, texts), "numpy.load": lambda: np.load(file)}, rounds
        )
    lines: list[Row] = [
        {"reading": name, "vectors/s": rows / ms * 1e3, "MB/s": 4 * DIM * rows / ms / 1e3} for name, ms in took.items()
    ]
    note = (
        f"{rows:,} vectors of {DIM} float32 by their texts, every shard's sha256 checked; from the system's file cache."
    )
    return Table("Reading from the embedding cache", note, lines), [
        Claim("cached reading", rows / took["cache"] * 1e3, READ, at_most=False, unit="vectors/s")
    ]


def embedding(count: int, rounds: int) -> tuple[Table, list[Claim]]:
    """Embed texts by `Teacher`, against a bare loop over transformers with the same batches."""
    from transformers import AutoModel, AutoTokenizer

    teacher = Teacher()
    texts = [text for split in sentences(2 * count).splits.values() for text in split.inputs][:count]
    tokenizer, model = AutoTokenizer.from_pretrained(teacher._directory), AutoModel.from_pretrained(teacher._directory)
    model.eval()
    order = sorted(texts, key=lambda text: -len(tokenizer(text)["input_ids"]))

    @torch.inference_mode()
    def bare() -> None:
        for start in range(0, count, _BATCH):
            batch = tokenizer(
                order[start : start + _BATCH], padding=True, truncation=True, max_length=128, return_tensors="pt"
            )
            hidden = model(**batch).last_hidden_state
            torch.nn.functional.normalize(pool(hidden, batch["attention_mask"], "mean"), dim=-1).numpy()

    took = cpu_milliseconds({"Teacher.encode": lambda: teacher.encode(texts, _BATCH), "bare loop": bare}, rounds)
    ratio = took["Teacher.encode"] / took["bare loop"]
    lines: list[Row] = [
        {"embedding": name, "texts/s": count / ms * 1e3, "÷ bare loop": ms / took["bare loop"]}
        for name, ms in took.items()
    ]
    note = (
        f"{count:,} sentences by all-MiniLM-L6-v2, batches of {_BATCH} by length. The bare loop is given the batches; "
        "`Teacher` has to tokenise all texts first to make them."
    )
    return Table("Embedding", note, lines), [Claim("Teacher.encode ÷ a bare loop of the same batches", ratio, EMBED)]


def waiting(windows: int) -> tuple[Table, list[Claim]]:
    """Time a batch of the training loader, of rows in memory and on disk, against an update of configs/fast.yaml."""
    step = statistics.median(trainer.pace(trainer.find(trainer.FAST), 1, windows).wall)
    rows = 120_000  # as float32 more than is read into memory
    lines: list[Row] = []
    claims = []
    with tempfile.TemporaryDirectory() as scratch, one_thread():
        for where, count in (("in memory", 20_000), ("on disk", rows)):
            file = Path(scratch) / f"{where}.npy"
            np.save(file, np.random.default_rng(0).normal(size=(count, DIM)).astype(np.float32))
            data = EmbeddingData("vectors", None, batch_size=_BATCH, path=file)
            data.prepare()
            each = _loader_seconds(data)
            share = 100 * each / step
            lines.append({"rows": where, "ms a batch": 1e3 * each, "% of an update": share})
            claims.append(Claim(f"waiting for a batch of rows {where}, of an update", share, WAIT, unit="%"))
    note = (
        f"Batches of {_BATCH} × {DIM} from the training loader, shuffled, without workers, by the clock; the median. "
        f"An update of `{trainer.FAST}` takes {1e3 * step:.0f} ms through the trainer, on one thread."
    )
    return Table("Waiting for data", note, lines), claims


def _loader_seconds(data: EmbeddingData, batches: int = 300) -> float:
    found = []
    walk = iter(data.dataloader("train"))
    for _ in range(min(batches, len(data.splits["train"]) // _BATCH)):
        start = time.perf_counter()
        next(walk)
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def resident(gigabytes: float) -> tuple[Table, list[Claim]]:
    """Train one epoch over a prepared file through the real trainer, and over a small one, each in its own process."""
    lines: list[Row] = []
    peaks = []
    with tempfile.TemporaryDirectory() as scratch:
        for size in (0.02, gigabytes):
            file = Path(scratch) / "vectors.npy"
            rows = write_vectors(file, size)
            found = alone(train_on, file=str(file), folder=str(Path(scratch) / f"{size}"))
            peaks.append(found["peak"])
            lines.append(
                {
                    "file": f"{size:g} GB",
                    "rows": rows,
                    "updates": found["updates"],
                    "seconds": found["seconds"],
                    "peak resident, GB": found["peak"] and found["peak"] / 1e9,
                }
            )
    more = (peaks[1] - peaks[0]) / 1e9 if all(peaks) else float("nan")
    note = (
        f"`latticegnn fit`, one epoch over a .npy file of {DIM} float32 a row, in batches of 4,096 through a lattice "
        "of 3 × 3 × 5 cells; checking, splitting, training and evaluation included. Each run in a process of its own."
    )
    claim = Claim(f"training on {gigabytes:g} GB, resident above training on 0.02 GB", more, RESIDENT, unit="GB")
    return Table("A file larger than what is held of it", note, lines), [claim]


def write_vectors(file: Path, gigabytes: float) -> int:
    """Write a .npy file of distinct random vectors, a part at a time; return its rows."""
    rows = int(gigabytes * 1e9) // (4 * DIM)
    array = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=(rows, DIM))
    for start in range(0, rows, 20_000):
        part = array[start : start + 20_000]
        part[:] = np.random.default_rng(start).normal(size=part.shape)
        array.flush()
    return rows


def train_on(file: str, folder: str) -> dict[str, Any]:
    """Train one epoch on prepared vectors; return the updates, seconds, and the process's peak of resident memory."""
    from latticegnn.training.fit import Run

    words = {
        "data.task": "vectors", "data.path": file, "data.limit": "null", "data.batch_size": 4096, "run_dir": folder,
        "model.spec.shape": "[3, 3, 5]", "model.spec.radii": "[0.5, 1.0, 1.5]", "model.embedding_dim": DIM,
        "model.channels": 4, "model.hidden": 4, "model.steps": 5, "trainer.max_epochs": 1,
        "trainer.enable_progress_bar": "false", "trainer.logger": "false", "trainer.accelerator": "cpu",
        "trainer.devices": 1, "baselines": "[mean, pca]", "log_level": "error",
    }  # fmt: skip
    run = Run([word for key, value in words.items() for word in (f"--{key}", str(value))])
    start = time.perf_counter()
    run.execute()
    return {
        "updates": run.trainer.global_step,
        "seconds": time.perf_counter() - start,
        "peak": process_peak_bytes(),
    }
