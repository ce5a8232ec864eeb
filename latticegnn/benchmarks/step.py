"""What a training step of the cell takes: in its plain form, readable, fused, and as its bare matrix products."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from latticegnn.aggregate.product import linear
from latticegnn.benchmarks.alone import alone, peak_bytes
from latticegnn.benchmarks.measure import cpu_milliseconds
from latticegnn.benchmarks.results import Claim, Result, Row, Table
from latticegnn.lattice import LatticeSpec
from latticegnn.nn import FusedStep, LatticeCell
from latticegnn.nn.fused import fold
from latticegnn.nn.kernels import compiler

EDGE, READABLE, EAGER = "PyG default cell", "readable cell, sparse", "fused, eager"
COMPILED, RECOMPUTE, BF16 = "fused, compiled", "fused, compiled, recompute", "fused, compiled, bf16 autocast"
BARE, BARE_ONEDNN = "bare GEMMs, torch.mm", "bare GEMMs, oneDNN"
CHUNKS = (512, 1024, 2048, 4096, 1 << 30)
Product = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """A training step: a rollout of the cell over a batch, its gradient, and the optimiser's update."""

    channels: int
    hidden: int
    shape: tuple[int, int, int] = (8, 8, 8)
    batch: int = 32
    steps: int = 5

    def __str__(self) -> str:
        return f"(F, H) = ({self.channels}, {self.hidden})"


CASES = (Case(8, 16), Case(16, 32), Case(32, 64))
#: Greatest time of the compiled and of the eager step in bare products, by (F, H).
LIMITS = {(16, 32): (2.4, 2.8), (32, 64): (2.0, 2.8)}
FASTER_THAN_EDGE = 2.7


def measure(quick: bool = False) -> Result:
    """Time every variant and the bare products, and judge the claims; with ``quick`` one size, and no memory."""
    tables, claims = [], []
    for case in CASES[1:2] if quick else CASES:
        table, found = compare(case, rounds=5, memory=not quick)
        tables.append(table)
        claims += found
    return Result("step", tables, claims)


def compare(case: Case, rounds: int, memory: bool) -> tuple[Table, list[Claim]]:
    """Measure one size.

    Args:
        case: The step.
        rounds: Measured rounds, ≥ 1.
        memory: Also measure peak memory and the compilers' cold start, each in a process of its own.
    """
    names = variants()
    actions = {name: training_step(name, case) for name in names}
    chunks = {}
    for name, product in {BARE: torch_mm, BARE_ONEDNN: linear}.items():
        trial = {str(rows): bare_products(case, product, rows) for rows in CHUNKS}
        found = cpu_milliseconds(trial, rounds=3)
        chunks[name] = int(min(found, key=lambda rows: found[rows]))
        actions[name] = trial[str(chunks[name])]
    times = cpu_milliseconds(actions, rounds)
    alike = {name: alone(profile, cold=name == COMPILED, variant=name, **vars(case)) for name in names if memory}
    return table(case, times, alike, _note(case, chunks, rounds)), judge(case, times)


def table(case: Case, times: dict[str, float], profiles: dict[str, dict[str, Any]], note: str) -> Table:
    """Lay out the times of one size, by variant, and what `profile` gave."""
    rows: list[Row] = []
    for name, time_ in sorted(times.items(), key=lambda item: -item[1]):
        profiled = profiles.get(name, {})
        peak = profiled.get("peak_bytes")
        rows.append(
            {
                "variant": name,
                "CPU ms": time_,
                "÷ torch.mm": time_ / times[BARE],
                "÷ oneDNN": time_ / times[BARE_ONEDNN],
                "PyG default ÷": times[EDGE] / time_,
                "peak MB": None if peak is None else peak / 1e6,
                "first call s": profiled.get("first_seconds") if name == COMPILED else None,
            }
        )
    return Table(f"Training step, {case}", note, rows)


def judge(case: Case, times: dict[str, float]) -> list[Claim]:
    """Hold the times of one size against what is claimed for it."""
    limits = LIMITS.get((case.channels, case.hidden))
    best = COMPILED if COMPILED in times else EAGER
    claims = [
        Claim(f"{case}: {best}, times faster than {EDGE}", times[EDGE] / times[best], FASTER_THAN_EDGE, at_most=False)
    ]
    if limits is not None:
        for name, limit in zip((COMPILED, EAGER), limits, strict=True):
            if name in times:
                claims.append(Claim(f"{case}: {name} ÷ {BARE}", times[name] / times[BARE], limit))
    return claims


def variants() -> list[str]:
    """Name the variants that this machine can run: compiled ones need a compiler, bf16 a processor that has it."""
    names = [EDGE, READABLE, EAGER]
    if compiler(torch.device("cpu")):
        names += [COMPILED, RECOMPUTE]
        if torch.ops.mkldnn._is_mkldnn_bf16_supported():
            names.append(BF16)
    return names


def training_step(variant: str, case: Case) -> Callable[[], None]:
    """Build a variant and return its training step."""
    spec = LatticeSpec(case.shape)
    torch.manual_seed(0)
    backend = {EDGE: "edge", READABLE: "sparse"}.get(variant, "auto")
    cell = LatticeCell(spec, case.channels, case.hidden, backend=backend)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(spec.num_nodes, case.batch, case.channels, generator=generator).requires_grad_()
    bind: Callable[[], Callable[[Tensor], Tensor]]
    if variant in (EDGE, READABLE):
        bind = lambda: cell.advance  # noqa: E731
    else:
        bind = FusedStep(cell, compiled=variant != EAGER, recompute=variant == RECOMPUTE).bind
    return trainer(cell, bind, x, case.steps, torch.bfloat16 if variant == BF16 else None)


def trainer(
    module: nn.Module,
    bind: Callable[[], Callable[[Tensor], Tensor]],
    x: Tensor,
    steps: int,
    autocast: torch.dtype | None = None,
) -> Callable[[], None]:
    """Return a training step: rollout, mean square of the last state, gradient, AdamW.

    Args:
        module: Whose parameters are trained.
        bind: Gives the step of a rollout.
        x: The first state, whose gradient is computed, too.
        steps: Lattice steps.
        autocast: Number format of the products, where not the state's own.
    """
    # So small a rate leaves the numbers, and with them the time, as they are.
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-8)

    def train() -> None:
        with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
            step, state = bind(), x
            for _ in range(steps):
                state = step(state)
        state.float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        x.grad = None

    return train


def bare_products(case: Case, product: Product, rows: int) -> Callable[[], None]:
    """Return the fused step's matrix products alone, forward and both backward ones, for all rows and steps.

    Args:
        case: The step, whose cell's folded weights give the sizes.
        product: ``(x [M, K], w [O, K]) -> [M, O]``.
        rows: Rows that are multiplied at a time.
    """
    spec = LatticeSpec(case.shape)
    own, others, outer, _ = fold(LatticeCell(spec, case.channels, case.hidden))
    total = spec.num_nodes * case.batch
    rows = min(rows, total)
    generator = torch.Generator().manual_seed(0)
    layers = []
    for folded in (own, *others, outer):
        weight = folded.detach().contiguous()
        inputs = torch.randn(total, weight.shape[1], generator=generator)
        grads = torch.randn(total, weight.shape[0], generator=generator)
        layers.append((inputs, grads, weight, weight.t().contiguous()))

    def multiply() -> None:
        for start in [first for _ in range(case.steps) for first in range(0, total, rows)]:
            chunk = slice(start, start + rows)
            for inputs, grads, weight, transposed in layers:
                product(inputs[chunk], weight)
                product(grads[chunk], transposed)
                product(grads[chunk].t(), inputs[chunk].t())

    return multiply


def torch_mm(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply ``x @ weight.T`` by the BLAS behind `torch.mm`."""
    return torch.mm(x, weight.t())


def profile(variant: str, **case: Any) -> dict[str, Any]:
    """Measure seconds of a first training step, compilation included, and bytes of a second one at its peak."""
    train = training_step(variant, Case(**case))
    start = time.perf_counter()
    train()
    return {"first_seconds": time.perf_counter() - start, "peak_bytes": peak_bytes(train)}


def bf16_error(case: Case) -> float:
    """Return the error of the last state under bf16 autocast, as a part of its norm."""
    torch.manual_seed(0)
    cell = LatticeCell(LatticeSpec(case.shape), case.channels, case.hidden)
    x = torch.randn(cell.num_nodes, case.batch, case.channels, generator=torch.Generator().manual_seed(0))
    found = []
    for enabled in (False, True):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            step, state = FusedStep(cell).bind(), x
            for _ in range(case.steps):
                state = step(state)
        found.append(state)
    return float((found[0] - found[1]).norm() / found[0].norm())


def _note(case: Case, chunks: dict[str, int], rounds: int) -> str:
    size = "×".join(map(str, case.shape))
    best = ", ".join(f"{name} in {'one piece' if r == CHUNKS[-1] else f'{r} rows'}" for name, r in chunks.items())
    return (
        f"{size}, batch {case.batch}, {case.steps} steps, float32: forward, backward, AdamW; one thread, CPU time, "
        f"medians of {rounds} interleaved rounds. The references at their best chunking: {best}. Peak memory of a "
        "second training step, above what stays after the first, and the first call (compilation from an empty cache "
        "included), each in a process of its own. Under bf16 autocast the last state differs by "
        f"{bf16_error(case):.1e} of its norm."
    )
