"""A graph neural cellular automaton that works on every edge, after E(n)-GNCA."""

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

from latticegnn.benchmarks.peer import RADII
from latticegnn.lattice import LatticeSpec, build_graph


class EdgeAutomaton(MessagePassing):
    r"""One step of an automaton whose messages are computed edge by edge from both states and their distance.

    .. math::
        m_{ij} = \tanh\big(W_2 \tanh(W_1 [h_i \,\|\, h_j \,\|\, d_{ij}^2])\big), \qquad
        h_i' = h_i + \mathrm{MLP}\Big(\Big[h_i \,\|\, \sum_j m_{ij}\Big]\Big)

    The invariant part of the layer of Gala, Grattarola and Quaeghebeur, "E(n)-equivariant graph neural cellular
    automata" (2023), itself after EGNN (Satorras et al., 2021), written anew on PyG's `MessagePassing`. Cells of a
    lattice stay where they are, so the update of coordinates is left out, and with it some of the original's cost.

    Args:
        shape: Sides of the lattice; neighbours are the 26 around a cell.
        channels: F.
        hidden: Width of messages and of both perceptrons.

    Shapes:
        - h [B, N, F] -> [B, N, F]
    """

    def __init__(self, shape: tuple[int, int, int], channels: int, hidden: int) -> None:
        super().__init__(aggr="sum", node_dim=-2)
        graph = build_graph(LatticeSpec(shape, radii=RADII))
        others = graph.edge_index[0] != graph.edge_index[1]
        self.register_buffer("edges", graph.edge_index[:, others], persistent=False)
        squares = graph.edge_offset[others].float().square().sum(dim=-1, keepdim=True)
        self.register_buffer("squares", squares, persistent=False)
        self.edge = nn.Sequential(nn.Linear(2 * channels + 1, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh())
        self.node = nn.Sequential(nn.Linear(channels + hidden, hidden), nn.Tanh(), nn.Linear(hidden, channels))

    def forward(self, h: Tensor) -> Tensor:
        """Move every cell by one step."""
        heard = self.propagate(self.get_buffer("edges"), h=h, squares=self.get_buffer("squares"))
        return h + self.node(torch.cat([h, heard], dim=-1))

    def message(self, h_i: Tensor, h_j: Tensor, squares: Tensor) -> Tensor:
        """Compute one edge's message."""
        distance = squares.to(h_i.dtype).expand(*h_i.shape[:-1], 1)
        return self.edge(torch.cat([h_i, h_j, distance], dim=-1))
