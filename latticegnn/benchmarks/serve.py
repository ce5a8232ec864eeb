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

CONNECTIONS = 32
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
        dim: Of the embeddings.
    """

    name: str
    spec: LatticeSpec
    steps: int
    texts: bool
    requests: int
    dim: int = 384

    def save(self, folder: Path) -> None:
        """Write the model, untrained, and where texts are sent its teacher's name."""
        LatticeModel(self.spec, self.dim, steps=self.steps).save_pretrained(folder)
        if self.texts:
            write_teacher(folder, Teacher("packaged:minilm"))


_SMALL = LatticeSpec((3, 3, 5), radii=(0.5, 1.0, 1.5))
LONG = Case("3×3×5, embeddings of 32 numbers", _SMALL, 5, False, 100_000, dim=32)
CASES = (
    Case("3×3×5, embeddings", _SMALL, 5, False, 5_000),
    Case("8×8×8, embeddings", LatticeSpec(), 8, False, 2_000),
    Case("8×8×8, texts", LatticeSpec(), 8, True, 500),
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
        "service joined. CPU ms a row: of the service's process, HTTP and JSON included, and of `Predictor.predict` in "
        "a process of its own, in batches of that many rows; ÷ alone is the second over the first, the share of the "
        "model's own throughput that is left on a core. Beside bad clients: the same half rate while another process "
        "sends, by the second, ten bodies that are no question, ten requests that are no HTTP and two bodies of 2 MB, "
        "and keeps twenty heads and bodies that never end. Times by the clock stretch on a busy machine."
    )
    long, growth = soak(LONG, 3_000 if quick else LONG.requests)
    return Result("serve", [Table("The service", note, rows), long], [*claims, growth])


def throughput(case: Case, requests: int) -> tuple[list[Row], list[Claim]]:
    """Load one case at saturation, at half of it, and at half of it beside bad clients."""
    asked: dict[str, Any] = {"connections": CONNECTIONS, "dim": None if case.texts else case.dim}
    with tempfile.TemporaryDirectory() as scratch:
        case.save(Path(scratch))
        with launched(Path(scratch)) as (port, process):
            alone(load, port=port, requests=requests // 10, **asked)
            before, spent = figures(port), process.cpu_times()
            full = alone(load, port=port, requests=requests, **asked)
            after, ended = figures(port), process.cpu_times()
            rate = requests / full["seconds"]
            half = alone(load, port=port, requests=requests // 2, rate=rate / 2, **asked)
            with ThreadPoolExecutor() as pool:
                bad = pool.submit(alone, trouble, port=port, seconds=max(2.0, half["seconds"]))
                time.sleep(1)  # until the bad ones have started
                beside = alone(load, port=port, requests=requests // 2, rate=rate / 2, seed=1, **asked)
                refused = bad.result()
        joined = (after["rows"] - before["rows"]) / (after["forwards"] - before["forwards"])
        cost = 1e3 * (ended.user + ended.system - spent.user - spent.system) / requests
        direct = alone(directly, folder=scratch, rows=max(1, round(joined)), texts=case.texts)["cpu"]
    lines: list[Row] = [
        {
            "model, load": f"{case.name}, {name}",
            "requests/s": found["statuses"].get("200", 0) / found["seconds"],
            "p50 ms": found["p50"],
            "p99 ms": found["p99"],
            "failed": sum(found["statuses"].values()) - found["statuses"].get("200", 0),
            "rows a forward": joined if found is full else None,
            "CPU ms a row": cost if found is full else None,
            "the model alone": direct if found is full else None,
            "÷ alone": direct / cost if found is full else None,
        }
        for name, found in (("saturated", full), ("half", half), ("half, beside bad clients", beside))
    ]
    answers = [(line, count) for kinds in refused.values() for line, count in kinds.items()]
    taken = sum(count for line, count in answers if not re.match(r"HTTP/1.1 4|cut", line))
    return lines, [
        Claim(f"{case.name}: good requests that failed", sum(line["failed"] for line in lines), 0, unit="requests"),
        Claim(f"{case.name}: bad ones that were not refused", taken, 0, unit=f"of {sum(n for _, n in answers)}"),
        Claim(f"{case.name}: p99 beside bad clients ÷ without", beside["p99"] / half["p99"], HARM),
        Claim(f"{case.name}: throughput ÷ the model alone", direct / cost, SHARE, at_most=False),
    ]


def soak(case: Case, requests: int) -> tuple[Table, Claim]:
    """Send many requests and look at the memory of the service."""
    lines: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        case.save(Path(scratch))
        with launched(Path(scratch)) as (port, process):
            sent = 0
            for until in (0, requests // 10, requests // 2, requests):
                failed = 0
                if until > sent:
                    found = alone(
                        load, port=port, requests=until - sent, connections=CONNECTIONS, dim=case.dim, seed=until
                    )
                    failed = until - sent - found["statuses"].get("200", 0)
                    sent = until
                lines.append({"requests": sent, "failed": failed, "resident MB": process.memory_info().rss / 1e6})
    growth = lines[-1]["resident MB"] - lines[1]["resident MB"]
    note = (
        f"Resident memory of the service, {case.name}, after so many requests over {CONNECTIONS} connections that each "
        "send their next one at once. Whether it is flat is judged from the second row on: before it the process grows "
        "to what a full load needs."
    )
    text = f"growth of the service from {requests // 10:,} to {requests:,} requests"
    return Table("The service over time", note, lines), Claim(text, growth, GROWTH, unit="MB")


@contextlib.contextmanager
def launched(folder: Path) -> Iterator[tuple[int, Any]]:
    """Start the service of a saved model as a program; give its port, and its process as psutil's.

    Raises:
        ChildProcessError: When it does not start, or does not end well.
    """
    import psutil  # type: ignore[import-untyped]

    words = [sys.executable, "-m", "latticegnn", "serve", "--model", str(folder), "--port", "0"]
    words += ["--limits.transfer_seconds", str(_TRANSFER), "--limits.keep_alive_seconds", "600"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=log, text=True) as program,
    ):
        assert program.stdout is not None
        try:
            found = re.search(r":(\d+);", program.stdout.readline())
            if found is not None:
                yield int(found[1]), psutil.Process(program.pid)
        finally:
            program.terminate()
            program.wait()
        log.seek(0)
        said = " ".join(log.read().split())[-600:]
    if found is None or program.returncode:
        raise ChildProcessError(
            f"the service must start and end well; {' '.join(words[2:])} ended with status {program.returncode}: "
            f"{said}; install 'latticegnn[serve]', or leave out: serve."
        )


def figures(port: int) -> dict[str, float]:
    """Read the service's own counts of rows and forwards."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    return {name: float(value) for name, value in re.findall(r"^latticegnn_(\w+?)_total (\S+)$", text, re.MULTILINE)}


def directly(folder: str, rows: int, texts: bool, seconds: float = 3.0) -> dict[str, Any]:
    """Return the milliseconds of CPU time that a row takes of `Predictor.predict` itself, in batches of one size."""
    predictor = Predictor(folder)
    vectors = np.random.default_rng(0).normal(size=(rows, predictor.dim)).astype(np.float32)
    inputs: Any = [f"What does function number {row} return, and when?" for row in range(rows)] if texts else vectors
    predictor.predict(inputs)
    start, calls = time.process_time(), 0
    while time.process_time() - start < seconds:
        predictor.predict(inputs)
        calls += 1
    return {"cpu": 1e3 * (time.process_time() - start) / (calls * rows)}
