"""Does the cube earn its keep? The lattice with one of its ideas taken away, everything else as it is.

Each rung is made from a lattice before its training, starts from the same maps, and is trained with the same budget.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from latticegnn.aggregate import COMPONENTS, Aggregator
from latticegnn.lattice import LatticeSpec, Ports
from latticegnn.lattice.spec import Boundary
from latticegnn.model import LatticeModel
from latticegnn.nn import Expert, LatticeCell, SoftTiers
from latticegnn.nn.cell import MOMENTS

ROWS = sum(COMPONENTS[moment] for moment in MOMENTS)
"""Functionals a cell takes of each tier: the mean and the first moment's three components."""


def frozen_random(model: LatticeModel) -> LatticeModel:
    """Freeze a cell that starts at random: the plain reservoir, whose maps alone are trained (Jaeger, 2001)."""
    rung = _with_cell(model, _random_cell(model))
    rung.cell.requires_grad_(False)
    return rung


def shuffled_edges(model: LatticeModel) -> LatticeModel:
    """Let every tier read other cells than its neighbours, see `ShuffledAggregator`: no geometry, same degrees.

    Raises:
        ValueError: When an expert works edge by edge.
    """
    rung = copy.deepcopy(model)
    _require_linear(rung.cell, "shuffled_edges")
    rung.cell.aggregator = ShuffledAggregator(rung.cell.aggregator, model.settings["seed"])
    return rung


def mean_field(model: LatticeModel) -> LatticeModel:
    """Let every cell see the mean of all cells in place of its neighbours', and no first moments: no graph at all.

    The cell starts at random: as a shift it would replace each state by the mean at once.

    Raises:
        ValueError: When an expert works edge by edge.
    """
    rung = _with_cell(model, _random_cell(model))
    _require_linear(rung.cell, "mean_field")
    rung.cell.aggregator = GlobalMeanAggregator(rung.cell.aggregator)
    return rung


def sheet(model: LatticeModel) -> LatticeModel:
    """Unfold the cube into a 2D sheet of as many cells, ports and layers between them, with the same three radii.

    The cells of a face become an edge of the sheet, which the signal crosses along the other axis.

    Raises:
        ValueError: Unless all of two opposite faces are ports, with a number of the code each.
    """
    spec, faces = model.spec, (model.inputs.face, model.outputs.face)
    axis = "xyz".find(faces[0][0])
    opposite = axis >= 0 and faces[0][0] == faces[1][0] and faces[0] != faces[1]
    port_map = model.settings["port_map"]
    if not opposite or {model.inputs.placement, model.outputs.placement} != {"full"} or port_map != "direct":
        raise ValueError(
            "the rung sheet needs full ports on two opposite faces, each with a number of its own; got "
            f"{model.inputs.placement} {faces[0]} and {model.outputs.placement} {faces[1]} with port_map: {port_map}; "
            "leave sheet out of baselines."
        )
    depth = spec.shape[axis]
    others = {spec.boundaries[a] for a in range(3) if a != axis}
    around: Boundary = others.pop() if len(others) == 1 else "open"
    along = spec.boundaries[axis]
    flat = LatticeSpec(
        (spec.num_nodes // depth, depth, 1), connectivity=spec.connectivity, boundary=(around, along, "open"),
        order=spec.order, radii=spec.thresholds, edges=spec.edges,
    )  # fmt: skip
    first, last = Ports(face="y-"), Ports(face="y+")
    ends = (first, last) if faces[0][1] == "-" else (last, first)
    return _rebuilt(model, spec=flat, inputs=ends[0], outputs=ends[1])


def single_expert(model: LatticeModel) -> LatticeModel:
    """Put all neighbours into one tier: one expert, one set of moments, and so nothing to gate.

    It has fewer parameters than the lattice.
    """
    spec = model.spec
    reach = math.dist((1, 1, 1), spec.shape) if spec.connectivity == "full" else spec.max_radius
    following = math.sqrt(math.floor(reach**2 + 1e-6) + 1)  # the next distance on the lattice
    gap = following - reach
    radii = (reach, reach + gap / 3, reach + gap * 2 / 3)
    settings = {name: getattr(spec, name) for name in ("shape", "connectivity", "boundary", "order", "edges")}
    experts = model.settings["experts"] or {}
    return _rebuilt(
        model,
        spec=LatticeSpec(**settings, radii=radii),
        experts={"local": experts["functional"]} if "functional" in experts else None,
        soft_tiers=None,
    )


def no_gate(model: LatticeModel) -> LatticeModel:
    """Fix the gate at equal weights, whatever the state."""
    rung = copy.deepcopy(model)
    with torch.no_grad():
        rung.cell.gate.weight.zero_()
        rung.cell.gate.bias.zero_()
    rung.cell.gate.requires_grad_(False)
    return rung


RUNGS: dict[str, Callable[[LatticeModel], LatticeModel]] = {
    "frozen_random": frozen_random,
    "shuffled_edges": shuffled_edges,
    "mean_field": mean_field,
    "sheet": sheet,
    "single_expert": single_expert,
    "no_gate": no_gate,
}
"""The rungs by name; baselines that a run trains where it is asked to."""


class ShuffledAggregator(Aggregator):
    r"""The functionals of an aggregator, each tier's read through a fixed random permutation of the cells.

    With the tier's map P and its permutation π, :math:`(P' x)_i = \sum_j P_{ij} x_{\pi(j)}`: every cell keeps the
    number and the weights of those it reads, but they lie anywhere.

    Args:
        inner: The aggregator; its functionals come in blocks of `ROWS`, one a tier.
        seed: Of the permutations.
    """

    order: Tensor
    back: Tensor

    def __init__(self, inner: Aggregator, seed: int) -> None:
        super().__init__(inner)
        self.inner, self.backend = inner, f"{inner.backend}, shuffled"
        generator = torch.Generator().manual_seed(seed)
        order = [torch.randperm(self.num_nodes, generator=generator) for _ in range(self.count // ROWS)]
        self.register_buffer("order", torch.stack(order), persistent=False)
        self.register_buffer("back", self.order.argsort(dim=1), persistent=False)

    def _product(self, x: Tensor, weights: Tensor | None) -> Tensor:
        parts = [self.inner._product(x[order], weights).split(ROWS)[t] for t, order in enumerate(self.order)]
        return torch.cat(parts)

    def _transposed(self, g: Tensor, weights: Tensor | None) -> Tensor:
        parts = [self.inner._transposed(part, weights)[self.back[t]] for t, part in enumerate(self._by_tier(g))]
        return torch.stack(parts).sum(dim=0)

    def _slopes(self, x: Tensor, g: Tensor) -> Tensor:
        parts = [self.inner._slopes(x[self.order[t]], part) for t, part in enumerate(self._by_tier(g))]
        return torch.stack(parts).sum(dim=0)

    def _by_tier(self, g: Tensor) -> list[Tensor]:
        """Return a copy for each tier in which all but its functionals are zero."""
        copies = []
        for tier in range(len(self.order)):
            rows = slice(tier * ROWS, (tier + 1) * ROWS)
            copies.append(torch.zeros_like(g))
            copies[-1][rows] = g[rows]
        return copies


class GlobalMeanAggregator(Aggregator):
    """The mean over all cells for every tier's mean, zero for its first moments.

    Args:
        inner: The aggregator in whose place it stands; its functionals come in blocks of `ROWS`, one a tier.
    """

    backend = "global mean"

    def __init__(self, inner: Aggregator) -> None:
        super().__init__(inner)

    def _product(self, x: Tensor, weights: Tensor | None) -> Tensor:
        out = x.new_zeros(self.count, *x.shape)
        out[::ROWS] = x.mean(dim=0)
        return out

    def _transposed(self, g: Tensor, weights: Tensor | None) -> Tensor:
        return (g[::ROWS].sum(dim=(0, 1)) / self.num_nodes).expand(self.num_nodes, -1).contiguous()

    def _slopes(self, x: Tensor, g: Tensor) -> Tensor:
        return x.new_zeros(self.shells)


def _random_cell(model: LatticeModel) -> LatticeCell:
    given = model.settings
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(given["seed"])
        step, backend = float(model.cell.step.detach()), given["backend"]
        cell = LatticeCell(
            model.spec,
            model.channels,
            given["hidden"],
            given["experts"],
            step,
            backend,
            given["radial"],
            given["soft_tiers"],
            model.reference,
        )
    return cell.to(model.decoder.weight)


def _with_cell(model: LatticeModel, cell: LatticeCell) -> LatticeModel:
    rung = copy.deepcopy(model)
    rung.cell = cell
    return rung


def _rebuilt(model: LatticeModel, **changes: Any) -> LatticeModel:
    """Build a model on another lattice, with the same start of the maps."""
    kept = {name: getattr(model, name) for name in ("spec", "reference", "inputs", "outputs")}
    rung = LatticeModel(**{**model.settings, **kept, **changes}).to(model.decoder.weight)
    for name in ("transformer", "mapper", "extractor"):
        start = dict(getattr(model, name).named_parameters())
        for key, value in getattr(rung, name).named_parameters():
            value.data.copy_(start[key].data)
    return rung


def _require_linear(cell: LatticeCell, name: str) -> None:
    if isinstance(cell.aggregator, SoftTiers):
        raise ValueError(f"the rung {name} needs hard tiers; got soft ones; leave {name} out of baselines.")
    edgewise = [tier for tier, expert in cell.experts.items() if not isinstance(expert, Expert)]
    if edgewise:
        raise ValueError(
            f"the rung {name} needs experts that are linear in their neighbours; {', '.join(edgewise)} works edge by "
            f"edge; leave {name} out of baselines."
        )
