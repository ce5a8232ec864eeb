"""build_graph: both builders against brute force, a third opinion, symmetries, refusals."""

import itertools
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

import latticegnn.lattice.graph as graph_module
from latticegnn.lattice import LatticeSpec, Ports, Tier, build_graph, edge_count, validate_graph
from latticegnn.lattice.lightcone import check_light_cone

SHAPES = [
    {"shape": (4, 4, 4)},
    {"shape": (8, 8, 8)},
    {"shape": (6, 6, 6), "connectivity": "full"},
    {"shape": (5, 6, 7)},
    {"shape": (5, 6, 7), "radii": (0.5, 1.5, 3.0)},
    {"shape": (10, 3, 4)},
    {"shape": (10, 3, 4), "connectivity": "full"},
    {"shape": (15, 4, 3)},
    {"shape": (2, 2, 2), "radii": (0.5, 1.0, 2.0)},
    {"shape": (2, 5, 4), "radii": (1.0, 1.5, 2.5)},
    {"shape": (1, 1, 7), "radii": (0.5, 1.0, 3.0)},
    {"shape": (1, 1, 1)},
    {"shape": (7, 1, 5), "connectivity": "full", "local_ratio": 0.72, "functional_ratio": 1.5, "distant_ratio": 2.0},
]
BOUNDARIES = ["open", "periodic", ("open", "periodic", "open"), ("reflecting", "absorbing", "periodic")]
NAMES = ["open", "periodic", "reflecting", "absorbing"]
TENSORS = ("pos", "edge_index", "edge_tier", "edge_attr", "edge_offset", "input_mask", "output_mask", "input_nodes")


def rows(graph) -> np.ndarray:
    source, target = graph.edge_index
    return torch.cat([torch.stack([target, source, graph.edge_tier]), graph.edge_offset.T]).T.numpy()


@pytest.mark.parametrize("order", ["raster", "morton"])
@pytest.mark.parametrize("boundary", BOUNDARIES, ids=str)
@pytest.mark.parametrize("fields", SHAPES, ids=str)
def test_both_builders_equal_brute_force(fields, boundary, order, brute_force) -> None:
    expected = brute_force(LatticeSpec(**fields, boundary=boundary, order=order))
    for edges in ("radius_graph", "stencil"):
        graph = build_graph(LatticeSpec(**fields, boundary=boundary, order=order, edges=edges))
        assert np.array_equal(rows(graph), expected)
        assert torch.equal(graph.edge_attr, graph.edge_offset.double().norm(dim=1, keepdim=True).float())
        validate_graph(graph)


@pytest.mark.parametrize("boundary", ["open", "periodic"])
@pytest.mark.parametrize("shape", [(10, 10, 10), (15, 15, 15)])
def test_builders_agree_where_radii_land_on_distances(shape, boundary) -> None:
    found, shifted = (
        build_graph(LatticeSpec(shape, boundary=boundary, edges=edges)) for edges in ("radius_graph", "stencil")
    )
    assert all(torch.equal(found[name], shifted[name]) for name in TENSORS)


@pytest.mark.parametrize(("n", "boundary"), [(8, "open"), (9, "periodic"), (10, "open")])
def test_a_third_opinion_from_scipy(n, boundary) -> None:
    spec = LatticeSpec((n, n, n), boundary=boundary)
    graph = build_graph(spec)
    tree = cKDTree(graph.pos.numpy(), boxsize=n if boundary == "periodic" else None)
    pairs = tree.query_pairs(spec.max_radius * (1 + 1e-9), output_type="ndarray")
    expected = {(i, j) for i, j in pairs.tolist()} | {(j, i) for i, j in pairs.tolist()} | {(i, i) for i in range(n**3)}
    assert set(zip(*graph.edge_index.tolist(), strict=True)) == expected


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    boundary=st.tuples(*[st.sampled_from(NAMES)] * 3),
    order=st.sampled_from(["raster", "morton"]),
    connectivity=st.sampled_from(["radius", "full"]),
    radii=st.lists(
        st.one_of(st.floats(0.1, 5.0), st.integers(1, 20).map(lambda squared: squared**0.5)),
        min_size=3,
        max_size=3,
        unique=True,
    ),
)
def test_any_spec_equals_brute_force(brute_force, shape, boundary, order, connectivity, radii) -> None:
    spec = LatticeSpec(shape, connectivity, boundary, order, radii=tuple(sorted(radii)), edges="stencil")
    graph = build_graph(spec)
    assert np.array_equal(rows(graph), brute_force(spec))
    validate_graph(graph)


def test_types_shapes_and_defaults() -> None:
    graph = build_graph(LatticeSpec((3, 4, 5), connectivity="full"))
    edges = 60 * 60
    assert {name: (graph[name].dtype, tuple(graph[name].shape)) for name in TENSORS} == {
        "pos": (torch.float32, (60, 3)),
        "edge_index": (torch.int64, (2, edges)),
        "edge_tier": (torch.int64, (edges,)),
        "edge_attr": (torch.float32, (edges, 1)),
        "edge_offset": (torch.int64, (edges, 3)),
        "input_mask": (torch.bool, (60,)),
        "output_mask": (torch.bool, (60,)),
        "input_nodes": (torch.int64, (12,)),
    }
    assert bool((graph.pos[graph.input_nodes, 2] == 0).all())
    assert bool((graph.pos[graph.output_nodes, 2] == 4).all())
    assert graph.grid_shape == (3, 4, 5)
    assert graph.num_nodes == 60
    moved = graph.clone().to("cpu")
    assert moved.spec == graph.spec
    validate_graph(moved)


def test_tiers_partition_the_edges_and_the_local_tier_holds_the_self_edges() -> None:
    spec = LatticeSpec((6, 5, 4), radii=(1.0, 1.5, 2.5))
    graph = build_graph(spec)
    source, target = graph.edge_index
    distance = graph.edge_attr[:, 0]
    low, high = torch.tensor([-1.0, 1.0, 1.5]), torch.tensor([1.0, 1.5, 2.5])
    assert bool(((distance > low[graph.edge_tier]) & (distance <= high[graph.edge_tier])).all())
    assert bool((graph.edge_tier[source == target] == Tier.LOCAL).all())
    assert int((source == target).sum()) == spec.num_nodes
    assert {tier: int((graph.edge_tier == tier).sum()) for tier in Tier} == edge_count(spec)


@pytest.mark.parametrize("edges", ["radius_graph", "stencil"])
def test_morton_order_is_a_permutation_that_changes_nothing_else(edges) -> None:
    inputs, outputs = Ports("x-", "proportional", seed=3), Ports("surface", "proportional", seed=4)
    raster, morton = (
        build_graph(LatticeSpec((5, 6, 7), radii=(0.5, 1.5, 2.5), order=order, edges=edges), inputs, outputs)
        for order in ("raster", "morton")
    )
    spec = raster.spec
    to_raster = (morton.pos.long() @ torch.tensor([42, 7, 1])).long()
    assert torch.equal(to_raster.sort()[0], torch.arange(spec.num_nodes))
    renamed = rows(morton)
    renamed[:, :2] = to_raster.numpy()[renamed[:, :2]]
    assert np.array_equal(renamed[np.lexsort((renamed[:, 1], renamed[:, 0]))], rows(raster))
    for side in ("input", "output"):  # not only the same ports: in the same order
        assert torch.equal(to_raster[morton[f"{side}_nodes"]], raster[f"{side}_nodes"])
        assert torch.equal(morton[f"{side}_mask"], raster[f"{side}_mask"][to_raster])


@pytest.mark.parametrize("boundary", NAMES)
def test_the_48_symmetries_of_the_cube_leave_the_edges_alone(boundary) -> None:
    n = 5
    graph = build_graph(LatticeSpec((n, n, n), boundary=boundary, radii=(0.5, 1.0, 2.3)))
    place = graph.pos.long()
    weights = torch.tensor([n * n, n, 1])

    def key(ids: torch.Tensor) -> list[int]:
        source, target = ids[graph.edge_index]
        return ((target * n**3 + source) * 3 + graph.edge_tier).sort()[0].tolist()

    unmoved = key(torch.arange(n**3))
    for axes, flips in itertools.product(itertools.permutations(range(3)), itertools.product((False, True), repeat=3)):
        moved = torch.where(torch.tensor(flips), n - 1 - place[:, axes], place[:, axes])
        assert key(moved @ weights) == unmoved


def test_strict_tiers_refuses_an_empty_tier(refuses) -> None:
    with refuses("every tier has neighbours", "leave empty: local", "Raise local_ratio to 0.625"):
        build_graph(LatticeSpec(strict_tiers=True))
    build_graph(LatticeSpec(radii=(1.0, 1.5, 2.0), strict_tiers=True))


def test_a_graph_beyond_memory_is_refused_before_it_is_built(refuses, monkeypatch) -> None:
    monkeypatch.setattr(graph_module, "available_memory", lambda: 2**30)
    with refuses("must fit in memory", "2,565,726,409 edges", "Use a smaller shape or radius"):
        build_graph(LatticeSpec((37, 37, 37), "full"))


def test_free_memory_is_known() -> None:
    assert graph_module.available_memory() > 0


def test_missing_torch_cluster_names_the_remedies(refuses, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_cluster", None)
    with refuses("needs the package torch-cluster", "not installed", "edges: stencil", ModuleNotFoundError):
        build_graph(LatticeSpec())
    build_graph(LatticeSpec(edges="stencil"))


def test_a_pruned_graph_is_valid_while_it_is_symmetric() -> None:
    graph = build_graph(LatticeSpec((4, 4, 4), "full"))
    kept = graph.edge_attr[:, 0] < 2
    graph.edge_index = graph.edge_index[:, kept]
    graph.edge_tier, graph.edge_attr, graph.edge_offset = (
        graph.edge_tier[kept],
        graph.edge_attr[kept],
        graph.edge_offset[kept],
    )
    validate_graph(graph)


def _swap(graph, name, index, value) -> None:
    graph[name] = graph[name].clone()
    graph[name][index] = value


@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        (lambda g: g.__delattr__("spec"), "spec is a LatticeSpec"),
        (lambda g: g.__delattr__("edge_tier"), "edge_tier is a tensor torch.int64"),
        (lambda g: g.update({"pos": g.pos.double()}), "pos is a tensor torch.float32"),
        (lambda g: g.update({"edge_attr": g.edge_attr[:-1]}), "edge_attr is a tensor"),
        (lambda g: g.update({"grid_shape": (4, 4)}), "grid_shape equals spec.shape"),
        (lambda g: _swap(g, "pos", 3, 9.0), "pos holds the cells"),
        (lambda g: _swap(g, "edge_index", (0, 5), 64), "edge_index holds node ids"),
        (lambda g: _swap(g, "edge_index", (0, 5), 0), "edge_index"),
        (lambda g: _swap(g, "edge_index", (slice(None), 1), torch.tensor([0, 0])), "edge_index holds each edge once"),
        (lambda g: _swap(g, "edge_index", (0, 1), 63), "edge_index is symmetric"),
        (lambda g: _swap(g, "edge_offset", 5, 3), "edge_offset is pos_source − pos_target"),
        (lambda g: _swap(g, "edge_attr", 5, 3.0), "edge_attr is the offset's length"),
        (lambda g: _swap(g, "edge_tier", 5, 0), "edge_tier matches the edge's distance"),
        (lambda g: g.update({"spec": LatticeSpec((4, 4, 4), radii=(0.1, 0.5, 1.0))}), "at most the distant radius"),
        (lambda g: g.update({"inputs": "z-"}), "inputs is a Ports object"),
        (lambda g: _swap(g, "input_mask", 1, True), "input_mask marks the cells of"),
        (lambda g: g.update({"output_nodes": g.output_nodes.flip(0)}), "output_nodes lists the cells of"),
    ],
)
def test_validation_names_what_is_wrong(damage, rule, refuses) -> None:
    graph = build_graph(LatticeSpec((4, 4, 4), radii=(0.5, 1.0, 2.0), edges="stencil"))
    damage(graph)
    with refuses(rule, "Received", "Rebuild the graph with build_graph"):
        validate_graph(graph)


def test_the_light_cone_check_agrees_with_the_built_graph() -> None:
    graph = build_graph(LatticeSpec())
    check_light_cone(graph.spec, graph.inputs, graph.outputs, steps=7)
