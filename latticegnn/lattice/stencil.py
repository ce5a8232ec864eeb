"""The lattice without its edge list: integer offsets, node numbering, degrees and edge counts in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latticegnn.lattice.spec import RELATIVE_TOLERANCE, Boundary, LatticeSpec, Tier


@dataclass(frozen=True, eq=False)
class Stencil:
    """Every offset at which a cell of the lattice can have a neighbour.

    ``offset = pos_source − pos_target``: where a message comes from, seen from its receiver. A translation-invariant
    operator needs nothing else. Offsets are sorted lexicographically and hold (0, 0, 0), the cell itself, in the local
    tier.

    Args:
        offsets: LongTensor [K, 3], in cells.
        distance: FloatTensor (float64) [K], the offsets' lengths.
        tier: LongTensor [K], values of `Tier`.
    """

    offsets: Tensor
    distance: Tensor
    tier: Tensor


def axis_offsets(length: int, periodic: bool) -> range:
    """Return the offsets that exist along one axis.

    Open, reflecting and absorbing: −(n−1) … n−1. Periodic: each residue once, by its minimum image, −⌊(n−1)/2⌋ …
    ⌊n/2⌋. For an even n the two ways round to the opposite cell are equally long; it appears once, with the positive
    sign.

    Args:
        length: n, cells along the axis.
        periodic: Whether the axis wraps around.
    """
    return range(-((length - 1) // 2), length // 2 + 1) if periodic else range(1 - length, length)


def squared_limits(spec: LatticeSpec) -> tuple[int, int, int]:
    """Return the largest squared distance of each tier, as whole numbers.

    Squared distances between cells are integers, so comparing them with ⌊(r·(1 + 1e-9))²⌋ is exact where comparing
    distances with radii would leave the outcome to rounding. No limit exceeds the largest squared distance in the
    lattice.
    """
    reach = sum(axis_offsets(n, wraps)[-1] ** 2 for n, wraps in zip(spec.shape, spec.periodic, strict=True))
    local, functional, distant = (
        min(reach, math.floor(min((radius * (1 + RELATIVE_TOLERANCE)) ** 2, reach))) for radius in spec.thresholds
    )
    return (local, functional, reach if spec.connectivity == "full" else distant)


def tiers_of(spec: LatticeSpec, squared_distance: Tensor) -> Tensor:
    """Return the tier of each squared distance, a LongTensor of the same shape (the distant radius is not checked)."""
    local, functional, _ = squared_limits(spec)
    return torch.bucketize(squared_distance, torch.tensor([local, functional], device=squared_distance.device))


def stencil(spec: LatticeSpec) -> Stencil:
    """Return the offsets of ``spec``, at most the distant radius long (all of them when connectivity is ``"full"``)."""
    limit = squared_limits(spec)[2]
    reach = math.isqrt(limit)
    axes = [
        torch.tensor([o for o in axis_offsets(n, wraps) if abs(o) <= reach])
        for n, wraps in zip(spec.shape, spec.periodic, strict=True)
    ]
    offsets = torch.cartesian_prod(*axes)
    squared = offsets.square().sum(1)
    kept = squared <= limit
    offsets, squared = offsets[kept], squared[kept]
    return Stencil(offsets=offsets, distance=squared.double().sqrt(), tier=tiers_of(spec, squared))


def coordinates(spec: LatticeSpec) -> Tensor:
    """Return the cells' coordinates in node order, LongTensor [N, 3]."""
    raster = torch.cartesian_prod(*(torch.arange(n) for n in spec.shape))
    return raster if spec.order == "raster" else raster[_morton_code(raster).argsort()]


def node_grid(spec: LatticeSpec) -> Tensor:
    """Return the node id at each coordinate, LongTensor [X, Y, Z].

    Raster: ``id = (x·Y + y)·Z + z``. Morton: the rank of the cell's Z-order code among the cells of the lattice, so any
    shape has the ids 0 … N−1.
    """
    ids = torch.arange(spec.num_nodes)
    if spec.order == "morton":
        grid = torch.empty_like(ids)
        grid[_raster_index(coordinates(spec), spec.shape)] = ids
        ids = grid
    return ids.reshape(spec.shape)


def _raster_index(coordinate: Tensor, shape: tuple[int, int, int]) -> Tensor:
    return (coordinate[:, 0] * shape[1] + coordinate[:, 1]) * shape[2] + coordinate[:, 2]


def _morton_code(coordinate: Tensor) -> Tensor:
    """Interleave the bits of x, y and z, x in the highest place; LongTensor [N]."""
    code = torch.zeros(len(coordinate), dtype=torch.long)
    for bit in range(int(coordinate.max()).bit_length()):
        for place, axis in enumerate((2, 1, 0)):
            code |= ((coordinate[:, axis] >> bit) & 1) << (3 * bit + place)
    return code


def mirrored(position: Tensor, length: int) -> Tensor:
    """Fold positions beyond a reflecting axis of n cells back into it: −1 − p and 2n − 1 − p become p."""
    around = position.remainder(2 * length)
    return torch.minimum(around, 2 * length - 1 - around)


def landing(spec: LatticeSpec, position: Tensor) -> Tensor:
    """Return the cell that is seen at each position [..., 3]; beyond open and absorbing ends, the position itself."""
    columns = list(position.unbind(-1))
    for axis, (length, boundary) in enumerate(zip(spec.shape, spec.boundaries, strict=True)):
        if boundary == "periodic":
            columns[axis] = columns[axis].remainder(length)
        elif boundary == "reflecting":
            columns[axis] = mirrored(columns[axis], length)
    return torch.stack(columns, dim=-1)


def has_repeats(spec: LatticeSpec, source: Tensor, target: Tensor, offset: Tensor) -> bool:
    """Return whether an edge occurs twice; with a reflecting boundary a pair has an edge for each offset it is at."""
    pair = target * spec.num_nodes + source
    if any(spec.reflecting):
        return torch.stack([pair, offset_codes(spec, offset)]).unique(dim=1).shape[1] < len(pair)
    pair = pair.sort()[0]
    return bool((pair[1:] == pair[:-1]).any())


def offset_codes(spec: LatticeSpec, offsets: Tensor) -> Tensor:
    """Number offsets [K, 3] in their lexicographic order, LongTensor [K]."""
    x, y, z = (offsets + torch.tensor(spec.shape)).unbind(1)
    return (x * 2 * spec.shape[1] + y) * 2 * spec.shape[2] + z


def shift(values: Tensor, offset: Sequence[int], boundaries: Sequence[Boundary]) -> tuple[Tensor, tuple[slice, ...]]:
    """Line the sources of one offset up with their targets.

    Args:
        values: [X, Y, Z, ...], one value a cell, by coordinate.
        offset: Three integers, pos_source − pos_target.
        boundaries: Along x, y and z.

    Returns:
        The sources' values, and the slices of x, y and z that select their targets: ``values[slices]`` has the same
        shape.
    """
    targets: list[slice] = []
    for axis, (step, boundary) in enumerate(zip(offset, boundaries, strict=True)):
        length = values.shape[axis]
        if boundary == "periodic":
            values = values.roll(-step, axis)
            targets.append(slice(0, length))
        elif boundary == "reflecting":
            values = values.index_select(axis, mirrored(torch.arange(length) + step, length))
            targets.append(slice(0, length))
        else:
            low, high = max(0, -step), min(length, length - step)
            count = max(0, high - low)
            values = values.narrow(axis, min(length, max(0, step)), count)
            targets.append(slice(low, low + count))
    return values, tuple(targets)


def neighbours(spec: LatticeSpec, offset: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the node pairs that one offset connects.

    Args:
        spec: The lattice.
        offset: Three integers, pos_source − pos_target; a row of `stencil`.

    Returns:
        Source ids and target ids, two LongTensors of equal length, in raster order of the targets' coordinates. Cells
        whose source would lie outside an open or absorbing boundary are left out; outside a reflecting one it is the
        cell that is mirrored there.
    """
    grid = node_grid(spec)
    sources, targets = shift(grid, [int(step) for step in offset], spec.boundaries)
    return sources.reshape(-1), grid[targets].reshape(-1)


def _target_boxes(
    spec: LatticeSpec, offsets: Tensor, endless: Sequence[Boundary] = ("periodic", "reflecting")
) -> tuple[Tensor, Tensor]:
    """Return the corners low ≤ target < high, [K, 3] each, of the box of cells that have a source at each offset.

    Along axes with an ``endless`` boundary these are all cells.
    """
    sides, whole = torch.tensor(spec.shape), torch.tensor([boundary in endless for boundary in spec.boundaries])
    low = torch.where(whole, 0, (-offsets).clamp(min=0))
    high = torch.where(whole, sides, sides - offsets.clamp(min=0))
    return low, high


def degrees(spec: LatticeSpec) -> Tensor:
    """Return every cell's number of neighbours by tier, itself not counted, LongTensor [N, 3].

    Mirror images beyond a reflecting boundary count, its own among them; cells beyond an absorbing one do not.
    """
    parts = stencil(spec)
    itself = torch.tensor([1, 0, 0])
    return _by_label(spec, parts.tier, 3, _target_boxes(spec, parts.offsets)) - itself


def divisors(spec: LatticeSpec) -> Tensor:
    """Return what the mean over each tier's neighbours divides by at every cell, LongTensor [N, 3].

    The number of neighbours, the cell itself counted in the local tier, and the zeros beyond an absorbing boundary.
    """
    parts = stencil(spec)
    return _by_label(spec, parts.tier, 3, _target_boxes(spec, parts.offsets, ("periodic", "reflecting", "absorbing")))


def divisors_by_distance(spec: LatticeSpec) -> tuple[Tensor, Tensor]:
    """Return the distinct distances, float64 [S] and rising from 0, and `divisors` by distance, LongTensor [N, S]."""
    return _by_distance(spec, ("periodic", "reflecting", "absorbing"))


def degrees_by_distance(spec: LatticeSpec) -> tuple[Tensor, Tensor]:
    """Return the distinct distances, float64 [S] and rising from 0, and neighbours at each, LongTensor [N, S].

    Counted as `degrees` does, but for the cell itself, which is its one neighbour at distance 0.
    """
    return _by_distance(spec, ("periodic", "reflecting"))


def _by_distance(spec: LatticeSpec, endless: Sequence[Boundary]) -> tuple[Tensor, Tensor]:
    offsets = stencil(spec).offsets
    squared, shell = offsets.square().sum(1).unique(return_inverse=True)
    return squared.double().sqrt(), _by_label(spec, shell, len(squared), _target_boxes(spec, offsets, endless))


def _by_label(spec: LatticeSpec, labels: Tensor, count: int, boxes: tuple[Tensor, Tensor]) -> Tensor:
    """Count each cell's offsets by label, LongTensor [N, count], given the box of cells that each offset counts for.

    Each offset adds one to a box of cells. The boxes are entered in a 3D difference array at their eight corners and
    summed once along each axis: O(K + N·count) work, no edges.
    """
    x, y, z = spec.shape
    total = torch.zeros((x + 1) * (y + 1) * (z + 1) * count, dtype=torch.long)
    corners = torch.stack(boxes)  # [2, K, 3]: low, high
    for i, j, k in torch.cartesian_prod(*[torch.arange(2)] * 3).tolist():
        corner = torch.stack([corners[i, :, 0], corners[j, :, 1], corners[k, :, 2]], dim=1)
        at = _raster_index(corner, (x + 1, y + 1, z + 1)) * count + labels
        total.index_add_(0, at, torch.full_like(at, (-1) ** (i + j + k)))
    grid = total.reshape(x + 1, y + 1, z + 1, count).cumsum(0).cumsum(1).cumsum(2)[:x, :y, :z]
    place = coordinates(spec)
    return grid[place[:, 0], place[:, 1], place[:, 2]]


def edge_count(spec: LatticeSpec) -> dict[Tier, int]:
    """Return the number of edges of each tier, the N self-edges counted in the local tier.

    An offset o has ``Π_axis (n − |o|)`` pairs, a periodic or reflecting axis giving the factor n.
    """
    parts = stencil(spec)
    low, high = _target_boxes(spec, parts.offsets)
    pairs = (high - low).prod(1)
    return {tier: int(pairs[parts.tier == tier].sum()) for tier in Tier}


def mean_square_offset(spec: LatticeSpec) -> dict[Tier, list[float]]:
    """Return each tier's mean squared offset along x, y and z over its edges, the self-edges counted in the local tier.

    Tiers without any edge are left out.
    """
    parts = stencil(spec)
    low, high = _target_boxes(spec, parts.offsets)
    pairs = (high - low).prod(1)
    found = {}
    for tier in Tier:
        chosen = parts.tier == tier
        count = int(pairs[chosen].sum())
        if count:
            squares = (pairs[chosen].unsqueeze(1) * parts.offsets[chosen].square()).sum(0)
            found[tier] = (squares.double() / count).tolist()
    return found


def empty_tiers(spec: LatticeSpec) -> tuple[Tier, ...]:
    """Return the tiers in which no cell has a neighbour (the cell itself is not one)."""
    parts = stencil(spec)
    filled = set(parts.tier[parts.distance > 0].unique().tolist())
    return tuple(tier for tier in Tier if tier not in filled)


def tier_report(spec: LatticeSpec) -> list[dict[str, Any]]:
    """Describe the three tiers, one JSON-safe row each.

    Returns:
        Rows with ``tier`` (name), ``above`` and ``up_to`` (the distances d with above < d ≤ up_to, in cells; the local
        tier also holds d = 0), ``min_degree`` and ``max_degree`` (neighbours of a cell), ``edges`` (self-edges
        included), and ``message``: None, or for an empty tier what would fill it.
    """
    thresholds = list(spec.thresholds)
    if spec.connectivity == "full":
        thresholds[2] = max(thresholds[1], math.sqrt(squared_limits(spec)[2]))
    degree, edges, empty = degrees(spec), edge_count(spec), empty_tiers(spec)
    return [
        {
            "tier": tier.name.lower(),
            "above": thresholds[tier - 1] if tier else 0.0,
            "up_to": thresholds[tier],
            "min_degree": int(degree[:, tier].min()),
            "max_degree": int(degree[:, tier].max()),
            "edges": edges[tier],
            "message": _filling(spec, tier) if tier in empty else None,
        }
        for tier in Tier
    ]


def _filling(spec: LatticeSpec, tier: Tier) -> str:
    """Say what would give an empty tier neighbours: its radius raised to the next distance, or the one below cut."""
    furthest = [axis_offsets(n, wraps)[-1] for n, wraps in zip(spec.shape, spec.periodic, strict=True)]
    squared = torch.cartesian_prod(*(torch.arange(o + 1) for o in furthest)).square().sum(1).unique()
    name = tier.name.lower()
    if len(squared) == 1:
        return f"The {name} tier has no neighbours: the lattice {spec.shape} is a single cell. Use a larger shape."
    beyond = squared[squared > (squared_limits(spec)[tier - 1] if tier else 0)]
    if len(beyond):
        verb, changed, radius = "Raise", tier, math.sqrt(int(beyond[0]))
    else:  # the tiers below hold every distance: leave the largest to this one
        verb, changed, radius = "Lower", Tier(tier - 1), math.sqrt(int(squared[-1]) - 0.5)
    given = spec.radii is not None
    setting = f"radii[{int(changed)}]" if given else f"{changed.name.lower()}_ratio"
    exact = radius if given else radius / spec.max_radius
    shown = math.ceil(exact * (1 - RELATIVE_TOLERANCE) * 1e5) / 1e5  # rounded up, so that the number shown suffices
    return (
        f"The {name} tier has no neighbours. {verb} {setting} to {shown:.8g} (a radius of {radius:.5g} cells); "
        "the radii must still rise from tier to tier."
    )
