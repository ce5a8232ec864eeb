"""How far a signal has come after each step: graph distances from the ports, without an edge list."""

from __future__ import annotations

import math
from numbers import Integral

import torch
from torch import Tensor

from latticegnn.lattice.ports import Ports
from latticegnn.lattice.spec import LatticeSpec
from latticegnn.lattice.stencil import axis_offsets, node_grid, shift, squared_limits


class LightConeError(ValueError):
    """Some output ports lie where no signal from the input ports can have arrived."""


def hops(spec: LatticeSpec, sources: Tensor, lost: Tensor | None = None) -> Tensor:
    """Return every cell's graph distance from the nearest source: the first step at which a signal can be there.

    Cells are neighbours when their distance is at most the distant radius r, so one hop grows the reached set by a
    ball. Whether a cell lies in it follows from its squared distance to the set, found axis by axis as ``f(p) ← min_o
    (f(p + o) + o²)`` for ``|o| ≤ r``: O(N·r) work a hop, no edges.

    Args:
        spec: The lattice.
        sources: LongTensor [P], at least one node id.
        lost: Cells that no signal passes, BoolTensor [N]; sources among them send none.

    Returns:
        LongTensor [N], 0 at the sources, −1 where no path leads.

    Raises:
        ValueError: ``sources`` is empty, not integer, or holds an id outside the lattice; ``lost`` is not one truth
            value a cell.
    """
    cells = spec.num_nodes
    well_formed = sources.dtype == torch.long and sources.dim() == 1 and len(sources) > 0
    if not well_formed or int(sources.min()) < 0 or int(sources.max()) >= cells:
        raise ValueError(
            f"sources are node ids from 0 to {cells - 1}, a LongTensor [P] with at least one. Received {sources.dtype} "
            "of "
            f"shape {tuple(sources.shape)}: {sources.reshape(-1)[:8].tolist()}. Take them from Ports.nodes(spec)."
        )
    if lost is not None and (lost.dtype != torch.bool or lost.shape != (cells,)):
        raise ValueError(
            f"lost is a BoolTensor [N], N = {cells}, true for cells that no signal passes. Received {lost.dtype} of "
            f"shape {tuple(lost.shape)}. Build it from torch.zeros(spec.num_nodes, dtype=torch.bool)."
        )
    limit = squared_limits(spec)[2]
    grid = node_grid(spec)
    alive = torch.ones(cells, dtype=torch.bool) if lost is None else ~lost
    distance = torch.full((cells,), -1, dtype=torch.long)
    distance[sources[alive[sources]]] = 0
    reached = (distance == 0)[grid]
    for hop in range(1, cells):
        grown = _grow(reached, spec, limit) & alive[grid]
        fresh = grown & ~reached
        if not bool(fresh.any()):
            break
        distance[grid[fresh]] = hop
        reached = grown
    return distance


def _grow(reached: Tensor, spec: LatticeSpec, limit: int) -> Tensor:
    """Return the cells [X, Y, Z] whose squared distance to a reached cell is at most ``limit``."""
    far = limit + 1
    squared = torch.where(reached, 0, far).to(torch.int16 if 2 * far < torch.iinfo(torch.int16).max else torch.int32)
    for axis, (length, wraps) in enumerate(zip(spec.shape, spec.periodic, strict=True)):
        least = squared.clone()
        for step in axis_offsets(length, wraps):
            if step and step * step <= limit:
                offset = [0, 0, 0]
                offset[axis] = step
                values, targets = shift(squared, offset, spec.boundaries)
                part = least[targets]
                torch.minimum(part, values + step * step, out=part)
        squared = least
    return squared <= limit


def arrival(spec: LatticeSpec, inputs: Ports, outputs: Ports) -> Tensor:
    """Return the first step at which a signal from any input port can be at each output port.

    Args:
        spec: The lattice.
        inputs: Where signals enter.
        outputs: Where they are read.

    Returns:
        LongTensor [P], in the order of ``outputs.nodes(spec)``; −1 where none ever arrives.
    """
    return hops(spec, inputs.nodes(spec))[outputs.nodes(spec)]


def steps_needed(spec: LatticeSpec, inputs: Ports, outputs: Ports) -> int:
    """Return the steps after which every output port can have heard from its nearest input port.

    ``max over output ports of (min over input ports of their graph distance)``.

    Raises:
        LightConeError: An output port can never be reached.
    """
    arrivals = arrival(spec, inputs, outputs)
    if bool((arrivals < 0).any()):
        raise LightConeError(_unreachable(spec, inputs, outputs, arrivals))
    return int(arrivals.max())


def check_light_cone(spec: LatticeSpec, inputs: Ports, outputs: Ports, steps: int) -> None:
    """Check that every output port lies in the light cone of the input ports after ``steps`` steps.

    Args:
        spec: The lattice.
        inputs: Where signals enter.
        outputs: Where they are read.
        steps: T, the number of steps of a rollout, at least 1.

    Raises:
        LightConeError: Says how many ports are out of reach, how many steps are needed, and how to get there.
        ValueError: ``steps`` is not a whole number above 0.
    """
    if not isinstance(steps, Integral) or isinstance(steps, bool) or steps < 1:
        raise ValueError(f"steps is a whole number, at least 1. Received {steps!r}. Write steps: 8.")
    arrivals = arrival(spec, inputs, outputs)
    if bool((arrivals < 0).any()):
        raise LightConeError(_unreachable(spec, inputs, outputs, arrivals))
    late, needed = int((arrivals > steps).sum()), int(arrivals.max())
    if late:
        raise LightConeError(
            "The output ports must lie inside the input ports' light cone: in one step a signal moves as far as the "
            "radius, "
            f"{_reach(spec):.4g} cells. Received steps={steps} from {inputs.face} to {outputs.face} of a lattice "
            f"{spec.shape}: "
            f"{late} of {len(arrivals)} output ports are out of reach, {needed} steps are needed. "
            f"Set steps to {needed} or more, use a larger radius_ratio, connectivity: full, or nearer ports."
        )


def _reach(spec: LatticeSpec) -> float:
    return math.sqrt(squared_limits(spec)[2])


def _unreachable(spec: LatticeSpec, inputs: Ports, outputs: Ports, arrivals: Tensor) -> str:
    lost = int((arrivals < 0).sum())
    # Rounded up, so that the number shown suffices.
    ratio = math.ceil(1e4 / (max(spec.shape) * spec.distant_ratio)) / 1e4
    remedy = f"Set radius_ratio to {ratio:g} or more" if spec.radii is None else "Set radii[2] to 1 or more"
    return (
        "The output ports must lie inside the input ports' light cone. Received a lattice "
        f"{spec.shape} whose cells have no neighbours, as its radius of {spec.thresholds[2]:.4g} cells is below 1: "
        f"{lost} of "
        f"{len(arrivals)} output ports on {outputs.face} are unreachable from {inputs.face} at any number of steps. "
        f"{remedy}, use connectivity: full, or a larger shape."
    )
