"""The HTTP service: requests a second and their times, against the model alone, under bad clients, and over time."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latticegnn.benchmarks.alone import alone
from latticegnn.benchmarks.clients import load, trouble
from latticegnn.benchmarks.results import Claim, Result, Row, Table
from latticegnn.data import Teacher
from latticegnn.data.teacher_card import write_teacher
from latticegnn.lattice import LatticeSpec
from latticegnn.model import LatticeModel
from latticegnn.predictor import Predictor

DIM, CONNECTIONS = 384, 32
GROWTH, SHARE, HARM = 8.0, 0.5, 3.0  # MB; of the model alone; times the 99th percentile without bad clients
_TRANSFER = 3  # seconds, so that slow clients come to their end while it is measured


@dataclass(frozen=True)
class Case:
    """A model and what it is asked.

    Args:
        name: In the tables.
        spec: The lattice.
        steps: Of its rollout.
        texts: Whether texts are sent, through a teacher, or embeddings.
        requests: For one measurement.
    """

    name: str
    spec: LatticeSpec
    steps: int
    texts: bool
    requests: int

    def save(self, folder: Path) -> None:
        """Write the model, untrained, and where texts are sent its teacher's name."""
        LatticeModel(self.spec, DIM, steps=self.steps).save_pretrained(folder)
        if self.texts:
            write_teacher(folder, Teacher("packaged:minilm"))


SMALL = Case("3×3×5, embeddings", LatticeSpec((3, 3, 5), radii=(0.5, 1.0, 1.5)), 5, False, 10_000)
CASES = (
    SMALL,
    Case("8×8×8, embeddings", LatticeSpec(), 8, False, 5_000),
    Case("8×8×8, texts", LatticeSpec(), 8, True, 1_000),
)


def measure(quick: bool = False) -> Result:
    """Measure all cases and the long run; with ``quick`` the small lattice and fewer requests."""
    rows: list[Row] = []
    claims: list[Claim] = []
    for case in CASES[:1] if quick else CASES:
        found, judged = throughput(case, 1_000 if quick else case.requests)
        rows += found
        claims += judged
    note = (
        f"`latticegnn serve` and its client as two processes of one thread each, over loopback, {CONNECTIONS} "
        "connections that are kept, a row a request. At saturation each connection sends its next request at once; at "
        "half of that rate requests come at random moments, and their times count from these. Rows a forward: what the "
        "service joined. ÷ alone: rows a second, against `Predictor.predict` in a process of its own, in batches of "
        "that many rows. Beside bad clients: the same half rate while another process sends, by the second, ten bodies "
        "that are no question, ten requests that are no HTTP and two bodies of 2 MB, and keeps twenty heads and bodies "
        "that never end."
    )
    long, growth = soak(3_000 if quick else 100_000)
    return Result("serve", [Table("The service", note, rows), long], [*claims, growth])


def throughput(case: Case, requests: int) -> tuple[list[Row], list[Claim]]:
    """Load one case at saturation, at half of it, and at half of it beside bad clients."""
    asked: dict[str, Any] = {"connections": CONNECTIONS, "dim": None if case.texts else DIM}
    with tempfile.TemporaryDirectory() as scratch:
        case.save(Path(scratch))
        with launched(Path(scratch)) as (port, _):
            alone(load, port=port, requests=requests // 10, **asked)
            before = figures(port)
            full = alone(load, port=port, requests=requests, **asked)
            joined = (after := figures(port))["rows"] - before["rows"], after["forwards"] - before["forwards"]
            rate = requests / full["seconds"]
            half = alone(load, port=port, requests=requests // 2, rate=rate / 2, **asked)
            with ThreadPoolExecutor() as pool:
                bad = pool.submit(alone, trouble, port=port, seconds=max(2.0, half["seconds"]))
                time.sleep(1)  # until the bad ones have started
                beside = alone(load, port=port, requests=requests // 2, rate=rate / 2, seed=1, **asked)
                refused = bad.result()
        batch = max(1, round(joined[0] / joined[1]))
        direct = alone(directly, folder=scratch, batch=batch, texts=case.texts, seconds=3.0)
    lines: list[Row] = [
        {
            "model, load": f"{case.name}, {name}",
            "requests/s": figure["statuses"].get("200", 0) / figure["seconds"],
            "p50 ms": figure["p50"],
            "p99 ms": figure["p99"],
            "rows a forward": joined[0] / joined[1] if figure is full else None,
            "÷ alone": rate / direct["rate"] if figure is full else None,
            "failed": sum(figure["statuses"].values()) - figure["statuses"].get("200", 0),
        }
        for name, figure in (("saturated", full), ("half", half), ("half, beside bad clients", beside))
    ]
    failed = sum(line["failed"] for line in lines)
    taken = sum(n for kinds in refused.values() for line, n in kinds.items() if not re.match(r"HTTP/1.1 4|cut", line))
    bad_ones = sum(n for kinds in refused.values() for n in kinds.values())
    claims = [
        Claim(f"{case.name}: good requests that failed, of {2 * requests:,}", failed, 0, unit="requests"),
        Claim(f"{case.name}: bad requests that were not refused, of {bad_ones:,}", taken, 0, unit="requests"),
        Claim(f"{case.name}: p99 beside bad clients ÷ without", beside["p99"] / half["p99"], HARM),
    ]
    if case is not SMALL:  # there the model takes less time than HTTP and JSON
        claims.append(Claim(f"{case.name}: rows/s ÷ the model alone", rate / direct["rate"], SHARE, at_most=False))
    return lines, claims


def soak(requests: int) -> tuple[Table, Claim]:
    """Send many requests to the small lattice and look at the memory of the service."""
    lines: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        SMALL.save(Path(scratch))
        with launched(Path(scratch)) as (port, memory):
            sent = 0
            for until in (0, requests // 10, requests // 2, requests):
                if until > sent:
                    alone(load, port=port, requests=until - sent, connections=CONNECTIONS, dim=DIM, seed=until)
                    sent = until
                lines.append({"requests": sent, "resident MB": memory()})
    growth = lines[-1]["resident MB"] - lines[1]["resident MB"]
    note = (
        f"Resident memory of the service, {SMALL.name}, after so many requests, {CONNECTIONS} connections at a time. "
        "Flat is judged from the second row on: before it the process grows to what a full load needs."
    )
    text = f"growth of the service from {requests // 10:,} to {requests:,} requests"
    return Table("The service over time", note, lines), Claim(text, growth, GROWTH, unit="MB")


@contextlib.contextmanager
def launched(folder: Path) -> Iterator[tuple[int, Any]]:
    """Start the service of a saved model as a program; give its port, and a function for its resident memory in MB.

    Raises:
        ChildProcessError: When it does not start, or does not end well.
    """
    import psutil  # type: ignore[import-untyped]

    words = [sys.executable, "-m", "latticegnn", "serve", "--model", str(folder), "--port", "0"]
    words += ["--limits.transfer_seconds", str(_TRANSFER)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        try:
            found = re.search(r":(\d+);", program.stdout.readline())
            if found is not None:
                process = psutil.Process(program.pid)
                yield int(found[1]), lambda: process.memory_info().rss / 1e6
        finally:
            program.terminate()
            _, said = program.communicate()
    if found is None or program.returncode:
        raise ChildProcessError(
            f"the service must start and end well; {' '.join(words[2:])} ended with status {program.returncode}: "
            f"{' '.join(said.split())[-600:]}; install 'latticegnn[serve]', or leave out: serve."
        )


def figures(port: int) -> dict[str, float]:
    """Read the service's own counts of rows and forwards."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    return {name: float(value) for name, value in re.findall(r"^latticegnn_(\w+?)_total (\S+)$", text, re.MULTILINE)}


def directly(folder: str, batch: int, texts: bool, seconds: float) -> dict[str, Any]:
    """Return rows a second of `Predictor.predict` itself, in batches of one size."""
    predictor = Predictor(folder)
    vectors = np.random.default_rng(0).normal(size=(batch, DIM)).astype(np.float32)
    inputs: Any = [f"What does function number {row} return, and when?" for row in range(batch)] if texts else vectors
    predictor.predict(inputs)
    start, rows = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        rows += len(predictor.predict(inputs))
    return {"rate": rows / (time.perf_counter() - start)}
