"""What is summed over a tier's neighbours, before any backend decides how."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch_geometric.data import Data

from latticegnn.lattice import LatticeSpec, Tier, coordinates, divisors, edge_count, node_grid, stencil
from latticegnn.lattice.stencil import has_repeats, landing, mirrored, offset_codes, squared_limits, tiers_of

Moment = Literal["mean", "gradient"]
COMPONENTS: dict[str, int] = {"mean": 1, "gradient": 3}
_BLOCK = 1 << 21  # pairs of a target and an offset that are looked at together


@dataclass(frozen=True)
class Kernel:
    """The functionals as weights on offsets, the same for every cell.

    Args:
        offsets: pos_source − pos_target of every neighbour of the tiers concerned, int64 [K, 3].
        tier: Their tiers, int64 [K].
        shell: Which distinct distance each has, from 0 to S − 1 in rising order, int64 [K].
        weight: 1 or an offset's component inside a functional's tier and 0 outside, float64 [R, K].
        distances: The distinct distances, in cells, float64 [S].
    """

    offsets: Tensor
    tier: Tensor
    shell: Tensor
    weight: Tensor
    distances: Tensor


@dataclass(frozen=True)
class Edges:
    """An edge list that is not its spec's: thinned, or with its cells numbered another way; sorted by target.

    Args:
        source: Cell ids, int64 [E].
        target: Cell ids, rising, int64 [E].
        offset: pos_source − pos_target, int64 [E, 3].
    """

    source: Tensor
    target: Tensor
    offset: Tensor


@dataclass(frozen=True)
class Moments:
    r"""R linear functionals of every cell's neighbourhood: one sparse matrix of shape [R·N, N], never stored.

    For a tier t with neighbours :math:`\mathcal{N}_t(i)` and :math:`o_{ij} = p_j - p_i` (the source seen from the
    receiver, minimum image on periodic axes, the mirror image beyond a reflecting boundary)

    .. math::
        \text{mean}_i = \frac{1}{|\mathcal{N}_t(i)|} \sum_{j} w_{d_{ij}} x_j, \qquad
        \text{gradient}_{i,a} = \frac{1}{|\mathcal{N}_t(i)|} \sum_{j} w_{d_{ij}} o_{ij,a} \, x_j, \quad a = x, y, z

    with :math:`w = 1`, or, when ``radial``, one learned weight for each distinct distance d, shared by a tier's moments
    (a continuous filter, Schütt et al., 2017, on a lattice's few distances). Row ``r·N + i`` holds functional r of cell
    i. A cell without neighbours in the tier gets zeros. :math:`\mathcal{N}_t(i)` holds an offset, and a cell as often
    as it is seen; beyond an absorbing boundary :math:`x_j = 0`, counted by the divisor and in no entry. Everything is
    float64, so that a backend asked for double precision is exact to rounding.

    A backend takes the form it needs: the translation-invariant `kernel` and `reciprocals`, or `blocks` of entries in
    row order. Nothing is computed before it is asked for.

    Args:
        spec: The lattice.
        functionals: Pairs of tier and moment; "mean" gives one row a cell, "gradient" three, in this order.
        radial: Whether there is a weight for each distance.
        edges: The edges, where they are not all of the spec's in the spec's numbering.
    """

    spec: LatticeSpec
    functionals: tuple[tuple[Tier, Moment], ...]
    radial: bool = False
    edges: Edges | None = None

    @property
    def num_nodes(self) -> int:
        """N."""
        return self.spec.num_nodes

    @property
    def count(self) -> int:
        """R."""
        return len(self.rows)

    @property
    def rows(self) -> list[tuple[Tier, int | None]]:
        """Tier and axis of every functional; a mean has no axis."""
        parts: dict[str, tuple[int | None, ...]] = {"mean": (None,), "gradient": (0, 1, 2)}
        return [(tier, axis) for tier, moment in self.functionals for axis in parts[moment]]

    @property
    def shells(self) -> int:
        """S, the number of distance weights: 0 unless ``radial``."""
        return len(self.kernel.distances) if self.radial else 0

    @functools.cached_property
    def kernel(self) -> Kernel:
        """The functionals as weights on offsets."""
        parts = stencil(self.spec)
        wanted = torch.isin(parts.tier, torch.tensor([int(tier) for tier, _ in self.functionals], dtype=torch.long))
        offsets, tier = parts.offsets[wanted], parts.tier[wanted]
        squared, shell = offsets.square().sum(1).unique(return_inverse=True)
        values = [(tier == t).double() * (1 if axis is None else offsets[:, axis]) for t, axis in self.rows]
        weight = torch.stack(values) if values else torch.zeros(0, len(offsets), dtype=torch.float64)
        return Kernel(offsets, tier, shell, weight, squared.double().sqrt())

    @functools.cached_property
    def _opposites(self) -> Tensor:
        """Rows of `kernel` that lead back from every offset, int64 [8, K].

        The opposite offset, but not where the two ways round an even periodic axis are equally long: they are one. And
        seen in a mirror, both cells see each other at the same offset: row m is for mirrors across the axes whose bits
        m has, 1, 2 and 4 for x, y and z.
        """
        offsets, axes = self.kernel.offsets, zip(self.spec.shape, self.spec.periodic, strict=True)
        half = torch.tensor([n // 2 if wraps and n % 2 == 0 else 0 for n, wraps in axes])
        mirrors = torch.arange(8).unsqueeze(1).bitwise_and(torch.tensor([1, 2, 4])) != 0
        alike = mirrors.unsqueeze(1) | (offsets == half)
        return self._offset_ids(torch.where(alike, offsets, -offsets).flatten(0, 1)).view(8, -1)

    def reciprocals(self) -> dict[Tier, Tensor]:
        """Compute 1/degree of every cell in each tier concerned, 0 where it has no neighbour; float64 [N] each."""
        tiers = {tier for tier, _ in self.functionals}
        if self.edges is None:
            counted = divisors(self.spec) if tiers else torch.zeros(0, 3)
            found = {tier: counted[:, int(tier)] for tier in tiers}
        else:
            target, _, which, _ = next(self.blocks())
            of = self.kernel.tier[which]
            found = {tier: torch.bincount(target[of == int(tier)], minlength=self.num_nodes) for tier in tiers}
        return {tier: torch.where(d > 0, 1.0 / d.double().clamp(min=1), 0.0) for tier, d in found.items()}

    def entry_counts(self) -> Tensor:
        """Count each functional's entries in closed form, an upper bound where edges are given; int64 [R]."""
        sides, everywhere = torch.tensor(self.spec.shape), torch.tensor(self.spec.periodic + self.spec.reflecting)
        whole = everywhere.view(2, 3).any(0)
        pairs = torch.where(whole, sides, sides - self.kernel.offsets.abs()).prod(1)
        return ((self.kernel.weight != 0) * pairs).sum(1)

    def blocks(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Yield targets, sources and rows of `kernel` of all edges of the tiers concerned, in the order of targets.

        The fourth tensor holds the rows of `kernel` of the reverse edges, which is what the transposed product needs.
        """
        if self.edges is not None:
            ids = self._offset_ids(self.edges.offset)
            kept = ids >= 0
            yield self.edges.target[kept], self.edges.source[kept], ids[kept], self._opposites[0, ids[kept]]
            return
        place, grid, offsets = coordinates(self.spec), node_grid(self.spec).reshape(-1), self.kernel.offsets
        step = max(1, _BLOCK // max(1, len(offsets)))
        for start in range(0, self.num_nodes, step):
            cells = place[start : start + step]
            inside, flat = torch.ones(len(cells), len(offsets), dtype=torch.bool), torch.zeros(1, dtype=torch.long)
            mirrors = torch.zeros_like(flat)
            for axis, (length, boundary) in enumerate(zip(self.spec.shape, self.spec.boundaries, strict=True)):
                position = cells[:, axis, None] + offsets[None, :, axis]
                if boundary == "periodic":
                    position = position.remainder(length)
                elif boundary == "reflecting":
                    position, beyond = mirrored(position, length), (position < 0) | (position >= length)
                    mirrors = mirrors + (beyond.long() << axis)
                else:
                    inside &= (position >= 0) & (position < length)
                flat = flat * length + position
            target, which = inside.nonzero(as_tuple=True)
            mirror = mirrors.expand(len(cells), len(offsets))[target, which]
            yield target + start, grid[flat[target, which]], which, self._opposites[mirror, which]

    def _offset_ids(self, offset: Tensor) -> Tensor:
        """Return the row of `kernel` that holds each offset, −1 for those of other tiers."""
        known, order = offset_codes(self.spec, self.kernel.offsets).sort()
        if len(known) == 0:
            return torch.full((len(offset),), -1)
        wanted = offset_codes(self.spec, offset)
        at = torch.searchsorted(known, wanted).clamp(max=len(known) - 1)
        return torch.where(known[at] == wanted, order[at], -1)

    def entries(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """List all entries of the matrix.

        Returns:
            Column (a cell id), row ``r·N + i``, value (float64, distance weights left out) and shell of every entry,
            sorted by row. Shape [M] each.
        """
        reciprocals, kernel = self.reciprocals(), self.kernel
        parts: list[list[tuple[Tensor, ...]]] = [[] for _ in self.rows]
        for target, source, which, _ in self.blocks():
            for r, (tier, _) in enumerate(self.rows):
                weight = kernel.weight[r][which]
                kept = weight != 0
                value = weight[kept] * reciprocals[tier][target[kept]]
                parts[r].append((source[kept], target[kept] + r * self.num_nodes, value, kernel.shell[which[kept]]))
        empty = torch.zeros(0, dtype=torch.long)
        parts.append([(empty, empty, empty.double(), empty)])
        source, row, value, shell = (torch.cat(column) for column in zip(*(p for r in parts for p in r), strict=True))
        return source, row, value, shell


def tier_moments(
    lattice: LatticeSpec | Data, functionals: Sequence[tuple[Tier, Moment]], radial: bool = False
) -> Moments:
    """Describe functionals of a lattice.

    Args:
        lattice: A `LatticeSpec`, or a graph that `build_graph` made. A graph's edge list is used only where it is not
            the spec's: ``spec``, ``edge_index``, ``edge_offset`` and ``edge_tier`` are read.
        functionals: Pairs of tier and moment.
        radial: Whether there is a weight for each distance.

    Raises:
        ValueError: For a graph without its spec, with an edge that the spec does not define, an edge twice, or one
            whose reverse is missing, and with a reflecting or absorbing boundary for any edges but the spec's own.
    """
    chosen = tuple(functionals)
    if isinstance(lattice, LatticeSpec):
        return Moments(lattice, chosen, radial)
    spec = lattice.get("spec")
    if not isinstance(spec, LatticeSpec):
        raise ValueError(
            f"a lattice graph must carry its LatticeSpec in the attribute spec; got {spec!r}; build the graph with "
            "build_graph(spec)."
        )
    cells, (source, target), offset = spec.num_nodes, lattice.edge_index.cpu(), lattice.edge_offset.cpu()
    squared = offset.square().sum(1)
    strange = (squared > squared_limits(spec)[2]) | (tiers_of(spec, squared) != lattice.edge_tier.cpu())
    if strange.any():
        first = int(strange.nonzero()[0])
        raise ValueError(
            "a lattice graph's edges must be among those its spec defines, each in the tier of its distance; got "
            f"{int(source[first])} → {int(target[first])} with offset {offset[first].tolist()} in tier "
            f"{int(lattice.edge_tier[first])}; give the spec other radii or ratios, and build the graph from it."
        )
    if has_repeats(spec, source, target, offset):
        raise ValueError(
            "a lattice graph must hold each edge once; got an edge twice; coalesce the graph, or build it anew with "
            "build_graph(spec)."
        )
    if len(source) == sum(edge_count(spec).values()):
        place = coordinates(spec)
        if torch.equal(landing(spec, place[target] + offset), place[source]):
            return Moments(spec, chosen, radial)
    if any(spec.reflecting + spec.absorbing):
        raise ValueError(
            "what lies beyond a reflecting or absorbing boundary is known for the edges that the spec defines alone; "
            f"got a graph of boundary {spec.boundary} with other edges or another numbering, {len(source):,} edges; "
            "use an open or periodic boundary, or the graph as build_graph(spec) made it."
        )
    forward, backward = (target * cells + source).sort(), (source * cells + target).sort()
    if not torch.equal(forward[0], backward[0]):
        raise ValueError(
            "a lattice graph's edges must be symmetric; got an edge whose reverse is missing; remove or add edges in "
            "pairs."
        )
    order = forward[1]
    edges = Edges(source[order], target[order], offset[order])
    return Moments(spec, chosen, radial, edges)
