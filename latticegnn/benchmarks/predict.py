"""What a question costs: from text to answers, against the teacher alone, and the search among many answers."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np

from latticegnn.answers import AnswerIndex
from latticegnn.benchmarks.measure import cpu_milliseconds, one_thread
from latticegnn.benchmarks.results import Claim, Result, Row, Table
from latticegnn.data import Teacher, sentences
from latticegnn.data.teacher_card import write_teacher
from latticegnn.inference import Inputs, Wanted, open_output, stream
from latticegnn.model import LatticeModel
from latticegnn.predictor import Predictor

ANSWERS = 5_000  # about as many as the standard library's docstrings give
LATENCY, STREAMED = 50.0, 1.5  # ms; times the teacher's own time


def measure(quick: bool = False) -> Result:
    """Measure a question, a stream of them, and the search; with ``quick`` fewer questions and answers."""
    tables, claims = [], []
    with tempfile.TemporaryDirectory() as scratch, one_thread():
        predictor = _predictor(Path(scratch))
        texts = sentences(2_000).splits["train"].inputs[: 256 if quick else 1_024]
        for table, found in (
            latency(predictor, texts[: 60 if quick else 400]),
            streamed(predictor, texts, Path(scratch), rounds=2 if quick else 3),
            searched((5_000,) if quick else (5_000, 200_000), rounds=3 if quick else 5),
        ):
            tables.append(table)
            claims += found
    return Result("predict", tables, claims)


def latency(predictor: Predictor, texts: list[str]) -> tuple[Table, list[Claim]]:
    """Ask one question after the other, each by the teacher alone, by the lattice alone, and in whole."""
    vectors = predictor.teacher.encode(texts)
    actions: dict[str, Callable[[int], object]] = {
        "Teacher.encode": lambda row: predictor.teacher.encode(texts[row : row + 1]),
        "the lattice": lambda row: predictor.carry(vectors[row : row + 1]),
        "search": lambda row: predictor.index and predictor.index.search(vectors[row : row + 1], 5),
        "Predictor.predict": lambda row: predictor.predict(texts[row : row + 1], "answers"),
    }
    clock: dict[str, list[float]] = {name: [] for name in actions}
    cpu: dict[str, list[float]] = {name: [] for name in actions}
    for row in range(len(texts)):
        for name, action in actions.items():
            start, worked = time.perf_counter(), time.process_time()
            action(row)
            cpu[name].append(1e3 * (time.process_time() - worked))
            clock[name].append(1e3 * (time.perf_counter() - start))
    warm = len(texts) // 10
    teacher = statistics.median(cpu["Teacher.encode"][warm:])
    lines: list[Row] = [
        {
            "one question": name,
            "median ms": statistics.median(clock[name][warm:]),
            "p99 ms": float(np.quantile(clock[name][warm:], 0.99)),
            "CPU median ms": statistics.median(cpu[name][warm:]),
            "CPU p99 ms": float(np.quantile(cpu[name][warm:], 0.99)),
            "CPU ÷ teacher": statistics.median(cpu[name][warm:]) / teacher,
        }
        for name in actions
    ]
    note = (
        f"{len(texts) - warm} sentences, each alone, after {warm} to warm up: the default lattice, all-MiniLM-L6-v2, "
        f"the five nearest of {ANSWERS:,} answers. One thread, in turn; by the clock, which other programs stretch, "
        "and in CPU time, which they do not."
    )
    return Table("One question", note, lines), [
        Claim("a question to its answers, median by the clock", lines[-1]["median ms"], LATENCY, unit="ms"),
        Claim("a question to its answers, p99 in CPU time", lines[-1]["CPU p99 ms"], LATENCY, unit="ms"),
    ]


def streamed(predictor: Predictor, texts: list[str], folder: Path, rounds: int) -> tuple[Table, list[Claim]]:
    """Predict a file of lines, against the teacher's encoding of the same lines in the same batches."""
    content = "\n".join(texts).encode()

    def predicted() -> None:
        output = open_output(folder / "out.jsonl", {"output": "answers"}, predictor.dim)
        stream(predictor, lambda: Inputs(BytesIO(content)), output, Wanted("answers"))
        output.close()

    def encoded() -> None:
        for start in range(0, len(texts), 64):
            predictor.teacher.encode(texts[start : start + 64], batch_size=64)

    took = cpu_milliseconds({"Teacher.encode": encoded, "predict, to a file": predicted}, rounds)
    lines: list[Row] = [
        {"lines": name, "lines/s": len(texts) / ms * 1e3, "÷ teacher": ms / took["Teacher.encode"]}
        for name, ms in took.items()
    ]
    note = f"{len(texts):,} sentences in batches of 64, answers written as JSON lines; CPU time, one thread."
    ratio = took["predict, to a file"] / took["Teacher.encode"]
    return Table("A stream of questions", note, lines), [Claim("predict ÷ the teacher alone", ratio, STREAMED)]


def searched(sizes: tuple[int, ...], rounds: int) -> tuple[Table, list[Claim]]:
    """Search among random answers, one query and 64 at a time, by both backends."""
    draw, lines = np.random.default_rng(0), list[Row]()
    for size in sizes:
        exact = AnswerIndex([""] * size, draw.normal(size=(size, 384)).astype(np.float32))
        queries = draw.normal(size=(64, 384)).astype(np.float32)
        indices = {"exact": exact, "faiss": exact.searched_by("faiss")}
        for count in (1, 64):
            actions = {name: partial(index.search, queries[:count], 10) for name, index in indices.items()}
            took = cpu_milliseconds(actions, rounds)
            lines.append({"answers × queries": f"{size:,} × {count}"} | {f"{name} ms": ms for name, ms in took.items()})
    note = "The ten nearest of random unit vectors of 384 numbers; both give the same answers. CPU time, one thread."
    return Table("Searching answers", note, lines), []


def _predictor(folder: Path) -> Predictor:
    """Save the default lattice, with its start's weights, and random answers, and load them as a user would."""
    teacher = Teacher()
    LatticeModel(embedding_dim=teacher.dim, skip=True).save_pretrained(folder / "model")
    write_teacher(folder / "model", teacher)
    vectors = np.random.default_rng(0).normal(size=(ANSWERS, teacher.dim)).astype(np.float32)
    index = AnswerIndex([f"answer {row}" for row in range(ANSWERS)], vectors, fingerprint=teacher.fingerprint)
    index.save(folder / "model" / "answers")
    return Predictor(folder / "model")
