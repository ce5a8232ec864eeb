"""LatticeCell against its formula, written as a loop over cells and tiers; forward and every gradient."""

import pytest
import torch
from torch import Tensor

from latticegnn.lattice import LatticeSpec, Tier, build_graph
from latticegnn.nn import LatticeCell

CHANNELS = 3
SPECS = [
    LatticeSpec((3, 3, 3), radii=(0.5, 1.0, 1.5)),
    LatticeSpec((2, 3, 4), radii=(0.5, 1.0, 1.8), order="morton"),
    LatticeSpec((3, 3, 3), radii=(0.5, 1.0, 1.5), boundary="periodic"),
    LatticeSpec((3, 4, 2), radii=(0.5, 1.0, 1.5), boundary=("periodic", "open", "periodic"), order="morton"),
    LatticeSpec((2, 3, 3), "full"),
    LatticeSpec((3, 3, 3), radii=(1.0, 1.5, 2.0)),  # the local tier has neighbours
    LatticeSpec((3, 3, 3), radii=(1.0, 1.5, 2.0), boundary="periodic"),
    LatticeSpec((3, 3, 3), radii=(1.8, 2.0, 2.3)),  # one cell has no functional neighbours
    LatticeSpec((3, 3, 3)),  # no cell has neighbours: the local expert alone
]


def naive(cell: LatticeCell, graph, x: Tensor) -> Tensor:
    """One step of each sample, one cell at a time, edge by edge."""
    edges = list(zip(*graph.edge_index.tolist(), graph.edge_tier.tolist(), graph.edge_offset.tolist(), strict=True))
    present = [tier for tier in Tier if any(edge[2] == tier for edge in edges)]
    reaching = [tier for tier in present if any(edge[2] == tier and any(edge[3]) for edge in edges)]
    samples = []
    for state in x:
        cells = []
        for i, own in enumerate(state):
            moments: dict[Tier, Tensor] = {}
            for tier in reaching:
                near = [(state[j], offset) for j, target, t, offset in edges if target == i and t == tier]
                parts = [torch.zeros_like(own) for _ in range(4)]
                for source, offset in near:
                    parts[0] = parts[0] + source / len(near)
                    for axis in range(3):
                        parts[1 + axis] = parts[1 + axis] + offset[axis] * source / len(near)
                moments[tier] = torch.cat(parts)
            centred = own - own.sum() / CHANNELS
            normed = centred / ((centred**2).sum() / CHANNELS + cell.norm.eps) ** 0.5
            normed = normed * cell.norm.weight + cell.norm.bias
            activity = [(moments[tier][:CHANNELS] ** 2).sum() / CHANNELS for tier in reaching]
            score = cell.gate.weight @ torch.cat([normed, *(a.reshape(1) for a in activity)]) + cell.gate.bias
            gate = score.exp() / score.exp().sum()
            change = cell.bypass.weight @ torch.cat([own, *(moments[tier] for tier in reaching)])
            for k, tier in enumerate(present):
                expert = cell.experts[tier.name.lower()]
                change = change + gate[k] * expert(own, moments.get(tier, own[:0]))
            cells.append(own + cell.step * change)
        samples.append(torch.stack(cells))
    return torch.stack(samples)


@pytest.mark.parametrize("backend", ["edge", "sparse"])
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_the_cell_equals_its_formula(spec, backend) -> None:
    graph = build_graph(spec)
    torch.manual_seed(0)
    cell = LatticeCell(graph, CHANNELS, hidden=4, step=0.7, backend=backend).double()
    for parameter in cell.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(2, spec.num_nodes, CHANNELS, dtype=torch.float64, requires_grad=True)
    weight = torch.randn_like(x)
    leaves = [x, *cell.parameters()]
    names = ["x", *(name for name, _ in cell.named_parameters())]
    found, expected = cell(x), naive(cell, graph, x)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    grads = torch.autograd.grad((found * weight).sum(), leaves)
    for name, grad, twin in zip(names, grads, torch.autograd.grad((expected * weight).sum(), leaves), strict=True):
        torch.testing.assert_close(grad, twin, rtol=1e-10, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")
        assert grad.any() or len(cell.experts) == 1, f"{name} has no gradient to compare"


@pytest.mark.parametrize("backend", ["edge", "sparse"])
def test_gradients_are_right(backend) -> None:
    torch.manual_seed(0)
    cell = LatticeCell(build_graph(SPECS[0]), 2, hidden=3, backend=backend).double()
    names = [name for name, _ in cell.named_parameters()]
    values = [torch.randn_like(p, requires_grad=True) for p in cell.parameters()]
    x = torch.randn(1, 27, 2, dtype=torch.float64, requires_grad=True)

    def step(state: Tensor, *given: Tensor) -> Tensor:
        return torch.func.functional_call(cell, dict(zip(names, given, strict=True)), (state,))

    assert list(cell.experts) == ["local", "functional", "distant"]
    assert torch.autograd.gradcheck(step, (x, *values))
