"""The conformance suite passes every layer we ship, and each of its tests fails for the fault it is named after."""

import subprocess
import sys
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.gradcheck import GradcheckError
from torch_geometric import nn as pyg

from latticegnn.nn import AttentionExpert, Expert, GatedExpert, MeanFieldExpert, MLPExpert
from latticegnn.testing import LayerContract


class TestMLPExpert(LayerContract):
    layer = MLPExpert


class TestMeanFieldExpert(LayerContract):
    layer = MeanFieldExpert
    init_args: ClassVar = {"euler_steps": 2}


class TestAttentionExpert(LayerContract):
    layer = AttentionExpert


class TestGatedExpert(LayerContract):
    layer = GatedExpert


class TestSAGEConv(LayerContract):
    layer = pyg.SAGEConv


class TestGATv2Conv(LayerContract):
    layer = pyg.GATv2Conv
    init_args: ClassVar = {"heads": 2, "concat": False, "edge_dim": 1}


class Mean(pyg.MessagePassing):
    """The mean of the neighbours, nothing learned."""

    def __init__(self) -> None:
        super().__init__(aggr="mean", node_dim=-2)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.propagate(edge_index, x=x)


class TestMean(LayerContract):
    layer = Mean
    learns = False


class Placed(Expert):
    """A rate for each place, which the torus does not have."""

    def __init__(self, channels: int, moments: int, positions: Tensor) -> None:
        super().__init__()
        self.register_buffer("positions", positions, persistent=False)
        self.rate, self.outer = nn.Linear(3, channels), nn.Linear(moments, channels)

    def forward(self, x: Tensor, moments: Tensor) -> Tensor:
        """Weigh by the place what the neighbours say."""
        return self.rate(self.positions.to(x)).unsqueeze(1) * self.outer(moments)


class TestPlaced(LayerContract):
    layer = Placed
    homogeneous = False


class Lone(nn.Module):
    """The cell alone."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.inner = nn.Linear(in_channels, out_channels)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.inner(x)


class TestLone(LayerContract):
    layer = Lone
    listens = False


class Wide(Expert):
    """Returns float32 whatever it gets."""

    def __init__(self, channels: int, moments: int) -> None:
        super().__init__()
        self.inner = nn.Linear(channels + moments, channels)

    def forward(self, x: Tensor, moments: Tensor) -> Tensor:
        return self.inner(torch.cat([x, moments], dim=-1)).float()


class BatchMean(Wide):
    """Subtracts the mean of the batch."""

    def forward(self, x: Tensor, moments: Tensor) -> Tensor:
        out = self.inner(torch.cat([x, moments], dim=-1))
        return out - out.mean(dim=-2, keepdim=True) if x.dim() == 3 else out


class Ordered(Lone):
    """Weighs an edge by its place in the list."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        rank = torch.linspace(0, 1, edge_index.shape[1], dtype=x.dtype).unsqueeze(-1)
        return torch.zeros_like(x).index_add(-2, edge_index[1], self.inner(x)[..., edge_index[0], :] * rank)


class Numbered(Lone):
    """Adds the cell's number, relative to N."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.inner(x) * torch.linspace(0, 1, x.shape[-2], dtype=x.dtype).unsqueeze(-1)


class Pooled(Lone):
    """Adds the mean of the lattice."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.inner(x) + x.mean(dim=-2, keepdim=True)


class Unused(Lone):
    """Has a parameter it does not use."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels)
        self.scale = nn.Parameter(torch.ones(()))


class Detached(Lone):
    """Takes half of its output out of the gradient."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        out = self.inner(x)
        return 0.5 * out + 0.5 * out.detach()


class Normed(Lone):
    """Divides by a norm that may be zero."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.inner(x / x.norm(dim=-1, keepdim=True))


class Forgetful(Lone):
    """Keeps a random number outside of its state dict."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels)
        self.scale = torch.rand(1).item()

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.scale * self.inner(x)


class Unseeded(Lone):
    """Starts from a generator of its own."""

    generator = torch.Generator().manual_seed(0)

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels)
        nn.init.normal_(self.inner.weight, generator=self.generator)


def contract(layer: type) -> LayerContract:
    return type("Contract", (LayerContract,), {"layer": layer})()


@pytest.mark.parametrize(
    ("layer", "test", "message"),
    [
        (Wide, "shape_and_dtype", "dtype torch.float32 from a state of torch.float64"),
        (BatchMean, "batch_equals_singles", "a batch and its samples"),
        (Ordered, "edge_order_does_not_matter", "edges in two orders"),
        (Numbered, "relabelling_the_cells_commutes", "cells under two numberings"),
        (Numbered, "translation_on_a_torus_commutes", "a move along x"),
        (Placed, "translation_on_a_torus_commutes", "a move along x"),
        (Pooled, "locality", "beyond one step's reach"),
        (Lone, "it_listens_to_neighbours", "gradient at the neighbours is zero"),
        (Mean, "gradients_reach_every_parameter", "learns is True; it has 0 parameters"),
        (Unused, "gradients_reach_every_parameter", "no gradient reaches layer.scale"),
        (Detached, "gradients_are_right", "Jacobian mismatch"),
        (Normed, "finite_on_zero_and_large_states", "not finite at size 0"),
        (Forgetful, "state_dict_round_trip", "a layer and its saved copy"),
        (Unseeded, "the_seed_decides_the_start", "inner.weight"),
    ],
)
def test_each_test_fails_for_its_fault(layer, test, message) -> None:
    with pytest.raises((AssertionError, GradcheckError), match=message):
        getattr(contract(layer), f"test_{test}")()


def test_a_layer_without_a_class_path_is_refused(refuses) -> None:
    class Hidden(Lone):
        pass

    with refuses("found by its class path", "Hidden is defined inside", "move it to the top of its module"):
        contract(Hidden).test_locality()


def test_the_suite_can_be_imported_without_pytest() -> None:
    code = "import sys; sys.modules['pytest'] = None; import latticegnn.testing as t; print(t.LayerContract)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "LayerContract" in found.stdout
