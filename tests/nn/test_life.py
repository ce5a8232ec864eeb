"""Conway's Game of Life as a cell: fixed weights over the Moore neighbourhood, run by `Plain`."""

import pytest
import torch
from torch import Tensor, nn

from latticegnn.lattice import LatticeSpec, Tier, build_graph, node_grid
from latticegnn.nn import Plain, Stochastic

BLOCK = ["##", "##"]
BLINKER = ["###"]
GLIDER = [".#.", "..#", "###"]


class Life(nn.Module):
    """A cell is born with 3 living neighbours and survives with 2 or 3; a 2D sheet's Moore neighbours are all edges."""

    def __init__(self, spec: LatticeSpec) -> None:
        super().__init__()
        graph = build_graph(spec)
        self.source, self.target = graph.edge_index[:, graph.edge_tier != Tier.LOCAL]

    def forward(self, x: Tensor) -> Tensor:
        around = torch.zeros_like(x).index_add(1, self.target, x[:, self.source])
        return ((around == 3) | ((x == 1) & (around == 2))).to(x.dtype)


def sheet(side: int, boundary: str, order: str = "raster") -> LatticeSpec:
    return LatticeSpec((side, side, 1), radii=(0.5, 1.0, 1.5), boundary=boundary, order=order)


def board(side: int, pattern: list[str], row: int, column: int) -> Tensor:
    cells = torch.zeros(side, side)
    for i, line in enumerate(pattern):
        for j, mark in enumerate(line):
            cells[(row + i) % side, (column + j) % side] = mark == "#"
    return cells


def lived(spec: LatticeSpec, cells: Tensor, steps: int) -> Tensor:
    grid, mode = node_grid(spec).flatten(), Plain()
    x = torch.empty(1, spec.num_nodes, 1)
    x[0, grid, 0] = cells.flatten()
    cell, memory = Life(spec), mode.start(x)
    for at in range(steps):
        x, memory = mode(cell, x, memory, at)
    return x[0, grid, 0].reshape(cells.shape)


@pytest.mark.parametrize("order", ["raster", "morton"])
@pytest.mark.parametrize("boundary", ["open", "periodic"])
class TestLife:
    def test_a_block_is_still(self, boundary, order) -> None:
        block = board(8, BLOCK, 3, 4)
        assert torch.equal(lived(sheet(8, boundary, order), block, 5), block)

    def test_a_blinker_has_period_two(self, boundary, order) -> None:
        spec, blinker = sheet(8, boundary, order), board(8, BLINKER, 3, 2)
        assert torch.equal(lived(spec, blinker, 1), board(8, ["#"] * 3, 2, 3))
        assert torch.equal(lived(spec, blinker, 2), blinker)
        assert torch.equal(lived(spec, blinker, 7), lived(spec, blinker, 1))

    def test_a_glider_moves_one_cell_diagonally_in_four_steps(self, boundary, order) -> None:
        spec, glider = sheet(12, boundary, order), board(12, GLIDER, 1, 2)
        for moved in (1, 3, 6):
            assert torch.equal(lived(spec, glider, 4 * moved), board(12, GLIDER, 1 + moved, 2 + moved))
        assert not torch.equal(lived(spec, glider, 3), glider)

    def test_the_boundary_decides_what_becomes_of_a_glider(self, boundary, order) -> None:
        """A torus brings it back; in an open corner it ends as a block."""
        spec, glider = sheet(8, boundary, order), board(8, GLIDER, 1, 1)
        expected = glider if boundary == "periodic" else board(8, BLOCK, 6, 6)
        assert torch.equal(lived(spec, glider, 32), expected)

    def test_a_blinker_across_the_edge(self, boundary, order) -> None:
        spec, blinker = sheet(8, boundary, order), board(8, BLINKER, 0, 7)
        found = lived(spec, blinker, 2)
        assert torch.equal(found, blinker if boundary == "periodic" else torch.zeros(8, 8))


def test_an_asynchronous_block_is_still_and_a_blinker_is_not() -> None:
    spec, mode = sheet(8, "open"), Stochastic(0.5, seed=0)
    cell = Life(spec)
    for pattern, stays in ((BLOCK, True), (BLINKER, False)):
        x = board(8, pattern, 3, 3).reshape(1, 64, 1)
        now = x
        for at in range(2):
            now, _ = mode(cell, now, (), at)
        assert torch.equal(now, x) is stays
