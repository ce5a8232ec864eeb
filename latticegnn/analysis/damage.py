"""What damage costs: quality with and without a lesion, over the steps after a blow, against its size."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from scipy.special import stdtrit
from torch import Tensor

from latticegnn.analysis.cell_lesions import CellLesion, Plane, RandomCells
from latticegnn.analysis.lesions import Lesion, lesioned
from latticegnn.analysis.metrics import fvu
from latticegnn.lattice import LatticeSpec, Ports, hops
from latticegnn.model import LatticeModel

Quality = Callable[[Tensor, Tensor], float]
"""From predictions [n, D] and targets [n, D] to a number, higher being better."""

BATCH = 256


def explained(mean: Tensor) -> Quality:
    """Return the explained variance 1 − FVU as a quality, see `latticegnn.analysis.fvu`.

    Args:
        mean: Of the training targets [D].
    """
    return lambda prediction, target: 1 - fvu(prediction, target, mean)


def quality_lost(
    model: LatticeModel,
    inputs: Tensor,
    targets: Tensor,
    quality: Quality,
    lesions: Mapping[str, Lesion],
    first: int = 0,
    once: bool = False,
    steps: int | None = None,
) -> list[dict[str, Any]]:
    """Measure what each lesion by itself costs.

    Args:
        model: The model, in evaluation mode.
        inputs: [n, D].
        targets: [n, D].
        quality: What is measured.
        lesions: By name.
        first: See `latticegnn.analysis.When`.
        once: See there.
        steps: Of the rollouts, the model's own by default.

    Returns:
        A row a lesion: ``lesion``, ``intact``, ``lesioned`` and their difference ``lost``.
    """
    intact = quality(_answers(model, inputs, steps), targets)
    rows = []
    for name, lesion in lesions.items():
        with lesioned(model, lesion, first=first, once=once):
            left = quality(_answers(model, inputs, steps), targets)
        rows.append({"lesion": name, "intact": intact, "lesioned": left, "lost": intact - left})
    return rows


def recovery(
    model: LatticeModel, inputs: Tensor, targets: Tensor, quality: Quality, lesion: Lesion, at: int, steps: int
) -> list[dict[str, float]]:
    """Measure the answer step by step, with a blow and without.

    Args:
        model: The model, in evaluation mode.
        inputs: [n, D].
        targets: [n, D].
        quality: What is measured.
        lesion: Strikes once, at step `at`.
        at: Steps after which it strikes.
        steps: After the blow, ≥ 1.

    Returns:
        A row for each of the states 0 … at + steps: ``step``, ``intact``, ``lesioned``; that of step `at` is the state
        straight after the blow.

    Raises:
        ValueError: When there is no step after the blow.
    """
    if steps < 1:
        raise ValueError(f"recovery is measured over the steps after a blow, at least 1; got {steps}; take more.")
    intact = _course(model, inputs, targets, quality, at + steps)
    with lesioned(model, lesion, first=at, once=True):
        struck = _course(model, inputs, targets, quality, at + steps)
    return [{"step": k, "intact": a, "lesioned": b} for k, (a, b) in enumerate(zip(intact, struck, strict=True))]


def recovered_in(rows: list[dict[str, float]], at: int, share: float = 0.95) -> int | None:
    """Return the steps after a blow at which the quality is first back at a share of what it was at it; None if never.

    Args:
        rows: Of `recovery`.
        at: The blow's step.
        share: Of the quality without the blow at step `at`.
    """
    wanted = share * rows[at]["intact"]
    return next((int(row["step"]) - at for row in rows[at:] if row["lesioned"] >= wanted), None)


def percolation(
    model: LatticeModel,
    inputs: Tensor,
    targets: Tensor,
    quality: Quality,
    parts: Iterable[float],
    seeds: Iterable[int],
    steps: int | None = None,
) -> list[dict[str, float]]:
    """Measure quality against the part of cells that are silent from the start on, and whether ports still connect.

    Args:
        model: The model, in evaluation mode.
        inputs: [n, D].
        targets: [n, D].
        quality: What is measured.
        parts: Parts of the cells, each in [0, 1], see `RandomCells`.
        seeds: Of the draws; two or more give an interval.
        steps: Of the rollouts, the model's own by default.

    Returns:
        A row a part: ``part``; ``quality``, its mean over the seeds, with the bounds ``low`` and ``high`` of Student's
        95 % interval; ``reached``, the mean part of output ports that live and lie within the light cone of the living
        input ports over living cells; ``connected``, the part of the draws in which any does.
    """
    count, draws, rows = model.steps if steps is None else steps, list(seeds), []
    for part in parts:
        found, reached = [], []
        for seed in draws:
            left, share = _left(model, inputs, targets, quality, RandomCells(part, seed), count)
            found.append(left)
            reached.append(share)
        mean, reach = statistics.fmean(found), _student(found)
        connected = sum(share > 0 for share in reached) / len(draws)
        rows.append(
            {"part": part, "quality": mean, "low": mean - reach, "high": mean + reach}
            | {"reached": statistics.fmean(reached), "connected": connected}
        )
    return rows


def wall(
    model: LatticeModel,
    inputs: Tensor,
    targets: Tensor,
    quality: Quality,
    axis: int,
    index: int,
    openings: Iterable[int],
    steps: int | None = None,
) -> list[dict[str, float]]:
    """Measure quality against the side of the hole in a wall, a plane of cells that are silent from the start on.

    Args:
        model: The model, in evaluation mode.
        inputs: [n, D].
        targets: [n, D].
        quality: What is measured.
        axis: See `Plane`.
        index: See `Plane`.
        openings: Sides of the hole in cells.
        steps: Of the rollouts, the model's own by default.

    Returns:
        A row an opening: ``opening``, ``quality``, and ``reached`` as in `percolation`.
    """
    count, rows = model.steps if steps is None else steps, []
    for opening in openings:
        left, reached = _left(model, inputs, targets, quality, Plane(axis, index, opening), count)
        rows.append({"opening": opening, "quality": left, "reached": reached})
    return rows


def _left(
    model: LatticeModel, inputs: Tensor, targets: Tensor, quality: Quality, lesion: CellLesion, steps: int
) -> tuple[float, float]:
    """Return what a lesion leaves from the start on: of the quality, and of the ports within reach."""
    with lesioned(model, lesion):
        left = quality(_answers(model, inputs, steps), targets)
    return left, ports_reached(model.spec, model.inputs, model.outputs, lesion.mask(model.spec), steps)


def ports_reached(spec: LatticeSpec, inputs: Ports, outputs: Ports, lost: Tensor, steps: int) -> float:
    """Return the part of the output ports that a signal reaches in so many steps without passing lost cells.

    Args:
        spec: The lattice.
        inputs: Where signals enter; lost ones send none.
        outputs: Where they are read; lost ones are not reached.
        lost: BoolTensor [N].
        steps: Of the rollout.
    """
    arrivals = hops(spec, inputs.nodes(spec), lost)[outputs.nodes(spec)]
    return float(((arrivals >= 0) & (arrivals <= steps)).double().mean())


@torch.no_grad()
def _answers(model: LatticeModel, inputs: Tensor, steps: int | None) -> Tensor:
    return torch.cat([model.rollout(batch, steps).embedding for batch in inputs.split(BATCH)])


@torch.no_grad()
def _course(model: LatticeModel, inputs: Tensor, targets: Tensor, quality: Quality, steps: int) -> list[float]:
    """Measure the answer that every state would give, 0 … steps."""
    answers: list[list[Tensor]] = [[] for _ in range(steps + 1)]
    for batch in inputs.split(BATCH):

        def read(state: Tensor, taken: int, batch: Tensor = batch) -> Tensor:
            answers[taken].append(model.read(batch, state)[0])
            return state

        model.rollout(batch, steps, intervene=read)
    return [quality(torch.cat(found), targets) for found in answers]


def _student(values: list[float]) -> float:
    """Return half the width of the mean's 95 % interval; NaN for a single value."""
    if len(values) < 2:
        return float("nan")
    return float(stdtrit(len(values) - 1, 0.975)) * statistics.stdev(values) / len(values) ** 0.5
