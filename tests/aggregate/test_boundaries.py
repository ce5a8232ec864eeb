"""Reflecting and absorbing boundaries: every backend against cells that stand explicitly outside of the lattice."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from latticegnn import aggregate
from latticegnn.aggregate import BACKENDS, aggregator, choose, tier_moments
from latticegnn.lattice import LatticeSpec, Tier, build_graph, coordinates, degrees, divisors
from latticegnn.nn import FusedStep, LatticeCell
from latticegnn.training.trajectory_losses import Spatial

ALL = [(tier, moment) for tier in Tier for moment in ("mean", "gradient")]
RADII = (1.0, 1.5, 2.3)
NAMES = ("open", "periodic", "reflecting", "absorbing")
SPECS = [
    LatticeSpec((4, 3, 5), radii=RADII, boundary="reflecting"),
    LatticeSpec((4, 3, 5), radii=RADII, boundary="absorbing", order="morton"),
    LatticeSpec((3, 4, 2), radii=RADII, boundary=("reflecting", "periodic", "absorbing"), order="morton"),
    LatticeSpec((2, 3, 2), "full", boundary=("absorbing", "reflecting", "reflecting")),
    LatticeSpec((1, 6, 1), radii=(0.5, 1.0, 4.0), boundary="reflecting"),
]


def outside(place: int, length: int, boundary: str) -> int | None:
    """The cell whose value stands at a place along an axis; None where nothing or zero does."""
    if 0 <= place < length:
        return place
    if boundary == "reflecting":
        return -1 - place if place < 0 else 2 * length - 1 - place
    return place % length if boundary == "periodic" else None


def images(spec: LatticeSpec, x: Tensor, weights: Tensor | None) -> Tensor:
    """All functionals, cell by cell and offset by offset: [N, C] -> [12, N, C]."""
    local, functional, distant = (radius + 1e-9 for radius in spec.thresholds)
    reach = [range(1 - n, n) if b != "periodic" else range(-((n - 1) // 2), n // 2 + 1)
             for n, b in zip(spec.shape, spec.boundaries, strict=True)]  # fmt: skip
    offsets = [
        o for o in itertools.product(*reach) if spec.connectivity == "full" or sum(a * a for a in o) ** 0.5 <= distant
    ]
    shells = sorted({sum(a * a for a in o) for o in offsets})
    cells = [tuple(place) for place in coordinates(spec).tolist()]
    ids = {place: number for number, place in enumerate(cells)}
    rows: list[list[Tensor]] = [[] for _ in range(12)]
    for at in cells:
        total, count = torch.zeros(3, 4, x.shape[1], dtype=x.dtype), [0, 0, 0]
        for o in offsets:
            there = [outside(a + step, n, b) for a, step, n, b in zip(at, o, spec.shape, spec.boundaries, strict=True)]
            lost = [b for place, b in zip(there, spec.boundaries, strict=True) if place is None]
            if "open" in lost:
                continue
            squared = sum(a * a for a in o)
            tier = 0 if squared**0.5 <= local else 1 if squared**0.5 <= functional else 2
            count[tier] += 1
            if not lost:
                value = x[ids[tuple(there)]] * (1 if weights is None else weights[shells.index(squared)])
                total[tier] = total[tier] + torch.stack([value, *(a * value for a in o)])
        for tier, moment in itertools.product(range(3), range(4)):
            rows[4 * tier + moment].append(total[tier, moment] / max(1, count[tier]))
    return torch.stack([torch.stack(row) for row in rows])


def gradients(out: Tensor, *inputs: Tensor) -> list[Tensor]:
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    return [out, *torch.autograd.grad((out * direction).sum(), inputs, materialize_grads=True)]


def servable(spec: LatticeSpec, radial: bool) -> list[str]:
    return [name for name in BACKENDS if not (name == "dense" and radial and any(spec.reflecting))]


def agree(spec: LatticeSpec, radial: bool, against_images: bool) -> None:
    x = torch.randn(spec.num_nodes, 1, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x.requires_grad_()
    weights = None
    if radial:
        weights = torch.linspace(0.5, 1.5, aggregator(spec, ALL, "sparse", True).shells, dtype=torch.float64)
        weights.requires_grad_()
    inputs = [x] if weights is None else [x, weights]
    twin = (
        images(spec, x.squeeze(1), weights).unsqueeze(2)
        if against_images
        else aggregator(spec, ALL, "edge", radial)(*inputs)
    )
    expected = gradients(twin, *inputs)
    for backend in servable(spec, radial):
        found = gradients(aggregator(spec, ALL, backend, radial)(*inputs), *inputs)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-11, msg=lambda m, b=backend: f"{b}: {m}")


@pytest.mark.parametrize("radial", [False, True], ids=["uniform", "radial"])
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_backends_equal_sums_over_explicit_images(spec, radial) -> None:
    agree(spec, radial, against_images=True)


@settings(deadline=None, max_examples=25)
@given(
    shape=st.tuples(*[st.integers(1, 4)] * 3),
    boundary=st.tuples(*[st.sampled_from(NAMES)] * 3),
    order=st.sampled_from(["raster", "morton"]),
    connectivity=st.sampled_from(["radius", "full"]),
    radii=st.lists(st.integers(1, 12).map(lambda squared: squared**0.5), min_size=3, max_size=3, unique=True),
    radial=st.booleans(),
)
def test_backends_agree_on_any_boundary(shape, boundary, order, connectivity, radii, radial) -> None:
    agree(LatticeSpec(shape, connectivity, boundary, order, radii=tuple(sorted(radii))), radial, against_images=False)


@pytest.mark.parametrize("radial", [False, True], ids=["uniform", "radial"])
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_the_adjoint_is_the_transpose(spec, radial) -> None:
    for backend in servable(spec, radial):
        module = aggregator(spec, ALL, backend, radial)
        x, g = torch.randn(spec.num_nodes, 2, 3).double(), torch.randn(12, spec.num_nodes, 2, 3).double()
        weights = torch.randn(module.shells).double() if radial else None
        forward = (module(x, weights) * g).sum()
        torch.testing.assert_close((x * module.adjoint(g, weights)).sum(), forward, rtol=1e-11, atol=1e-11)
        if weights is not None:
            torch.testing.assert_close(module.weights_gradient(x, g) @ weights, forward, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_gradients_are_right(backend) -> None:
    spec = LatticeSpec((2, 1, 4), radii=RADII, boundary=("absorbing", "open", "reflecting"))
    x = torch.randn(spec.num_nodes, 1, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(aggregator(spec, ALL, backend), x)


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_known_answers_at_a_wall(backend) -> None:
    """The field z on five cells in a row, neighbours one and two cells away."""
    line = torch.arange(5, dtype=torch.float64).reshape(1, 5, 1)
    near, slope = {}, {}
    for boundary in ("reflecting", "absorbing"):
        spec = LatticeSpec((1, 1, 5), radii=(0.5, 2.0, 4.0), boundary=boundary)
        near[boundary] = aggregate.operator(spec, "functional", backend)(line)[0, :, 0]
        slope[boundary] = aggregate.operator(spec, "functional", backend, moment="gradient")(line)[0, :, 0, 2]
    # Seen from the first cell: itself one cell beyond the wall, the second two cells beyond it.
    expected = {
        "reflecting": [(0 + 1 + 1 + 2) / 4, (0 + 0 + 2 + 3) / 4, 2, 11 / 4, 12 / 4],
        "absorbing": [3 / 4, 5 / 4, 2, 7 / 4, 5 / 4],
    }
    slopes = {
        "reflecting": [(0 * -1 + 1 * -2 + 1 * 1 + 2 * 2) / 4, (0 * -1 + 0 * -2 + 2 + 6) / 4, 10 / 4],
        "absorbing": [5 / 4, 8 / 4, 10 / 4],
    }
    for boundary, values in expected.items():
        assert near[boundary].tolist() == pytest.approx(values, abs=1e-12)
        assert slope[boundary][:3].tolist() == pytest.approx(slopes[boundary], abs=1e-12)


def test_what_a_mean_divides_by() -> None:
    open_, reflecting, absorbing = (
        LatticeSpec((4, 4, 4), radii=RADII, boundary=name) for name in NAMES if name != "periodic"
    )
    itself = torch.tensor([1, 0, 0])
    assert torch.equal(divisors(open_), degrees(open_) + itself)
    assert torch.equal(divisors(reflecting), torch.tensor([7, 12, 38]).expand(64, 3))
    assert torch.equal(degrees(reflecting), torch.tensor([6, 12, 38]).expand(64, 3))
    assert torch.equal(divisors(absorbing), divisors(reflecting))
    assert torch.equal(degrees(absorbing), degrees(open_))


def test_large_reflecting_lattices_need_no_edges_and_no_padding() -> None:
    spec = LatticeSpec((37, 37, 37), boundary="reflecting")
    for radial in (False, True):
        assert choose(tier_moments(spec, ALL[2:], radial))[0] == "dft"
    x = torch.ones(1, spec.num_nodes, 1, dtype=torch.float64, requires_grad=True)
    out = aggregate.operator(spec, "distant")(x)
    torch.testing.assert_close(out, torch.ones_like(out), rtol=0, atol=1e-11)
    out.sum().backward()
    torch.testing.assert_close(x.grad.sum(), out.sum(), rtol=1e-11, atol=0)


@pytest.mark.parametrize("spec", SPECS[:3], ids=str)
@pytest.mark.parametrize("radial", [False, True], ids=["uniform", "radial"])
def test_the_cell_and_its_fused_twin(spec, radial) -> None:
    torch.manual_seed(0)
    for backend in ("sparse", "dft"):
        cell = LatticeCell(spec, 3, 4, backend=backend, radial=radial).double()
        x = torch.randn(spec.num_nodes, 2, 3, dtype=torch.float64, requires_grad=True)
        expected = gradients(cell.advance(x), x, *cell.parameters())
        found = gradients(FusedStep(cell, rows=7).bind()(x), x, *cell.parameters())
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


def test_pyg_layers_hear_the_images_and_refuse_the_zeros(refuses) -> None:
    layer = {"functional": {"class_path": "torch_geometric.nn.SAGEConv"}}
    spec = LatticeSpec((3, 3, 4), radii=(0.5, 1.0, 1.5), boundary="reflecting", edges="stencil")
    cell = LatticeCell(spec, 3, 4, layer).double()
    sage = cell.experts["functional"].layer
    x = torch.randn(1, spec.num_nodes, 3, dtype=torch.float64)
    mean = aggregate.operator(spec, "functional")(x)
    expected = sage.lin_l(mean) + sage.lin_r(x)
    found = cell.experts["functional"](x.transpose(0, 1), x.transpose(0, 1)[..., :0]).transpose(0, 1)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    with refuses("the zeros beyond an absorbing boundary are on no edge", "SAGEConv", "choose another boundary"):
        LatticeCell(LatticeSpec((3, 3, 4), radii=RADII, boundary="absorbing"), 3, 4, layer)


def test_the_spatial_loss_counts_what_the_means_count() -> None:
    """Over explicit pairs, the zeros beyond an absorbing end from both sides."""
    x = torch.tensor([1.0, 3.0, -2.0], dtype=torch.float64)
    inner = 2 * ((1 - 3) ** 2 + (3 + 2) ** 2)
    for boundary, ends, pairs in (("reflecting", 0, 6), ("absorbing", 2 * (1 + 4), 6), ("open", 0, 4)):
        spec = LatticeSpec((1, 1, 3), radii=(0.2, 0.5, 1.0), boundary=boundary)
        found = Spatial(spec)(x.reshape(1, 1, 3, 1))
        assert float(found) == pytest.approx((inner + ends) / pairs / (2 * 14 / 3))


def test_refusals(refuses) -> None:
    spec = SPECS[0]
    with refuses("backend 'dense' keeps one distance for each pair", "reflecting", "use backend: dft or sparse"):
        aggregator(spec, ALL, "dense", radial=True)
    small = LatticeSpec((4, 4, 4), "full", boundary="reflecting")
    assert aggregator(small, ALL, radial=True).backend in ("dft", "sparse")
    for boundary in ("reflecting", "absorbing"):
        graph = build_graph(LatticeSpec((4, 3, 5), radii=RADII, boundary=boundary))
        x = torch.randn(60, 1, 1)
        assert torch.equal(aggregator(graph, ALL)(x), aggregator(graph.spec, ALL)(x))
        twice = graph.clone()
        for name in ("edge_tier", "edge_offset", "edge_attr"):
            twice[name] = torch.cat([graph[name], graph[name][:1]])
        twice.edge_index = torch.cat([graph.edge_index, graph.edge_index[:, :1]], dim=1)
        with refuses("must hold each edge once", "an edge twice", "coalesce"):
            aggregator(twice, ALL)
        graph.edge_index, graph.edge_offset = graph.edge_index[:, 1:], graph.edge_offset[1:]
        graph.edge_tier = graph.edge_tier[1:]
        with refuses("edges that the spec defines alone", f"boundary {boundary} with other edges", "open or periodic"):
            aggregator(graph, ALL)
