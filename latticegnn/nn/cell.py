"""The one cell that every place of the lattice shares."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric import EdgeIndex
from torch_geometric.data import Data
from torch_geometric.nn import MessagePassing

from latticegnn.aggregate import COMPONENTS, Moment, aggregator
from latticegnn.lattice import LatticeSpec, Tier, build_graph, coordinates, mean_square_offset, stencil
from latticegnn.nn.classpath import build
from latticegnn.nn.experts import AttentionExpert, EdgeExpert, Expert, GatedExpert, MeanFieldExpert, MLPExpert
from latticegnn.nn.soft_tiers import SoftTiers

EXPERTS: dict[str, type] = {
    "mlp": MLPExpert,
    "mean_field": MeanFieldExpert,
    "attention": AttentionExpert,
    "gated": GatedExpert,
}
DEFAULT_EXPERTS: dict[str, Any] = {"local": "mlp", "functional": "mlp", "distant": "mean_field"}
MOMENTS: tuple[Moment, ...] = ("mean", "gradient")
EDGELESS = ("fft", "dft")


class LatticeCell(MessagePassing):
    r"""One step of every cell at once: perceive each tier, let its expert propose, mix by a gate, move the state.

    With :math:`m_i^t` the mean and the first moment of tier t's neighbours (`latticegnn.aggregate.Moments`),

    .. math::
        x_i' &= x_i + \varepsilon \Big( B [x_i \,\|\, m_i^1 \,\|\, m_i^2 \ldots]
                + \sum_t g_i^t \, E_t(x_i, m_i^t) \Big), \\
        g_i &= \mathrm{softmax}\big(G [\mathrm{LayerNorm}(x_i) \,\|\, a_i]\big), \qquad
        a_i^t = \langle (\text{mean}_i^t)^2 \rangle_F

    E_t are the experts, a dense mixture (Jacobs et al., 1991; the lattice as in neural cellular automata, Mordvintsev
    et al., 2020), a_i the activity around the cell and ε a learned step size. The linear bypass B carries signals:
    it can start as a shift (`start_shift`), so that they cross the lattice from the first update on. The cell itself is
    part of the local tier; where that tier holds nothing else, :math:`m_i` is the cell's own state and is left out.
    A tier without any edge has no expert.

    In PyG's template, ``message_and_aggregate`` is the chosen backend's product and ``update`` everything after it. No
    edge list travels with the call; PyG receives an empty `EdgeIndex` that carries the size.

    This is the readable form of the step; `latticegnn.nn.FusedStep` computes the same from fewer, larger operations.

    Args:
        lattice: A `LatticeSpec`, or a graph that `build_graph` made. An edge list is made only for an expert that works
            on edges, or a backend that does.
        channels: F.
        hidden: Width of the experts' hidden layers, for experts that take ``hidden``.
        experts: Tier name to expert: a name of `EXPERTS`, or class_path and init_args of an `Expert` or of any layer
            with PyG's ``forward(x, edge_index, edge_attr)``. Tiers left out keep their default.
        step: Initial ε, in (0, 1].
        backend: Aggregation backend, see `latticegnn.aggregate.aggregator`.
        radial: Learn a weight for each distance between neighbours (`radial` [S], ones at first), by which their
            states are multiplied before they are averaged.
        soft_tiers: Learn where tiers end: the softness of their edges in cells, see `SoftTiers`. All three tiers then
            reach other cells. None for the lattice's own, hard tiers.
        reference: The lattice whose units the weights are in, where they come from another one, see `slope_units`.

    Shapes:
        - input: state [B, N, F]
        - output: state [B, N, F]

    Raises:
        ValueError: For an unknown tier, an expert that cannot be built, returns a wrong shape or works edge by edge
            where the backend has no edges or tiers are soft, `radial` beside soft tiers, or a state of another shape.
    """

    SUPPORTS_FUSED_EDGE_INDEX = True

    def __init__(
        self,
        lattice: LatticeSpec | Data,
        channels: int = 8,
        hidden: int = 16,
        experts: Mapping[str, Any] | None = None,
        step: float = 1.0,
        backend: str = "auto",
        radial: bool = False,
        soft_tiers: float | None = None,
        reference: LatticeSpec | None = None,
    ) -> None:
        super().__init__(aggr="sum", node_dim=0)
        if reference is not None and soft_tiers is not None:
            raise ValueError(
                "soft tiers belong to the lattice they were learned on; got weights in the units of another one, "
                f"{reference}; train with soft_tiers: null to change a model's size."
            )
        if radial and soft_tiers is not None:
            raise ValueError(
                "distances are weighted one by one (radial) or by soft tiers; got radial: true beside soft_tiers: "
                f"{soft_tiers!r}; leave one of them out."
            )
        settings = _settings(experts)
        self.num_nodes, self.channels = int(lattice.num_nodes), channels
        soft = None if soft_tiers is None else SoftTiers(lattice, soft_tiers, backend)
        #: Mean square offset along each axis by tier, which turns a tier's first moment into a slope.
        self.spread = _spread(lattice) if soft is None else soft.spread
        present = tuple(self.spread)
        # Tiers that hold more than the cell itself are aggregated; their moments sit side by side in one product.
        self.reaching = tuple(tier for tier in present if any(self.spread[tier]))
        hard = [(t, m) for t in self.reaching for m in MOMENTS]
        self.aggregator: Any = aggregator(lattice, hard, backend, radial) if soft is None else soft
        self.radial: nn.Parameter | None
        self.register_parameter("radial", nn.Parameter(torch.ones(self.aggregator.shells)) if radial else None)
        self._size = EdgeIndex(
            torch.empty(2, 0, dtype=torch.long), sparse_size=(self.num_nodes, self.num_nodes), sort_order="col"
        )
        self.units: Tensor | None
        self.register_buffer("units", _units(lattice, reference, self.reaching), persistent=False)
        width = sum(COMPONENTS[m] for m in MOMENTS) * channels
        self.experts = nn.ModuleDict()
        positions = _positions(lattice)
        for tier in present:
            moments = width if tier in self.reaching else 0
            built = build(
                settings[tier.name.lower()], EXPERTS, channels=channels, moments=moments, hidden=hidden,
                in_channels=channels, out_channels=channels, positions=positions,
            )  # fmt: skip
            if soft is not None and not isinstance(built, Expert):
                raise ValueError(
                    f"soft tiers need experts that are linear in their neighbours; the {tier.name.lower()} tier has "
                    f"{type(built).__name__}, which works edge by edge; choose another expert, or soft_tiers: null."
                )
            if backend in EDGELESS and not isinstance(built, Expert):
                raise ValueError(
                    f"backend '{backend}' works without edges, and so needs experts that are linear in their "
                    f"neighbours; the {tier.name.lower()} tier has {type(built).__name__}, which works edge by edge; "
                    "choose another backend, or leave it auto."
                )
            self.experts[tier.name.lower()] = _as_expert(built, lattice, tier, channels, moments)
        self.bypass = nn.Linear(channels + width * len(self.reaching), channels, bias=False)
        self.norm = nn.LayerNorm(channels)
        self.gate = nn.Linear(channels + len(self.reaching), len(self.experts))
        self.step = nn.Parameter(torch.tensor(float(step)))
        nn.init.normal_(self.bypass.weight, std=0.02 / self.bypass.in_features**0.5)

    @property
    def backend(self) -> str:
        """The aggregation backend in use."""
        return str(self.aggregator.backend)

    def forward(self, x: Tensor) -> Tensor:
        """Move every cell by one step."""
        self._check(x)
        return self.advance(x.transpose(0, 1)).transpose(0, 1)

    def advance(self, x: Tensor) -> Tensor:
        """Move every cell by one step, nodes first: [N, B, F] -> [N, B, F], the layout that a rollout keeps."""
        return self.propagate(self._size, x=x)

    def message_and_aggregate(self, edge_index: EdgeIndex, x: Tensor) -> Tensor:
        """Sum over the neighbours: [N, B, F] -> [R, N, B, F]."""
        return self.aggregator(x, self.radial)

    def update(self, inputs: Tensor, x: Tensor) -> Tensor:
        """Let the experts propose, mix their proposals and move the state."""
        moments = self._by_tier(inputs)
        change = self.bypass(torch.cat([x, *moments.values()], dim=-1))
        weights = self._gate(x, moments)
        nothing = x[..., :0]
        for column, (name, expert) in enumerate(self.experts.items()):
            change = change + weights[..., column : column + 1] * expert(x, moments.get(name, nothing))
        return x + self.step * change

    def gates(self, x: Tensor) -> Tensor:
        """Compute the gate's weights for a state: [B, N, F] -> [B, N, number of experts], summing to one."""
        self._check(x)
        state = x.transpose(0, 1)
        return self._gate(state, self._by_tier(self.aggregator(state, self.radial))).transpose(0, 1)

    @torch.no_grad()
    def start_shift(self, velocity: Sequence[float], tier: Tier) -> None:
        r"""Start the bypass as an advection: every channel moves by ``velocity`` cells a step.

        A Lax–Friedrichs step on the tier's moments,
        :math:`\Delta x = \text{mean} - x - \sum_a (v_a / s_a)\,\text{gradient}_a` with
        :math:`s_a = \langle o_a^2 \rangle` over the tier's edges; other weights keep their small random start.

        Args:
            velocity: Cells a step along x, y and z.
            tier: The tier whose neighbours carry the signal; one of `reaching`.
        """
        first = self.channels * (1 + sum(COMPONENTS[m] for m in MOMENTS) * self.reaching.index(tier))
        eye = torch.eye(self.channels)
        weight = self.bypass.weight
        weight[:, : self.channels] -= eye
        weight[:, first : first + self.channels] += eye
        for axis, speed in enumerate(velocity):
            start = first + (1 + axis) * self.channels
            if speed != 0:
                unit = 1.0 if self.units is None else float(self.units[self.reaching.index(tier), 1 + axis])
                weight[:, start : start + self.channels] -= eye * (speed / self.spread[tier][axis] / unit)

    def _by_tier(self, inputs: Tensor) -> dict[str, Tensor]:
        rows = sum(COMPONENTS[m] for m in MOMENTS)
        if self.units is not None:
            inputs = inputs * self.units.to(inputs).view(-1, 1, 1, 1)
        parts = inputs.split(rows) if self.reaching else ()
        return {
            tier.name.lower(): part.permute(1, 2, 0, 3).flatten(2)
            for tier, part in zip(self.reaching, parts, strict=True)
        }

    def _gate(self, x: Tensor, moments: Mapping[str, Tensor]) -> Tensor:
        activity = [m[..., : self.channels].square().mean(dim=-1, keepdim=True) for m in moments.values()]
        return torch.softmax(self.gate(torch.cat([self.norm(x), *activity], dim=-1)), dim=-1)

    def _check(self, x: Tensor) -> None:
        if x.dim() != 3 or tuple(x.shape[1:]) != (self.num_nodes, self.channels):
            raise ValueError(
                f"the state must have shape [B, N, F] = [B, {self.num_nodes}, {self.channels}]; got {list(x.shape)}; "
                "pass a batch of states of this lattice."
            )


def _settings(experts: Mapping[str, Any] | None) -> dict[str, Any]:
    unknown = set(experts or {}) - set(DEFAULT_EXPERTS)
    if unknown:
        raise ValueError(
            f"experts are set for the tiers {', '.join(DEFAULT_EXPERTS)}; got {', '.join(map(repr, sorted(unknown)))}; "
            "use these names."
        )
    return DEFAULT_EXPERTS | dict(experts or {})


def _spread(lattice: LatticeSpec | Data) -> dict[Tier, list[float]]:
    """Return the mean square offset along each axis for every tier that has an edge, self-edges included."""
    if isinstance(lattice, LatticeSpec):
        return mean_square_offset(lattice)
    chosen = {tier: lattice.edge_offset[lattice.edge_tier == int(tier)] for tier in Tier}
    return {t: offset.double().square().mean(dim=0).tolist() for t, offset in chosen.items() if len(offset)}


def _positions(lattice: LatticeSpec | Data) -> Tensor:
    """Return the cells' places, from -1 to 1 along each axis [N, 3]; 0 along an axis of one cell."""
    place = coordinates(lattice) if isinstance(lattice, LatticeSpec) else lattice.pos
    half = place.amax(dim=0) / 2
    return ((place - half) / half.clamp_min(0.5)).float()


def _units(lattice: LatticeSpec | Data, reference: LatticeSpec | None, tiers: Sequence[Tier]) -> Tensor | None:
    """Return what each tier's moments are multiplied by [tiers, 4]; None for ones."""
    if reference is None:
        return None
    if not isinstance(lattice, LatticeSpec):
        raise ValueError(
            "a cell with a reference is built on a LatticeSpec, whose radii can be compared; got a graph; pass its "
            "spec."
        )
    return torch.tensor([[1.0, *slope_units(lattice, reference, tier)] for tier in tiers])


def slope_units(spec: LatticeSpec, reference: LatticeSpec, tier: Tier) -> list[float]:
    r"""Return the factors along x, y and z that give a tier's first moment the meaning it has on a reference lattice.

    On a smooth state the first moment is the slope times the tier's mean square offset s, so that fixed weights would
    carry a signal at a speed that grows as s, while a step of the neighbours' mean is stable up to one that grows as
    :math:`\sqrt{s}` (Courant, Friedrichs & Lewy, 1928). The factors

    .. math::
        \sqrt{s_\text{ref} / s}

    measure offsets and slopes in the tier's root mean square offset: what is stable stays so. They are 1 where the
    neighbours are the same.

    Args:
        spec: The lattice.
        reference: The lattice that the weights belong to.
        tier: The tier; where one of the two lattices has no neighbours in it, the factors are 1.
    """
    own, other = (_offset_variance(lattice, tier) for lattice in (spec, reference))
    return [math.sqrt(b / a) if a > 0 and b > 0 else 1.0 for a, b in zip(own, other, strict=True)]


def _offset_variance(spec: LatticeSpec, tier: Tier) -> list[float]:
    """Return a tier's mean square offset around a cell far from all borders."""
    parts = stencil(spec)
    squares = parts.offsets[parts.tier == tier].double().square()
    return squares.mean(dim=0).tolist() if len(squares) else [0.0] * 3


def _as_expert(built: Any, lattice: LatticeSpec | Data, tier: Tier, channels: int, moments: int) -> nn.Module:
    name = f"expert of the {tier.name.lower()} tier"
    if not isinstance(built, Expert):
        spec = lattice if isinstance(lattice, LatticeSpec) else lattice.spec
        if any(spec.absorbing):
            raise ValueError(
                f"{name}: the zeros beyond an absorbing boundary are on no edge, and so unknown to a layer that works "
                f"edge by edge; got {type(built).__name__} with boundary {spec.boundary}; choose another boundary, or "
                "an expert that is linear in its neighbours."
            )
        graph = build_graph(lattice) if isinstance(lattice, LatticeSpec) else lattice
        chosen = graph.edge_tier == int(tier)
        try:
            return EdgeExpert(
                built, graph.edge_index[:, chosen], graph.edge_attr[chosen], int(graph.num_nodes), channels
            )
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    # One that knows positions works on all cells, any other on whatever rows it is given.
    cells = int(lattice.num_nodes) if "positions" in inspect.signature(type(built)).parameters else 1
    try:
        with torch.no_grad():
            out = built(torch.zeros(cells, 1, channels), torch.zeros(cells, 1, moments))
    except Exception as error:  # whatever a foreign forward raises is told with the tier's name
        raise ValueError(
            f"{name}: an expert must run on a state [..., F] and moments [..., M], F = {channels}, M = {moments}; "
            f"{type(built).__name__} failed: {error}; mend its forward or its init_args."
        ) from error
    if out.shape != (cells, 1, channels):
        raise ValueError(
            f"{name}: an expert must return the shape of the state, [..., F] with F = {channels}; "
            f"{type(built).__name__} returned {list(out.shape)}; set its output width to {channels}."
        )
    return built
