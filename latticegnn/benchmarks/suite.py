"""All benchmarks in one run, and the page and the file that come of it."""

from __future__ import annotations

import importlib
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

from latticegnn.benchmarks.results import Claim, Result, Row, Table
from latticegnn.lattice.spec import did_you_mean

NAMES = ("aggregation", "step", "gradients", "peer", "scaling", "trainer", "data", "predict")
QUICK = ("aggregation", "step", "gradients", "scaling", "trainer")  # a peer's compilation alone takes half a minute


@dataclass(frozen=True)
class Machine:
    """Where and when figures were taken."""

    date: str
    processor: str
    cores: int
    memory_gb: float
    torch: str
    python: str
    threads: int = 1

    @classmethod
    def here(cls) -> Machine:
        """Describe this machine."""
        import psutil  # type: ignore[import-untyped]

        return cls(
            date=date.today().isoformat(),
            processor=_processor(),
            cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            memory_gb=round(psutil.virtual_memory().total / 1e9, 1),
            torch=torch.__version__,
            python=platform.python_version(),
        )

    def __str__(self) -> str:
        return (
            f"{self.date}, {self.processor}, {self.cores} cores, {self.memory_gb:g} GB, torch {self.torch}, "
            f"Python {self.python}"
        )


def chosen(names: Sequence[str], quick: bool) -> tuple[str, ...]:
    """Return the benchmarks that are asked for; where none is named all of them, or those of a quick run.

    Raises:
        ValueError: For an unknown name.
        FileNotFoundError: When the trainer is among them and its configurations are missing.
    """
    for name in names:
        if name not in NAMES:
            raise ValueError(
                f"a benchmark is one of {', '.join(NAMES)}; got {name!r}.{did_you_mean(name, NAMES)} Name one of "
                "these, or none for all."
            )
    found = tuple(dict.fromkeys(names)) or (QUICK if quick else NAMES)
    if "trainer" in found:
        from latticegnn.benchmarks import trainer

        trainer.find(trainer.FAST)
    return found


def measure(name: str, quick: bool) -> Result:
    """Run one benchmark of `NAMES`; it imports what it needs only now."""
    if name == "aggregation":
        return aggregation(quick, rounds=3 if quick else 5)
    module = importlib.import_module(f"latticegnn.benchmarks.{name}")
    return module.measure(quick)


def aggregation(quick: bool, rounds: int) -> Result:
    """Run `latticegnn.benchmarks.aggregation` and put its figures into this run's form."""
    from latticegnn.benchmarks import aggregation as measured

    against, grid = measured.claims(rounds, quick), measured.grid(rounds, quick)
    note = "Forward and backward of the neighbourhood sums: one thread, CPU time, medians of interleaved rounds."
    tables = [
        Table("Aggregation against its references", note, _claim_rows(against)),
        Table("What “auto” takes, against the best backend", note, _grid_rows(grid)),
    ]
    claims = [
        Claim(f"{row.case}: times faster than {row.reference}", row.ratio, row.times, at_most=False)
        for row in against
        if row.times is not None
    ]
    worst = max(grid, key=lambda row: row.ratio)
    claims.append(Claim(f"auto ÷ best of {len(grid)} regimes, worst: {worst.case}", worst.ratio, 1.25))
    return Result("aggregation", tables, claims)


def to_json(machine: Machine, results: Sequence[Result], quick: bool) -> str:
    """Write machine, tables and claims as JSON."""
    content = {"machine": vars(machine), "quick": quick, "benchmarks": [result.to_dict() for result in results]}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def to_markdown(machine: Machine, results: Sequence[Result], quick: bool) -> str:
    """Write machine, tables and claims as a page."""
    kept = [claim.holds for result in results for claim in result.claims]
    how = "Small cases only (`--quick`). " if quick else ""
    head = (
        "# Performance\n\n"
        f"{machine}.\n\n"
        f"{how}Made by `latticegnn bench --markdown FILE`; `--json FILE` writes the same figures for programs. Every "
        "table comes from one run, in which its variants took turns; trust ratios within a table more than "
        f"milliseconds. Of {len(kept)} claims {sum(kept)} hold.\n\n"
    )
    return head + "\n\n".join(result.markdown() for result in results) + "\n"


def check_writable(file: Path | None) -> None:
    """Refuse, before minutes of measuring, a file that cannot be written.

    Raises:
        ValueError: When its folder is missing.
    """
    if file is not None and not file.parent.is_dir():
        raise ValueError(
            f"a result is written into a folder that exists; got {file}, and {file.parent} is none; create it first."
        )


def _claim_rows(rows: Sequence[Any]) -> list[Row]:
    return [
        {
            "regime": row.case,
            "auto takes": row.chosen,
            "ms": row.milliseconds[row.chosen],
            "tables MB": row.megabytes[row.chosen],
            "reference": row.reference,
            "its ms": row.milliseconds[row.reference],
            "times faster": row.ratio,
        }
        for row in rows
    ]


def _grid_rows(rows: Sequence[Any]) -> list[Row]:
    names = sorted({name for row in rows for name in row.milliseconds})
    return [
        {"regime": row.case, "auto takes": row.chosen}
        | {f"{name} ms": row.milliseconds.get(name) for name in names}
        | {"÷ best": row.ratio}
        for row in rows
    ]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())
