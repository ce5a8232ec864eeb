"""Every backend against the edge list, forward and backward; operators against loops and known answers."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from latticegnn import aggregate
from latticegnn.aggregate import BACKENDS, aggregator
from latticegnn.lattice import LatticeSpec, Tier, build_graph, degrees

RADII = (0.5, 1.0, 1.5)
SPECS = [
    LatticeSpec((4, 4, 4), radii=RADII),
    LatticeSpec((3, 4, 5)),
    LatticeSpec((3, 4, 5), radii=(1.0, 1.5, 2.0), order="morton"),
    LatticeSpec((5, 4, 3), radii=RADII, boundary="periodic"),
    LatticeSpec((5, 4, 3), radii=RADII, boundary=("open", "periodic", "open"), order="morton"),
    LatticeSpec((2, 2, 5), radii=RADII, boundary="periodic"),
    LatticeSpec((3, 3, 4), "full"),
    LatticeSpec((3, 3, 3), "full", boundary="periodic", order="morton"),
    LatticeSpec((3, 3, 3), radii=(1.8, 2.0, 2.3)),  # the middle cell has no functional neighbours
    LatticeSpec((4, 4, 4)),  # no cell has neighbours
    LatticeSpec((1, 1, 1)),
]
ALL = [(tier, moment) for tier in Tier for moment in ("mean", "gradient")]


def state(spec: LatticeSpec, dtype: torch.dtype = torch.float64, channels: int = 3) -> Tensor:
    return torch.randn(2, spec.num_nodes, channels, generator=torch.Generator().manual_seed(0), dtype=dtype)


def run(spec: LatticeSpec, backend: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    x = state(spec, dtype).transpose(0, 1).contiguous().requires_grad_()
    out = aggregator(build_graph(spec), ALL, backend)(x)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    (grad,) = torch.autograd.grad((out * weight).sum(), x)
    return out, grad


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 5e-6)], ids=str)
@pytest.mark.parametrize("backend", sorted(set(BACKENDS) - {"edge"}))
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_backends_equal_the_edge_list(spec, backend, dtype, tolerance) -> None:
    expected, expected_grad = run(spec, "edge", dtype)
    found, grad = run(spec, backend, dtype)
    assert found.shape == (12, spec.num_nodes, 2, 3)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(grad, expected_grad, rtol=tolerance, atol=tolerance)


def loop(spec: LatticeSpec, tier: Tier, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and first moment, cell by cell."""
    graph = build_graph(spec)
    mean, gradient = torch.zeros_like(x), torch.zeros(*x.shape, 3, dtype=x.dtype)
    for cell in range(spec.num_nodes):
        rows = [e for e in range(graph.num_edges) if graph.edge_index[1, e] == cell and graph.edge_tier[e] == tier]
        for e in rows:
            source = x[:, graph.edge_index[0, e]]
            mean[:, cell] += source / len(rows)
            gradient[:, cell] += source.unsqueeze(-1) * graph.edge_offset[e].to(x.dtype) / len(rows)
    return mean, gradient


@pytest.mark.parametrize("backend", sorted(BACKENDS))
@pytest.mark.parametrize("spec", [SPECS[2], SPECS[3], SPECS[6], SPECS[8]], ids=str)
def test_operators_equal_a_loop(spec, backend) -> None:
    x = state(spec)
    for tier in Tier:
        mean, gradient = loop(spec, tier, x)
        found = aggregate.operator(spec, tier.name.lower(), backend)(x)
        slope = aggregate.operator(spec, tier, backend, moment="gradient")(x)
        torch.testing.assert_close(found, mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(slope, gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_known_answers(backend) -> None:
    spec = LatticeSpec((5, 6, 7), radii=RADII)
    graph = build_graph(spec)
    inner = ((graph.pos > 0) & (graph.pos < torch.tensor(spec.shape) - 1)).all(dim=1)
    place = graph.pos.double()
    field = (place @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) + 3.0).reshape(1, -1, 1)
    # A linear field: the mean is the cell's own value, the first moment its slope times the mean squared offset.
    for tier, spread in (("functional", 2 / 6), ("distant", 8 / 12)):
        mean = aggregate.operator(spec, tier, backend)(field)
        slope = aggregate.operator(spec, tier, backend, moment="gradient")(field)
        torch.testing.assert_close(mean[:, inner], field[:, inner], rtol=0, atol=1e-12)
        expected = spread * torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64).expand(int(inner.sum()), 3)
        torch.testing.assert_close(slope[0, inner, 0], expected, rtol=0, atol=1e-12)
    # The local tier below one cell is the cell itself: its mean is the state, its slope nothing.
    x = state(spec)
    torch.testing.assert_close(aggregate.operator(spec, "local", backend)(x), x, rtol=0, atol=0)
    assert not aggregate.operator(spec, "local", backend, moment="gradient")(x).any()


def test_constants_stay_constant_and_cells_without_neighbours_get_zeros() -> None:
    for spec in SPECS:
        ones = torch.ones(1, spec.num_nodes, 1, dtype=torch.float64)
        for tier in (Tier.FUNCTIONAL, Tier.DISTANT):
            expected = (degrees(spec)[:, tier] > 0).double().reshape(1, -1, 1)
            torch.testing.assert_close(aggregate.operator(spec, tier)(ones), expected, rtol=0, atol=1e-12)


def test_shapes_and_the_backend_that_runs() -> None:
    spec = SPECS[0]
    x = torch.randn(5, 64, 7)
    for backend, name in (("auto", "sparse"), ("edge", "edge"), ("sparse", "sparse")):
        mean = aggregate.operator(spec, tier="functional", backend=backend)
        assert mean.backend == name
        assert mean(x).shape == (5, 64, 7)
        assert mean(x).dtype == torch.float32
        assert aggregate.operator(spec, tier="functional", backend=backend, moment="gradient")(x).shape == (5, 64, 7, 3)
    assert aggregate.operator(build_graph(spec), "functional")(x).equal(aggregate.operator(spec, "functional")(x))


def test_gradients_of_an_operator_are_right() -> None:
    x = torch.randn(1, 27, 2, dtype=torch.float64, requires_grad=True)
    for backend in BACKENDS:
        operator = aggregate.operator(LatticeSpec((3, 3, 3), radii=RADII), "distant", backend, moment="gradient")
        assert torch.autograd.gradcheck(operator, x)


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_a_used_aggregator_can_be_copied_and_pickled(backend) -> None:
    """CSR tensors cannot be copied; a weight average or a second process copies the whole model."""
    spec = SPECS[0]
    operator, x = aggregate.operator(spec, "functional", backend), state(spec)
    out = operator(x)
    assert torch.equal(copy.deepcopy(operator)(x), out)
    assert torch.equal(pickle.loads(pickle.dumps(operator))(x), out)


def test_errors_say_what_to_do(refuses) -> None:
    spec = SPECS[0]
    with refuses("backend must be one of auto, edge, segment, sparse", "'sprase'", "did you mean 'sparse'?"):
        aggregate.operator(spec, "functional", backend="sprase")
    with refuses("backend must be one of", "'gpu'", "choose one of them"):
        aggregator(build_graph(spec), ALL, "gpu")
    with refuses("tier must be one of local, functional, distant", "'far'", "choose one of them"):
        aggregate.operator(spec, "far")
    with refuses("moment must be one of mean, gradient", "'max'", "choose one of them"):
        aggregate.operator(spec, "local", moment="max")
    operator = aggregate.operator(spec, "functional")
    for wrong in (torch.zeros(64, 3), torch.zeros(2, 63, 3)):
        with refuses("[B, N, F] with N = 64", f"got {list(wrong.shape)}", "pass a batch of states"):
            operator(wrong)


@settings(deadline=None, max_examples=30)
@given(
    shape=st.tuples(*[st.integers(1, 4)] * 3),
    boundary=st.tuples(*[st.sampled_from(["open", "periodic"])] * 3),
    order=st.sampled_from(["raster", "morton"]),
    connectivity=st.sampled_from(["radius", "full"]),
    radii=st.lists(st.integers(1, 12).map(lambda squared: squared**0.5), min_size=3, max_size=3, unique=True),
)
def test_backends_agree_on_any_lattice(shape, boundary, order, connectivity, radii) -> None:
    spec = LatticeSpec(shape, connectivity, boundary, order, radii=tuple(sorted(radii)))
    expected, expected_grad = run(spec, "edge", torch.float64)
    for backend in sorted(set(BACKENDS) - {"edge"}):
        found, grad = run(spec, backend, torch.float64)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(grad, expected_grad, rtol=1e-12, atol=1e-12)
