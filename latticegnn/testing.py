"""The conformance suite that a layer of your own inherits, in two lines of test."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from latticegnn.lattice import LatticeSpec, build_graph, hops, node_grid
from latticegnn.nn import LatticeCell

#: Largest absolute and relative difference between two ways of computing the same thing.
TOLERANCE: dict[torch.dtype, float] = {torch.float64: 1e-10, torch.float32: 2e-5}

TIER = "functional"
CHANNELS = 4
BOX = LatticeSpec(shape=(4, 3, 5), radii=(0.5, 1.0, 1.5), edges="stencil")
TORUS = LatticeSpec(shape=(5, 4, 3), radii=(0.5, 1.0, 1.5), boundary="periodic", edges="stencil")
CUBE = LatticeSpec(shape=(3, 3, 3), radii=(0.5, 1.0, 1.5), edges="stencil")
#: A functional tier of nothing but neighbours at distance 2: the middle cell has none.
HOLLOW = LatticeSpec(shape=(3, 3, 3), radii=(1.8, 2.0, 2.3), edges="stencil")


class LayerContract:
    """Properties that every layer which serves as a tier's expert must have.

    Inherit it and name the layer; pytest collects the rest::

        class TestMine(LayerContract):
            layer = Mine

    The layer becomes the expert of the functional tier of a `LatticeCell`, built from its class path as a configuration
    would. Where a property must not be owed to the rest of the cell, the other experts, the bypass and the gate are
    silenced. The cell is put in evaluation mode, as dropout makes any two calls differ.

    Flags start True, so that nothing goes untested by accident; turn one off where the layer is meant to be otherwise.

    Attributes:
        layer: Any class that may stand under ``class_path``: an `Expert` (channels, moments, hidden), or a layer with
            PyG's arguments (in_channels, out_channels) and ``forward(x, edge_index)``, with or without ``edge_attr``.
        init_args: Further arguments of its constructor, as in YAML.
        learns: It has parameters.
        listens: Its output depends on the neighbours.
        smooth: It can be differentiated at any state, so numerical and exact gradients agree.
        homogeneous: It treats all places alike, which a layer that takes ``positions`` need not.
    """

    layer: ClassVar[type]
    init_args: ClassVar[Mapping[str, Any]] = {}
    learns: ClassVar[bool] = True
    listens: ClassVar[bool] = True
    smooth: ClassVar[bool] = True
    homogeneous: ClassVar[bool] = True

    def cell(self, graph: Data, seed: int = 0, channels: int = CHANNELS) -> LatticeCell:
        """Build a cell with the layer in it, the way a configuration does."""
        path = f"{self.layer.__module__}.{self.layer.__qualname__}"
        if "." in self.layer.__qualname__:
            raise ValueError(
                f"a layer must be found by its class path; {path} is defined inside another class or function; "
                "move it to the top of its module."
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            setting = {"class_path": path, "init_args": dict(self.init_args)}
            return LatticeCell(graph, channels, hidden=8, experts={TIER: setting}).eval()

    def alone(self, graph: Data, channels: int = CHANNELS) -> LatticeCell:
        """Build a cell in which nothing but the layer moves the state: bypass and other experts zero, the gate even."""
        cell = self.cell(graph, channels=channels).double()
        silent = [cell.bypass, cell.gate, *(expert for name, expert in cell.experts.items() if name != TIER)]
        with torch.no_grad():
            for part in silent:
                for parameter in part.parameters():
                    parameter.zero_()
        return cell

    def test_shape_and_dtype(self) -> None:
        """If this fails, the layer returns another shape or dtype than the state it was given."""
        graph = build_graph(BOX)
        for dtype in TOLERANCE:
            cell, x = self.cell(graph).to(dtype), _state(BOX, dtype=dtype).transpose(0, 1)
            moments = _state(BOX, dtype=dtype, channels=4 * CHANNELS).transpose(0, 1)  # a mean and three differences
            for out in (cell.experts[TIER](x, moments), cell.advance(x)):
                _require(out.shape == x.shape, f"shape {list(out.shape)} from [N, B, F] = {list(x.shape)}")
                _require(out.dtype == dtype, f"dtype {out.dtype} from a state of {dtype}")

    def test_batch_equals_singles(self) -> None:
        """If this fails, samples of a batch influence each other: the layer mixes or normalises over the batch."""
        graph = build_graph(BOX)
        for dtype in TOLERANCE:
            cell, x = self.cell(graph).to(dtype), _state(BOX, dtype=dtype, batch=3)
            _close(cell(x), torch.cat([cell(one.unsqueeze(0)) for one in x]), "a batch and its samples one by one")

    def test_edge_order_does_not_matter(self) -> None:
        """If this fails, the layer depends on the order in which edges are listed, not only on which there are."""
        graph = build_graph(BOX)
        order = torch.randperm(graph.num_edges, generator=torch.Generator().manual_seed(1))
        shuffled = graph.clone()
        shuffled.edge_index = graph.edge_index[:, order]
        for name in ("edge_attr", "edge_tier", "edge_offset"):
            shuffled[name] = graph[name][order]
        self._same(self.cell(graph), self.cell(shuffled), _state(BOX), "edges in two orders")

    def test_relabelling_the_cells_commutes(self) -> None:
        """If this fails, the layer uses the number of a cell, so it is not one layer shared by all cells."""
        graph = build_graph(BOX)
        new = torch.randperm(BOX.num_nodes, generator=torch.Generator().manual_seed(2))
        relabelled = graph.clone()
        relabelled.edge_index = new[graph.edge_index]
        relabelled.pos = graph.pos[new.argsort()]
        self._same(self.cell(graph), self.cell(relabelled), _state(BOX), "cells under two numberings", new)

    def test_translation_on_a_torus_commutes(self) -> None:
        """If this fails, the layer treats places differently where the lattice has no special place."""
        if not self.homogeneous:
            return
        graph, grid = build_graph(TORUS), node_grid(TORUS)
        cell = self.cell(graph)
        for axis in range(3):
            moved = torch.empty(TORUS.num_nodes, dtype=torch.long)
            moved[grid.flatten()] = grid.roll(-1, axis).flatten()
            self._same(cell, cell, _state(TORUS), f"a step before and after a move along {'xyz'[axis]}", moved)

    def test_locality(self) -> None:
        """If this fails, a change in one cell is felt beyond the neighbours: the layer pools over the lattice."""
        cell, x = self.alone(build_graph(BOX)), _state(BOX)
        far = hops(BOX, torch.tensor([0])) > 1
        poked = x.clone()
        poked[:, 0] += 1.0
        moved = (cell(poked) - cell(x)).detach().abs().amax(dim=(0, 2))
        _require(float(moved[far].max()) <= TOLERANCE[x.dtype], "a poke moved cells beyond one step's reach")

    def test_it_listens_to_neighbours(self) -> None:
        """If this fails, no signal can cross the lattice through the layer: its output ignores the neighbours."""
        if not self.listens:
            return
        graph, x = build_graph(BOX), _state(BOX).requires_grad_()
        target = graph.edge_index[1, graph.edge_tier == 1][0]
        out = self.alone(graph)(x)[:, target]
        (slope,) = torch.autograd.grad((out * torch.linspace(1, 2, CHANNELS, dtype=x.dtype)).sum(), x)
        near = graph.edge_index[0, (graph.edge_index[1] == target) & (graph.edge_tier == 1)]
        _require(bool(slope[:, near].any()), "the gradient at the neighbours is zero")

    def test_gradients_reach_every_parameter(self) -> None:
        """If this fails, part of the layer never learns: a parameter is unused, detached, or has no finite gradient."""
        cell = self.alone(build_graph(BOX))
        parameters = dict(cell.experts[TIER].named_parameters())
        _require(bool(parameters) == self.learns, f"learns is {self.learns}; it has {len(parameters)} parameters")
        out = cell(_state(BOX))
        if parameters:
            (out * torch.linspace(1, 2, CHANNELS, dtype=out.dtype)).sum().backward()
        for name, parameter in parameters.items():
            if parameter.grad is None:
                raise AssertionError(f"no gradient reaches {name}")
            _require(bool(torch.isfinite(parameter.grad).all()), f"the gradient of {name} is not finite")
            _require(bool(parameter.grad.any()), f"the gradient of {name} is zero")

    def test_gradients_are_right(self) -> None:
        """If this fails, backward disagrees with finite differences: a hand-written gradient, a detach, or a kink."""
        if not self.smooth:
            return
        cell, x = self.alone(build_graph(CUBE), channels=2), _state(CUBE, batch=1, channels=2).requires_grad_()
        expert = cell.experts[TIER]
        names = [f"experts.{TIER}.{name}" for name, _ in expert.named_parameters()]

        def step(state: Tensor, *values: Tensor) -> Tensor:
            return torch.func.functional_call(cell, dict(zip(names, values, strict=True)), (state,))

        values = [parameter.detach().clone().requires_grad_() for parameter in expert.parameters()]
        torch.autograd.gradcheck(step, (x, *values))

    def test_finite_on_zero_and_large_states(self) -> None:
        """If this fails, the layer divides by what may be zero or overflows; or a cell without neighbours breaks it."""
        for spec in (BOX, HOLLOW):
            cell = self.cell(build_graph(spec))
            for size in (0.0, 1e4):
                x = (size * _state(spec, dtype=torch.float32)).requires_grad_()
                out = cell(x)
                (slope,) = torch.autograd.grad(out.sum(), x)
                _require(bool(torch.isfinite(out).all()), f"the new state is not finite at size {size:g}")
                _require(bool(torch.isfinite(slope).all()), f"the gradient is not finite at size {size:g}")

    def test_state_dict_round_trip(self) -> None:
        """If this fails, something that the output depends on is not saved: a plain tensor where a buffer is needed."""
        graph, x = build_graph(BOX), _state(BOX, dtype=torch.float32)
        first, second = self.cell(graph, seed=0), self.cell(graph, seed=1)
        file = io.BytesIO()
        torch.save(first.state_dict(), file)
        file.seek(0)
        second.load_state_dict(torch.load(file, weights_only=True))
        _close(second(x), first(x), "a layer and its saved copy")

    def test_the_seed_decides_the_start(self) -> None:
        """If this fails, the layer draws its start from a source that torch's seed does not govern."""
        graph = build_graph(BOX)
        first, second = self.cell(graph).state_dict(), self.cell(graph).state_dict()
        differing = [name for name in first if not torch.equal(first[name], second[name])]
        _require(not differing, f"two layers built from one seed differ in {', '.join(differing)}")

    @staticmethod
    def _same(before: nn.Module, after: nn.Module, x: Tensor, what: str, new: Tensor | None = None) -> None:
        """Compare two cells with the same weights, cell i of the first being cell ``new[i]`` of the second."""
        after.load_state_dict(before.state_dict())
        before, after = before.double(), after.double()
        order = torch.arange(x.shape[1]) if new is None else new
        renamed = torch.empty_like(x)
        renamed[:, order] = x
        _close(after(renamed)[:, order], before(x), what)


def _state(spec: LatticeSpec, dtype: torch.dtype = torch.float64, batch: int = 2, channels: int = CHANNELS) -> Tensor:
    return torch.randn(batch, spec.num_nodes, channels, generator=torch.Generator().manual_seed(0), dtype=dtype)


def _close(found: Tensor, expected: Tensor, what: str) -> None:
    tolerance = TOLERANCE[expected.dtype]
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance, msg=lambda text: f"{what}: {text}")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)
