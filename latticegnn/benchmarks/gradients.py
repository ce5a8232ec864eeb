"""What each way back through a rollout takes, in time and memory, and how near it comes to the exact gradient."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latticegnn.benchmarks.alone import alone, peak_bytes
from latticegnn.benchmarks.measure import cpu_milliseconds
from latticegnn.benchmarks.results import Claim, Result, Row, Table
from latticegnn.lattice import LatticeSpec
from latticegnn.model import LatticeModel
from latticegnn.nn import build_gradient
from latticegnn.training.losses import Loss, LossWeights

EMBEDDING, ROWS = 384, 128
LIMIT = 256
UPDATES, LONG = 30, (16, 32)  # of training for rest, and the steps of its rollouts
GRADIENTS: dict[str, Any] = {
    "full": None,
    "checkpointed": "checkpointed",
    "truncated, 4 steps": {"truncated": {"steps": 4}},
    "truncated, 16 steps": {"truncated": {"steps": 16}},
    "implicit, gmres": {"implicit": {"tolerance": 0.01}},
    "implicit, iteration": {"implicit": {"solver": "iteration", "tolerance": 0.01}},
}
PARTS = {"all": ("",), "cell": ("cell.",), "maps in": ("mapper.", "transformer.encoder.")}
FULL, CHECKPOINTED, IMPLICIT = "full", "checkpointed", "implicit, gmres"


Gradient = Mapping[str, Tensor]


@dataclass(frozen=True)
class Case:
    """A model of the default size, and rollouts of a batch through it.

    Args:
        steps: T.
        resting: A model with clamped ports, trained to come to rest; otherwise the default model at its start.
        batch: B.
    """

    steps: int
    resting: bool = False
    batch: int = 16

    @property
    def limit(self) -> int:
        """Steps whose full gradient counts as exact: of a resting model so many that more change nothing."""
        return LIMIT if self.resting else self.steps

    @property
    def names(self) -> list[str]:
        """The gradients that are measured on it."""
        return [n for n in GRADIENTS if self.resting or not n.startswith("implicit")]

    def __str__(self) -> str:
        return f"{'resting model, clamped' if self.resting else 'default model'}, T = {self.steps}, B = {self.batch}"


CASES = (Case(8), Case(32), Case(64, resting=True, batch=8))


def measure(quick: bool = False) -> Result:
    """Measure every case, and judge the claims; with ``quick`` the first and no memory."""
    tables, claims = [], []
    for case in CASES[:1] if quick else CASES:
        table, found = compare(case, rounds=3, memory=not quick)
        tables.append(table)
        claims += found
    return Result("gradients", tables, claims)


def compare(case: Case, rounds: int, memory: bool) -> tuple[Table, list[Claim]]:
    """Measure one case.

    Args:
        case: The model and its rollout.
        rounds: Measured rounds, ≥ 1.
        memory: Also measure peak memory, in a process of its own.
    """
    steps = {name: gradient_step(name, case) for name in case.names}
    exact = gradient_step(FULL, case, case.limit)()
    near = {name: cosines(step(), exact) for name, step in steps.items()}
    times = cpu_milliseconds(steps, rounds)
    peaks = alone(profile, **vars(case)) if memory else {}
    whole = peaks.get(FULL)
    rows: list[Row] = [
        {
            "gradient": name,
            "CPU ms": times[name],
            "time ÷ full": times[name] / times[FULL],
            "peak MB": None if peaks.get(name) is None else peaks[name] / 1e6,
            "memory ÷ full": peaks[name] / whole if whole else None,
            **{f"cosine, {part}": value for part, value in near[name].items()},
        }
        for name in case.names
    ]
    note = (
        f"8³, F = 8, hidden 16, embedding of {EMBEDDING}: forward and backward of the whole model, fused and eager; "
        f"one thread, CPU time, medians of {rounds} interleaved rounds; peak memory above what stays after a first "
        "one, in a process of its own. Cosines are to full backpropagation through "
        f"{case.limit} steps, over all parameters, the cell's alone, and those of the maps into the lattice; the maps "
        "out of it have their exact gradient in every mode."
    )
    claims = [
        Claim(
            f"{case}: cosine of {CHECKPOINTED}, at least that of {FULL}",
            near[CHECKPOINTED]["all"],
            near[FULL]["all"],
            at_most=False,
            unit="of 1",
        )
    ]
    if case.resting:
        change, factor = rest(case)
        note += (
            f" Trained for {UPDATES} updates with T drawn from {LONG[0]} to {LONG[1]} and the dynamics loss; after T "
            f"steps the last one has changed the state by {change:.2g} of its norm, {factor:.3f} times as much as the "
            "one before: the contraction factor. The adjoint equations are solved to 0.01."
        )
        claims += [
            Claim(f"{case}: cosine of {IMPLICIT}, {part}", near[IMPLICIT][part], 0.99, at_most=False, unit="of 1")
            for part in ("cell", "maps in")
        ]
        if whole:
            claims.append(Claim(f"{case}: peak memory, {IMPLICIT} ÷ full", peaks[IMPLICIT] / whole, 0.25))
    return Table(f"Gradients, {case}", note, rows), claims


def gradient_step(name: str, case: Case, steps: int | None = None) -> Callable[[], Gradient]:
    """Return what takes a case's gradient by one of `GRADIENTS`, in one vector for each part of the parameters.

    Args:
        name: The gradient.
        case: The model and its rollout.
        steps: T, where not the case's.
    """
    model = copy.deepcopy(prepared(case.steps, case.resting))
    model.gradient = build_gradient(GRADIENTS[name])
    inputs, targets = _data(1)
    inputs, targets = inputs[: case.batch], targets[: case.batch]

    def take() -> Gradient:
        model.zero_grad()
        error = model.rollout(inputs, steps or case.steps).embedding - targets
        error.square().sum(dim=1).mean().backward()
        return {
            part: torch.cat([_gradient(p) for name, p in model.named_parameters() if name.startswith(first)])
            for part, first in PARTS.items()
        }

    return take


def cosines(found: Gradient, exact: Gradient) -> dict[str, float]:
    """Return the cosine of two gradients by part: 1 for the same numbers, 0 where there is none."""
    same = torch.nn.functional.cosine_similarity
    return {
        part: 1.0
        if torch.equal(found[part], exact[part])
        else float(same(found[part].double(), exact[part].double(), 0))
        for part in exact
    }


def profile(**case: Any) -> dict[str, Any]:
    """Measure the bytes that each gradient, taken a second time, holds at its peak."""
    found = {}
    for name in Case(**case).names:
        take = gradient_step(name, Case(**case))
        take()
        found[name] = peak_bytes(take)
    return found


def rest(case: Case) -> tuple[float, float]:
    """Return how much the last step changes the worst sample, as a part of its norm, and the factor from step to step.

    The factor is the mean one of the last quarter of the steps.
    """
    model = prepared(case.steps, case.resting)
    with torch.no_grad():
        states = model.rollout(_data(1)[0][: case.batch], case.steps, trajectory=True)
    assert states.trajectory is not None
    change = states.trajectory.diff(dim=0).flatten(2).norm(dim=2)
    last = max(1, case.steps // 4)
    factor = (change[-1] / change[-1 - last]) ** (1 / last)
    return float((change[-1] / states.state.flatten(1).norm(dim=1)).max()), float(factor.max())


@functools.cache
def prepared(steps: int, resting: bool) -> LatticeModel:
    """Build a case's model; one that rests is trained for it, the same in every process."""
    # Half of the longest step: what the ports hold then spreads without swinging.
    model = LatticeModel(
        LatticeSpec((8, 8, 8)), EMBEDDING, steps=16 if resting else steps, clamp=resting, execution="fused"
    )
    inputs, targets = _data(0)
    model.fit_maps(inputs, targets)
    if not resting:
        return model
    criterion = Loss(LossWeights(dynamics=1.0), model.spec)
    cell = list(model.cell.parameters())
    maps = [p for name, p in model.named_parameters() if not name.startswith("cell.")]
    optimizer = torch.optim.AdamW([{"params": cell, "lr": 1e-2}, {"params": maps, "lr": 1e-3}])
    generator = torch.Generator().manual_seed(2)
    for _ in range(UPDATES):
        rows = torch.randint(ROWS, (8,), generator=generator)
        count = int(torch.randint(LONG[0], LONG[1] + 1, (), generator=generator))
        out = model.rollout(inputs[rows], count, trajectory=True)
        loss = torch.stack(list(criterion(out.embedding, targets[rows], out.trajectory).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model


def _gradient(parameter: Tensor) -> Tensor:
    return (torch.zeros_like(parameter) if parameter.grad is None else parameter.grad).flatten()


def _data(seed: int) -> tuple[Tensor, Tensor]:
    """Draw vectors of length one, mostly in 32 directions, and what a fixed linear map makes of them."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.Generator().manual_seed(9)
    basis, turn = (torch.randn(32, EMBEDDING, generator=shared) for _ in range(2))
    weights = torch.randn(ROWS, 32, generator=generator)
    return tuple(torch.nn.functional.normalize(weights @ made, dim=1) for made in (basis, turn))  # type: ignore[return-value]
