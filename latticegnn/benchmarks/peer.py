"""The cell against a neural cellular automaton of the same neighbourhood and size, written by hand with Conv3d."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from latticegnn.benchmarks.alone import alone, peak_bytes
from latticegnn.benchmarks.measure import cpu_milliseconds
from latticegnn.benchmarks.results import Claim, Result, Row, Table
from latticegnn.benchmarks.step import trainer
from latticegnn.lattice import LatticeSpec
from latticegnn.nn import FusedStep, LatticeCell
from latticegnn.nn.kernels import compiler

CHANNELS, HIDDEN = 16, 64
RADII = (0.5, 1.0, 1.75)  # 6 functional and 20 distant neighbours: a 3×3×3 block
SAME_SIZE = 0.02  # part by which the numbers of parameters may differ
CONV, CONV_COMPILED = "Conv3d, eager", "Conv3d, compiled"
OURS_EAGER, OURS, OURS_RECOMPUTE = "ours, eager", "ours, compiled", "ours, compiled, recompute"
TIME_LIMIT, MEMORY_LIMIT = 1.3, 1.0


@dataclass(frozen=True)
class Case:
    """A training step on a cube."""

    side: int
    batch: int
    steps: int

    def __str__(self) -> str:
        return f"{self.side}³ B{self.batch}, {self.steps} steps"


CASES = tuple(Case(side, batch, steps) for side, batch in ((8, 8), (16, 1), (32, 1)) for steps in (5, 20))


class ConvAutomaton(nn.Module):
    """Perception by a depthwise 3×3×3 convolution C -> 4C, a perceptron with ReLU in every cell, added to the state.

    Shapes:
        - input, output: state [B, C, X, Y, Z], kept in `torch.channels_last_3d`
    """

    def __init__(self) -> None:
        super().__init__()
        self.perception = nn.Conv3d(CHANNELS, 4 * CHANNELS, 3, padding=1, groups=CHANNELS, bias=False)
        self.inner = nn.Conv3d(4 * CHANNELS, HIDDEN, 1)
        self.outer = nn.Conv3d(HIDDEN, CHANNELS, 1)
        for layer in (self.perception, self.inner, self.outer):
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last_3d)

    def forward(self, x: Tensor) -> Tensor:
        """Move every cell by one step."""
        return x + self.outer(torch.relu(self.inner(self.perception(x))))


def measure(quick: bool = False) -> Result:
    """Time both automata and measure their memory, and judge the claims; with ``quick`` one case, and no memory."""
    times, profiles = {}, {}
    for case in CASES[2:3] if quick else CASES:
        times[case] = compare(case, rounds=5)
        if not quick:
            # What is compiled depends on the cube alone: the first case of each starts cold.
            profiles[case] = {n: alone(profile, case.steps == 5, variant=n, **vars(case)) for n in times[case]}
    return Result("peer", [table(times, profiles)], judge(times, profiles))


def compare(case: Case, rounds: int) -> dict[str, float]:
    """Return milliseconds of CPU time of a training step by variant, interleaved."""
    return cpu_milliseconds({name: training_step(name, case) for name in variants()}, rounds)


def table(times: dict[Case, dict[str, float]], profiles: dict[Case, dict[str, dict[str, Any]]]) -> Table:
    """Lay out times by case and variant, and what `profile` gave."""
    rows: list[Row] = []
    for case, figures in times.items():
        best, least = min(figures[n] for n in (CONV, CONV_COMPILED) if n in figures), _least(profiles.get(case, {}))
        for name, figure in figures.items():
            profiled = profiles.get(case, {}).get(name, {})
            peak = profiled.get("peak_bytes")
            rows.append(
                {
                    "case": str(case),
                    "variant": name,
                    "CPU ms": figure,
                    "µs a cell-step": 1e3 * figure / (case.side**3 * case.batch * case.steps),
                    "÷ best Conv3d": figure / best,
                    "peak MB": None if peak is None else peak / 1e6,
                    "÷ least Conv3d": None if peak is None or not least else peak / least,
                    "first call s": profiled.get("first_seconds") if "compiled" in name and case.steps == 5 else None,
                }
            )
    sizes = {n: sum(p.numel() for p in module().parameters()) for n, module in _MODULES.items()}
    return Table(
        "Against a convolutional automaton",
        "3×3×3 neighbourhood, 16 channels, float32: forward, backward, AdamW; one thread, CPU time, medians of 5 "
        "interleaved rounds. Conv3d: depthwise perception 16 -> 64, perceptron of 64 units, channels_last_3d, "
        f"{sizes['Conv3d']:,} parameters; ours: {hidden()} hidden units, {sizes['ours']:,} parameters. Peak memory "
        "of a second training step, above what stays after the first, and the first call (compilation from an empty "
        "cache included), each in a process of its own. The claims are judged on "
        f"“{_judged(variants())}” alone, a model's `gradient: checkpointed`, against the faster Conv3d for time and "
        "the smaller one for memory.",
        rows,
    )


def judge(times: dict[Case, dict[str, float]], profiles: dict[Case, dict[str, dict[str, Any]]]) -> list[Claim]:
    """Hold one of our configurations, the same for time and for memory, against what is claimed."""
    claims = []
    for case, figures in times.items():
        ours = _judged(list(figures))
        best = min(figures[name] for name in (CONV, CONV_COMPILED) if name in figures)
        claims.append(Claim(f"{case}: training time, {ours} ÷ Conv3d", figures[ours] / best, TIME_LIMIT))
        if case in profiles:
            peak, least = profiles[case][ours]["peak_bytes"], _least(profiles[case])
            ratio = peak / least if peak is not None and least else math.nan
            claims.append(Claim(f"{case}: peak memory, {ours} ÷ Conv3d", ratio, MEMORY_LIMIT))
    return claims


def variants() -> list[str]:
    """Name the variants that this machine can run."""
    if compiler(torch.device("cpu")):
        return [CONV, CONV_COMPILED, OURS_EAGER, OURS, OURS_RECOMPUTE]
    return [CONV, OURS_EAGER]


def hidden() -> int:
    """Return our hidden width: the multiple of 8 at which the numbers of parameters are nearest.

    Raises:
        ValueError: When they still differ by more than `SAME_SIZE`.
    """
    wanted = sum(p.numel() for p in ConvAutomaton().parameters())
    counts = {width: sum(p.numel() for p in _cell(width).parameters()) for width in range(8, 65, 8)}
    width = min(counts, key=lambda w: abs(counts[w] - wanted))
    if abs(counts[width] - wanted) > SAME_SIZE * wanted:
        raise ValueError(
            f"both automata must have the same number of parameters within {SAME_SIZE:.0%}; got {counts[width]} and "
            f"{wanted}; let the hidden width take other values."
        )
    return width


def training_step(variant: str, case: Case) -> Callable[[], None]:
    """Build a variant and return its training step."""
    module, bind, x = automaton(variant, case)
    return trainer(module, bind, x, case.steps)


def automaton(
    variant: str, case: Case, width: int | None = None
) -> tuple[nn.Module, Callable[[], Callable[[Tensor], Tensor]], Tensor]:
    """Build a variant.

    Args:
        variant: One of `variants`.
        case: The cube and its batch.
        width: Our hidden units; by default as many as give both the same number of parameters, see `hidden`.

    Returns:
        The module, what gives the step of a rollout, and a first state in the layout that the step takes.
    """
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    shape = (case.side, case.side, case.side)
    if variant in (CONV, CONV_COMPILED):
        module = ConvAutomaton()
        x = torch.randn(case.batch, CHANNELS, *shape, generator=generator)
        x = x.contiguous(memory_format=torch.channels_last_3d).requires_grad_()
        step = torch.compile(module, dynamic=False) if variant == CONV_COMPILED else module
        return module, lambda: step, x
    cell = _cell(width or hidden(), shape)
    x = torch.randn(case.side**3, case.batch, CHANNELS, generator=generator).requires_grad_()
    return cell, FusedStep(cell, compiled=variant != OURS_EAGER, recompute=variant == OURS_RECOMPUTE).bind, x


def profile(variant: str, **case: int) -> dict[str, Any]:
    """Measure seconds of a first training step, compilation included, and bytes of a second one at its peak."""
    train = training_step(variant, Case(**case))
    start = time.perf_counter()
    train()
    return {"first_seconds": time.perf_counter() - start, "peak_bytes": peak_bytes(train)}


def _cell(width: int, shape: tuple[int, int, int] = (3, 3, 3)) -> LatticeCell:
    return LatticeCell(LatticeSpec(shape, radii=RADII), CHANNELS, width)


_MODULES: dict[str, Callable[[], nn.Module]] = {"Conv3d": ConvAutomaton, "ours": lambda: _cell(hidden())}


def _judged(names: list[str]) -> str:
    return OURS_RECOMPUTE if OURS_RECOMPUTE in names else OURS_EAGER


def _least(profiles: dict[str, dict[str, Any]]) -> int | None:
    found = [profiles[name]["peak_bytes"] for name in (CONV, CONV_COMPILED) if name in profiles]
    return None if not found or None in found else min(found)
