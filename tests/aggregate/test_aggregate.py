"""Every backend against the edge list, forward and backward; operators against loops and known answers."""

import copy
import itertools
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
    LatticeSpec((4, 6, 2), radii=(1.0, 2.0, 3.5), boundary="periodic", order="morton"),  # moments with an even part
    LatticeSpec((3, 3, 4), "full"),
    LatticeSpec((3, 3, 3), "full", boundary="periodic", order="morton"),
    LatticeSpec((3, 3, 3), radii=(1.8, 2.0, 2.3)),  # the middle cell has no functional neighbours
    LatticeSpec((4, 4, 4)),  # no cell has neighbours
    LatticeSpec((1, 1, 1)),
]
ALL = [(tier, moment) for tier in Tier for moment in ("mean", "gradient")]


def state(spec: LatticeSpec, dtype: torch.dtype = torch.float64, channels: int = 3) -> Tensor:
    return torch.randn(2, spec.num_nodes, channels, generator=torch.Generator().manual_seed(0), dtype=dtype)


def run(spec: LatticeSpec, backend: str, dtype: torch.dtype, radial: bool = False) -> list[Tensor]:
    """Output, gradient of the state and, with distance weights, of the weights, for one random direction."""
    x = state(spec, dtype).transpose(0, 1).contiguous().requires_grad_()
    module = aggregator(spec, ALL, backend, radial)
    weights = torch.linspace(0.5, 1.5, module.shells, dtype=dtype).requires_grad_() if radial else None
    inputs = (x,) if weights is None else (x, weights)
    out = module(*inputs)
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    return [out, *torch.autograd.grad((out * direction).sum(), inputs)]


def close(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(found[:2], expected[:2], rtol=tolerance, atol=tolerance)
    # A weight's gradient sums over all cells and channels: rounding is relative to the whole.
    for one, other in zip(found[2:], expected[2:], strict=True):
        scale = max(1.0, float(other.detach().abs().amax())) if other.numel() else 1.0
        torch.testing.assert_close(one, other, rtol=0, atol=10 * tolerance * scale)


@pytest.mark.parametrize("radial", [False, True], ids=["uniform", "radial"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 5e-6)], ids=str)
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_backends_equal_the_edge_list(spec, dtype, tolerance, radial) -> None:
    expected = run(spec, "edge", dtype, radial)
    assert expected[0].shape == (12, spec.num_nodes, 2, 3)
    for backend in sorted(set(BACKENDS) - {"edge"}):
        close(run(spec, backend, dtype, radial), expected, tolerance)


def loop(spec: LatticeSpec, tier: Tier, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and first moment, cell by cell."""
    graph = build_graph(spec)
    mean, gradient = torch.zeros_like(x), torch.zeros(*x.shape, 3, dtype=x.dtype)
    neighbours: dict[int, list[int]] = {}
    for e, (target, label) in enumerate(zip(graph.edge_index[1].tolist(), graph.edge_tier.tolist(), strict=True)):
        if label == tier:
            neighbours.setdefault(target, []).append(e)
    for cell, rows in neighbours.items():
        for e in rows:
            source = x[:, graph.edge_index[0, e]]
            mean[:, cell] += source / len(rows)
            gradient[:, cell] += source.unsqueeze(-1) * graph.edge_offset[e].to(x.dtype) / len(rows)
    return mean, gradient


@pytest.mark.parametrize("spec", [SPECS[2], SPECS[3], SPECS[6], SPECS[7], SPECS[9]], ids=str)
def test_operators_equal_a_loop(spec) -> None:
    x = state(spec)
    for tier in Tier:
        mean, gradient = loop(spec, tier, x)
        for backend in BACKENDS:
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
    torch.testing.assert_close(aggregate.operator(spec, "local", backend)(x), x, rtol=0, atol=1e-14)
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
    for backend, name in (("auto", "sparse"), *((name, name) for name in BACKENDS)):
        mean = aggregate.operator(spec, tier="functional", backend=backend)
        assert mean.backend == name
        assert mean(x).shape == (5, 64, 7)
        assert mean(x).dtype == torch.float32
        assert aggregate.operator(spec, tier="functional", backend=backend, moment="gradient")(x).shape == (5, 64, 7, 3)
    assert aggregate.operator(build_graph(spec), "functional")(x).equal(aggregate.operator(spec, "functional")(x))


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_gradients_are_right(backend) -> None:
    spec = LatticeSpec((2, 2, 4), radii=RADII, boundary=("open", "open", "periodic"))
    x = torch.randn(16, 1, 1, dtype=torch.float64, requires_grad=True)
    module = aggregator(spec, ALL[2:], backend)
    assert torch.autograd.gradcheck(module, x)
    module = aggregator(spec, ALL[2:], backend, radial=True)
    weights = torch.randn(module.shells, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, (x, weights))
    assert torch.autograd.gradcheck(lambda w: module(x.detach(), w), weights)
    assert torch.autograd.gradcheck(lambda y: module(y, weights.detach()), x)


@pytest.mark.parametrize("radial", [False, True], ids=["uniform", "radial"])
@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_the_adjoint_is_the_transpose(backend, radial) -> None:
    """<Px, g> = <x, P'g>, and by the weights too, with nothing but the layout that a rollout keeps."""
    for spec in SPECS:
        module = aggregator(spec, ALL, backend, radial)
        x, g = torch.randn(spec.num_nodes, 2, 3).double(), torch.randn(12, spec.num_nodes, 2, 3).double()
        weights = torch.randn(module.shells).double() if radial else None
        forward = (module(x, weights) * g).sum()
        back = module.adjoint(g.transpose(2, 3).contiguous().transpose(2, 3), weights)
        torch.testing.assert_close((x * back).sum(), forward, rtol=1e-11, atol=1e-11)
        if weights is not None:
            slopes = module.weights_gradient(x, g)
            assert slopes.shape == (module.shells,)
            torch.testing.assert_close(slopes @ weights, forward, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_distance_weights_are_one_for_each_distance(backend) -> None:
    spec = LatticeSpec((5, 5, 5), radii=(0.5, 1.5, 2.3))  # functional: 1, √2; distant: √3, 2, √5
    operator = aggregate.operator(spec, "distant", backend, moment="gradient", radial=True).double()
    x = state(spec)
    uniform = aggregate.operator(spec, "distant", backend, moment="gradient")(x)
    assert operator.weights.tolist() == [1, 1, 1]
    torch.testing.assert_close(operator(x), uniform, rtol=0, atol=1e-12)
    with torch.no_grad():
        operator.weights.copy_(torch.tensor([0.0, 3.0, 0.0]))  # only the six cells two steps away
    centre = 62
    pair = x[:, centre + 2] - x[:, centre - 2]
    torch.testing.assert_close(operator(x)[:, centre, :, 2], 3 * 2 * pair / (8 + 6 + 24), rtol=0, atol=1e-12)
    joined = aggregator(spec, [(Tier.FUNCTIONAL, "mean"), (Tier.DISTANT, "mean")], backend, radial=True)
    assert joined.shells == 5
    single = operator.float()  # weights follow the state's precision, their gradient keeps its own
    single(x).sum().backward()
    assert single.weights.grad.dtype == torch.float32


@pytest.mark.parametrize("radial", [False, True], ids=["uniform", "radial"])
@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_no_functionals_give_no_output(backend, radial) -> None:
    module = aggregator(SPECS[0], [], backend, radial)
    x = torch.randn(64, 2, 3, requires_grad=True)
    weights = torch.ones(0) if radial else None
    assert (module.count, module.shells) == (0, 0)
    assert module(x, weights).shape == (0, 64, 2, 3)
    (grad,) = torch.autograd.grad(module(x, weights).sum(), x)
    assert not grad.any()


@pytest.mark.parametrize("order", ["raster", "morton"])
def test_a_graph_is_its_spec_unless_its_edges_differ(order) -> None:
    spec = LatticeSpec((4, 3, 5), radii=RADII, boundary=("open", "open", "periodic"), order=order)
    graph, x = build_graph(spec), state(spec).transpose(0, 1)
    for backend in BACKENDS:
        assert torch.equal(aggregator(graph, ALL, backend)(x), aggregator(spec, ALL, backend)(x))
    # The same cells under other numbers.
    new = torch.randperm(spec.num_nodes, generator=torch.Generator().manual_seed(0))
    renamed, moved = graph.clone(), torch.empty_like(x)
    renamed.edge_index, moved[new] = new[graph.edge_index], x
    # A third of the pairs cut.
    low, high = graph.edge_index.sort(dim=0).values
    kept = (low * 7 + high) % 3 != 0
    thin = graph.clone()
    for name in ("edge_index", "edge_offset", "edge_tier", "edge_attr"):
        thin[name] = graph[name][..., kept] if name == "edge_index" else graph[name][kept]
    expected = [aggregator(spec, ALL[2:], "edge")(x), aggregator(thin, ALL[2:], "edge")(x)]
    assert not torch.allclose(*expected)
    for backend in ("auto", "edge", "segment", "sparse", "dense"):
        module = aggregator(renamed, ALL[2:], backend)
        torch.testing.assert_close(module(moved)[:, new], expected[0], rtol=0, atol=1e-12)
        module = aggregator(thin, ALL[2:], backend)
        torch.testing.assert_close(module(x), expected[1], rtol=0, atol=1e-12)
        g = torch.randn_like(expected[1])
        torch.testing.assert_close((module.adjoint(g) * x).sum(), (expected[1] * g).sum(), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_a_used_aggregator_can_be_copied_and_pickled(backend) -> None:
    """CSR tensors cannot be copied; a weight average or a second process copies the whole model."""
    spec = SPECS[2]
    for radial in (False, True):
        operator, x = aggregate.operator(spec, "functional", backend, radial=radial).double(), state(spec)
        out = operator(x)
        assert torch.equal(copy.deepcopy(operator)(x), out)
        assert torch.equal(pickle.loads(pickle.dumps(operator))(x), out)
        assert operator.float()(x.float()).dtype == torch.float32


def test_errors_say_what_to_do(refuses) -> None:
    spec = SPECS[0]
    names = "backend must be one of auto, edge, segment, sparse, dense, fft, dft"
    with refuses(names, "'sprase'", "did you mean 'sparse'?"):
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

    with refuses("one weight for each distance, [S] = [1]", "got none", "pass what its constructor asked for"):
        aggregator(spec, ALL[2:4], "sparse", radial=True)(torch.zeros(64, 1, 1))
    with refuses("no weights without radial=True", "got a tensor [3]", "pass what"):
        aggregator(spec, ALL, "sparse")(torch.zeros(64, 1, 1), torch.ones(3))
    with refuses("only an aggregator with distance weights", "sums all distances alike", "radial=True"):
        aggregator(spec, ALL, "dft").weights_gradient(torch.zeros(64, 1, 1), torch.zeros(12, 64, 1, 1))
    graph = build_graph(spec)
    graph.edge_index, graph.edge_offset = graph.edge_index[:, 1:-1], graph.edge_offset[1:-1]
    graph.edge_tier = graph.edge_tier[1:-1]
    for backend in ("fft", "dft"):
        with refuses(f"backend '{backend}' sums over the neighbours that the spec defines", "other edges", "sparse"):
            aggregator(graph, ALL, backend)
    graph.edge_index, graph.edge_offset = graph.edge_index[:, :2], graph.edge_offset[:2]
    graph.edge_tier = graph.edge_tier[:2]
    with refuses("edges must be symmetric", "reverse is missing", "in pairs"):
        aggregator(graph, ALL, "edge")
    graph.spec = None
    with refuses("must carry its LatticeSpec", "got None", "build_graph(spec)"):
        aggregator(graph, ALL, "edge")


@pytest.mark.parametrize("backend", ["edge", "segment", "sparse", "dense", "fft", "dft"])
def test_tables_that_cannot_fit_are_refused_before_they_are_made(backend, refuses) -> None:
    endless = LatticeSpec((1500, 1500, 1500), radii=(0.5, 1.0, 30.0))
    with refuses(f"the tables of backend '{backend}' must fit in memory", "(1500, 1500, 1500)", "smaller"):
        aggregator(endless, ALL, backend)


@settings(deadline=None, max_examples=30)
@given(
    shape=st.tuples(*[st.integers(1, 4)] * 3),
    boundary=st.tuples(*[st.sampled_from(["open", "periodic"])] * 3),
    order=st.sampled_from(["raster", "morton"]),
    connectivity=st.sampled_from(["radius", "full"]),
    radii=st.lists(st.integers(1, 12).map(lambda squared: squared**0.5), min_size=3, max_size=3, unique=True),
    radial=st.booleans(),
)
def test_backends_agree_on_any_lattice(shape, boundary, order, connectivity, radii, radial) -> None:
    spec = LatticeSpec(shape, connectivity, boundary, order, radii=tuple(sorted(radii)))
    expected = run(spec, "edge", torch.float64, radial)
    for backend in sorted(set(BACKENDS) - {"edge"}):
        close(run(spec, backend, torch.float64, radial), expected)


@pytest.mark.parametrize("backend", sorted(BACKENDS))
@pytest.mark.parametrize("spec", [SPECS[1], SPECS[4], SPECS[8]], ids=str)
def test_some_cells_are_summed_as_all_are(spec, backend) -> None:
    x = state(spec).transpose(0, 1).contiguous()
    module = aggregator(build_graph(spec), ALL, backend)
    expected, by_cells = module(x), module.by_cells(x)
    bounds = (0, 1, spec.num_nodes // 2, spec.num_nodes)
    found = torch.cat([by_cells(first, last) for first, last in itertools.pairwise(bounds)], dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    again = torch.cat([by_cells(first, last) for first, last in itertools.pairwise(bounds)], dim=1)
    assert torch.equal(again, found)


def test_edges_that_the_spec_does_not_define_are_refused(refuses) -> None:
    spec = SPECS[0]
    graph = build_graph(spec)
    far = graph.clone()
    far.edge_index, far.edge_offset = graph.edge_index.clone(), graph.edge_offset.clone()
    far.edge_index[:, 1], far.edge_offset[1] = torch.tensor([0, 63]), torch.tensor([-3, -3, -3])
    with refuses("must be among those its spec defines", "0 → 63 with offset [-3, -3, -3]", "other radii or ratios"):
        aggregator(far, ALL)
    moved = graph.clone()
    moved.edge_tier = graph.edge_tier.clamp(max=1)
    with refuses("each in the tier of its distance", "in tier 1", "other radii or ratios"):
        aggregator(moved, ALL)
    twice = graph.clone()
    for name in ("edge_tier", "edge_offset", "edge_attr"):
        twice[name] = torch.cat([graph[name], graph[name][:1]])
    twice.edge_index = torch.cat([graph.edge_index, graph.edge_index[:, :1]], dim=1)
    with refuses("must hold each edge once", "an edge twice", "coalesce"):
        aggregator(twice, ALL)
