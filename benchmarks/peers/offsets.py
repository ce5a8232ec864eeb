"""The convolutional automaton in this library's terms: an expert that has a weight for each of the 27 offsets."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.nn import MessagePassing

from latticegnn.benchmarks.peer import ConvAutomaton
from latticegnn.lattice import LatticeSpec, coordinates
from latticegnn.nn import LatticeCell

RADII = (1.75, 1.8, 1.85)
"""The local tier is the whole 3×3×3 block, the cell itself included; the other two are empty."""


class OffsetExpert(MessagePassing):
    r"""Perceive every offset by its own weight, as a convolution does, then a perceptron with ReLU.

    .. math::
        \Delta x_i = W_2\,\mathrm{ReLU}(W_1 p_i + b_1) + b_2, \qquad
        p_i[4c + k] = \sum_{o \in \{-1, 0, 1\}^3} K[o, c, k]\; x_{i + o}[c]

    What lies beyond the border counts as zeros. The 27 weights of a channel are free, which no moments of the
    neighbours can express: they are gathered edge by edge.

    Args:
        in_channels: C.
        hidden: Width of the hidden layer.
        shape: Sides of the lattice.

    Shapes:
        - x [B, N, C] or [N, C], edge_index [2, E], with the self-edges
        - output: as x
    """

    def __init__(self, in_channels: int, hidden: int, shape: tuple[int, int, int]) -> None:
        super().__init__(aggr="sum", node_dim=-2)
        self.kernel = nn.Parameter(torch.randn(27, in_channels, 4) / 27**0.5)
        self.inner = nn.Linear(4 * in_channels, hidden)
        self.outer = nn.Linear(hidden, in_channels)
        self.register_buffer(
            "cells", coordinates(LatticeSpec((shape[0], shape[1], shape[2]), radii=RADII)).long(), persistent=False
        )

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Propose a change of state."""
        cells = self.get_buffer("cells")
        steps = cells[edge_index[0]] - cells[edge_index[1]] + 1
        place = (steps * torch.tensor([9, 3, 1], device=x.device)).sum(dim=-1)
        return self.outer(functional.relu(self.inner(self.propagate(edge_index, x=x, place=place))))

    def aggregate(self, inputs: Tensor, index: Tensor, place: Tensor, dim_size: int) -> Tensor:
        """Lay each message in its offset's place and weigh the places: […, E, C] -> […, N, 4C]."""
        table = inputs.new_zeros(*inputs.shape[:-2], 27 * dim_size, inputs.shape[-1])
        table = table.index_copy(-2, 27 * index + place, inputs).unflatten(-2, (dim_size, 27))
        return torch.einsum("...noc,ock->...nck", table, self.kernel).flatten(-2)


def offset_cell(shape: tuple[int, int, int], automaton: ConvAutomaton) -> LatticeCell:
    """Return the cell that is the same automaton as a convolutional one: its weights, no bypass, a step of one.

    Args:
        shape: Sides of the lattice.
        automaton: Whose weights are copied.
    """
    channels, hidden = automaton.outer.out_channels, automaton.outer.in_channels
    path = f"{OffsetExpert.__module__}.{OffsetExpert.__qualname__}"
    expert = {"class_path": path, "init_args": {"shape": list(shape)}}
    cell = LatticeCell(LatticeSpec(shape, radii=RADII), channels, hidden, experts={"local": expert})
    layer = cell.get_submodule("experts.local.layer")
    assert isinstance(layer, OffsetExpert)
    with torch.no_grad():
        cell.bypass.weight.zero_()
        layer.kernel.copy_(automaton.perception.weight.reshape(channels, 4, 27).permute(2, 0, 1))
        for own, other in ((layer.inner, automaton.inner), (layer.outer, automaton.outer)):
            assert other.bias is not None
            own.weight.copy_(other.weight.flatten(1))
            own.bias.copy_(other.bias)
    return cell
