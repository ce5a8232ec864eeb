"""How far the lattice grows: whole models of 37³ to 128³ in time and memory, and what a cell costs at each size."""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch

from latticegnn.benchmarks.alone import alone, process_peak_bytes
from latticegnn.benchmarks.measure import cpu_milliseconds
from latticegnn.benchmarks.results import Claim, Result, Row, Table
from latticegnn.benchmarks.step import COMPILED, EAGER, trainer, variants
from latticegnn.lattice import LatticeSpec, Ports, Tier, edge_count, steps_needed
from latticegnn.model import LatticeModel
from latticegnn.nn import FusedStep, LatticeCell

CHANNELS, HIDDEN, EMBEDDING = 32, 64, 16
RADII = (0.16, 1.04, 1.6)  # the default ratios' radii of 8³, whatever the size
MEMORY_LIMIT, GROWTH_LIMIT = 4e9, 2.0  # bytes; times
_FUNCTIONALS = 4  # mean and three first moments of each tier

logger = logging.getLogger("latticegnn")


@dataclass(frozen=True)
class Case:
    """A whole model of one sample.

    Args:
        side: Of the cube.
        local: Whether it has the fixed radius 1.6, or the default ratios.
        train: Forward, backward and optimiser, or forward alone.
        checkpoint: Keep each step's state alone.
        steps: Lattice steps; None for as many as the light cone needs.
    """

    side: int
    local: bool
    train: bool
    checkpoint: bool = False
    steps: int | None = None

    @property
    def spec(self) -> LatticeSpec:
        """The lattice."""
        return LatticeSpec((self.side,) * 3, radii=RADII if self.local else None)

    def __str__(self) -> str:
        radius = f"radius {self.spec.max_radius:g}"
        return f"{self.side}³, {radius}, {'training' if self.train else 'inference'}"


CASES = (
    Case(37, local=False, train=True),
    Case(64, local=True, train=True, checkpoint=True),
    Case(128, local=True, train=False, steps=8),
)
QUICK = (Case(12, local=False, train=True),)
SIDES, STEPS = (8, 16, 32, 64), 2


def measure(quick: bool = False) -> Result:
    """Measure whole models and the cost of a cell, and judge the claims; with ``quick`` up to 16³ only."""
    profiles = {}
    for case in QUICK if quick else CASES:
        logger.info("measuring %s", case)
        profiles[case] = alone(profile, **vars(case))
    # The quick one has a width that the quick run of `step` has compiled already.
    sides, width = (SIDES[:2], (16, 32)) if quick else (SIDES, (CHANNELS, HIDDEN))
    table, claim = cell_cost(sides, *width, STEPS, rounds=5)
    return Result("scaling", [model_table(profiles), table], [*judge(profiles), claim])


def profile(side: int, local: bool, train: bool, checkpoint: bool, steps: int | None) -> dict[str, Any]:
    """Measure seconds and peak bytes of a model's training step, or of its inference.

    A rollout of one step warms up; then one call is measured, or the median of three where one takes less than ten
    seconds.
    """
    case = Case(side, local, train, checkpoint, steps)
    needed = steps_needed(case.spec, Ports(face="z-"), Ports(face="z+"))
    count = steps or needed
    model = LatticeModel(
        case.spec,
        EMBEDDING,
        CHANNELS,
        HIDDEN,
        count,
        gradient="checkpointed" if checkpoint else None,
        require_light_cone=count >= needed,
    )
    model.train(train)
    embedding = torch.randn(1, EMBEDDING, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-8)

    def run(taken: int) -> None:
        with torch.set_grad_enabled(train):
            out = model.rollout(embedding, steps=taken)
        if train:
            out.embedding.square().mean().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    run(1)
    seconds: list[float] = []

    def timed() -> None:
        start = time.process_time()
        run(count)
        seconds.append(time.process_time() - start)

    timed()
    peak = process_peak_bytes()
    if seconds[0] < 10:
        timed()
        timed()
    return {
        "seconds": statistics.median(seconds),
        "peak_bytes": math.nan if peak is None else peak,
        "steps": count,
        "needed": needed,
        "backend": model.cell.backend,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def message_bytes(spec: LatticeSpec, batch: int = 1, channels: int = CHANNELS) -> int:
    """Estimate what PyG's default holds at once for one lattice step, from edge counts alone.

    One float32 message of F numbers for every edge of the functional and the distant tier, for their mean and their
    three first moments. Indices, gathered states and what autograd keeps of earlier steps come on top.
    """
    counts = edge_count(spec)
    edges = counts[Tier.FUNCTIONAL] + counts[Tier.DISTANT]
    return 4 * edges * _FUNCTIONALS * channels * batch


def model_table(profiles: Mapping[Case, Mapping[str, Any]]) -> Table:
    """Lay out what `profile` gave beside the estimate for PyG's default."""
    memory = psutil.virtual_memory().total
    rows: list[Row] = []
    for case, found in profiles.items():
        messages = message_bytes(case.spec)
        short = "" if found["steps"] >= found["needed"] else f" of {found['needed']} needed"
        rows.append(
            {
                "model": str(case),
                "steps": f"{found['steps']}{short}",
                "checkpoint": "yes" if case.checkpoint else "no",
                "backend": found["backend"],
                "seconds": found["seconds"],
                "µs a cell-step": 1e6 * found["seconds"] / (case.side**3 * found["steps"]),
                "peak GB": found["peak_bytes"] / 1e9,
                "PyG messages GB": messages / 1e9,
                "they fit": "yes" if messages < memory else "no",
            }
        )
    return Table(
        "Large models",
        f"Batch 1, F = {CHANNELS}, hidden {HIDDEN}, embedding of {EMBEDDING} numbers, one face to the opposite one. "
        "Training: forward, backward, AdamW, through the whole model. Seconds of CPU time on one thread, each case in "
        "a process of its own; peak memory is the whole process's, interpreter and libraries included. PyG messages: "
        f"what PyG's default would hold of one lattice step at least, E·F float32 for each of {_FUNCTIONALS} "
        "functionals of a tier, by count and not by trial; edge lists, gathered states and what autograd keeps come on "
        f"top. Whether that fits is judged against the {memory / 1e9:.0f} GB of this machine.",
        rows,
    )


def judge(profiles: Mapping[Case, Mapping[str, Any]]) -> list[Claim]:
    """Hold the models' memory against what is claimed: 4 GB in training, this machine's memory in inference."""
    memory = psutil.virtual_memory().total / 1e9
    return [
        Claim(
            f"{case}: peak memory", found["peak_bytes"] / 1e9, MEMORY_LIMIT / 1e9 if case.train else memory, unit="GB"
        )
        for case, found in profiles.items()
    ]


def cell_cost(sides: tuple[int, ...], channels: int, hidden: int, steps: int, rounds: int) -> tuple[Table, Claim]:
    """Time a training step of the bare cell at a fixed radius, by size.

    Args:
        sides: Of the cubes, rising.
        channels: F.
        hidden: Width of the experts' hidden layers.
        steps: Lattice steps.
        rounds: Measured rounds, ≥ 1.
    """
    batches = {side: sides[-1] ** 3 // side**3 for side in sides}
    variant = COMPILED if COMPILED in variants() else EAGER
    cells = {side: LatticeCell(Case(side, True, True).spec, channels, hidden) for side in sides}
    actions = {}
    for side, cell in cells.items():
        bind = FusedStep(cell, compiled=variant == COMPILED).bind
        for batch in {batches[side], 1}:
            x = torch.randn(side**3, batch, channels, generator=torch.Generator().manual_seed(0))
            actions[f"{side} {batch}"] = trainer(cell, bind, x.requires_grad_(), steps)
    times = cpu_milliseconds(actions, rounds)
    cost = {key: 1e3 * time_ / (steps * math.prod(_sizes(key))) for key, time_ in times.items()}
    equal = {side: cost[f"{side} {batches[side]}"] for side in sides}
    table_rows: list[Row] = [
        {
            "cube": f"{side}³",
            "backend": cells[side].backend,
            "batch": batches[side],
            "µs a cell-step": equal[side],
            f"÷ {sides[0]}³": equal[side] / equal[sides[0]],
            "at batch 1": cost[f"{side} 1"],
        }
        for side in sides
    ]
    table = Table(
        "Cost of a cell",
        f"Training step of the bare cell ({variant}), radius 1.6, F = {channels}, hidden {hidden}, {steps} steps: "
        f"forward, backward, AdamW; one thread, CPU time, medians of {rounds} interleaved rounds. The batch is chosen "
        "so that cells times samples are the same at every size; beside it batch 1, where small cubes have less than "
        "one chunk of rows and pay the fixed cost of a step alone.",
        table_rows,
    )
    text = f"cost of a cell from {sides[0]}³ to {sides[-1]}³ at radius 1.6, dearest ÷ cheapest"
    return table, Claim(text, max(equal.values()) / min(equal.values()), GROWTH_LIMIT)


def _sizes(key: str) -> tuple[int, int]:
    side, batch = map(int, key.split())
    return side**3, batch
