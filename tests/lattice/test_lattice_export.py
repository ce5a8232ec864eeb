"""networkx, GraphML, GEXF and JSON: there and back without loss, and what is refused."""

import json
import subprocess
import sys
from xml.etree import ElementTree

import networkx as nx
import pytest
import torch
import torch_geometric.utils
from hypothesis import given, settings
from hypothesis import strategies as st

from latticegnn.lattice import (
    Grid,
    LatticeSpec,
    Ports,
    build_graph,
    from_networkx,
    read_graphml,
    read_network,
    to_networkx,
    write_graphml,
    write_network,
)

SUFFIXES = [".graphml", ".gexf", ".json"]
SPECS = [
    LatticeSpec(),
    LatticeSpec((3, 4, 5), "full", ("open", "periodic", "open"), "morton"),
    LatticeSpec((4, 2, 3), boundary="periodic", radii=(1.0, 1.5, 2.0)),
    LatticeSpec((3, 2, 3), boundary="absorbing", radii=(0.5, 1.0, 2.0)),
    LatticeSpec((3, 2, 3), boundary=("reflecting", "reflecting", "open"), radii=(1.0, 1.5, 2.0), order="morton"),
    LatticeSpec((1, 1, 1)),
]


def graph_of(spec):
    return build_graph(spec, Ports("z-", Grid(2)), Ports("surface", "proportional", seed=1))


def assert_same_graph(first, second) -> None:
    assert set(first.keys()) == set(second.keys())
    for name, value in first.to_dict().items():
        assert torch.equal(second[name], value) if isinstance(value, torch.Tensor) else second[name] == value


def assert_same_network(first, second) -> None:
    assert dict(first.nodes(data=True)) == dict(second.nodes(data=True))
    assert type(first) is type(second)
    assert sorted(first.edges(data=True), key=str) == sorted(second.edges(data=True), key=str)
    assert first.graph == second.graph


def test_attributes() -> None:
    graph = build_graph(LatticeSpec((3, 3, 3), radii=(0.5, 1.0, 1.5)))
    network = to_networkx(graph, torch.arange(54.0).reshape(27, 2))
    assert isinstance(network, nx.DiGraph)
    assert network.nodes[5] == {"pos": (0.0, 1.0, 2.0), "input": False, "output": True, "state": [10.0, 11.0]}
    assert network.edges[0, 0] == {"tier": "local", "distance": 0.0, "offset": (0, 0, 0)}
    assert network.edges[0, 1] == {"tier": "functional", "distance": 1.0, "offset": (0, 0, -1)}
    assert network.edges[12, 0]["tier"] == "distant"
    assert nx.number_of_selfloops(network) == 27
    assert network.number_of_edges() == graph.num_edges


def test_mirror_images_are_parallel_edges_and_loops() -> None:
    network = to_networkx(build_graph(LatticeSpec((1, 1, 3), boundary="reflecting", radii=(0.5, 1.0, 2.0))))
    assert isinstance(network, nx.MultiDiGraph)
    assert sorted(values["offset"][2] for values in network.get_edge_data(0, 0).values()) == [-1, 0]
    assert sorted(values["offset"][2] for values in network.get_edge_data(1, 0).values()) == [-2, 1]
    assert network.number_of_edges() == 3 * 5


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_networkx_round_trip(spec) -> None:
    graph = graph_of(spec)
    assert_same_graph(graph, from_networkx(to_networkx(graph)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_states_come_back_to_the_bit(dtype, tmp_path) -> None:
    graph = graph_of(SPECS[1])
    state = torch.randn(1, 60, 11, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    network = to_networkx(graph, state)
    back = from_networkx(read_graphml(write_graphml(network, tmp_path / "cube.graphml")))
    assert back.state.dtype == dtype
    assert torch.equal(back.state, state[0])
    assert torch.equal(from_networkx(network).state, state[0])


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_graphml_round_trip(spec, tmp_path) -> None:
    graph = graph_of(spec)
    path = write_graphml(graph, tmp_path / "cube.graphml")
    network = read_graphml(path)
    assert_same_network(network, to_networkx(graph))
    assert_same_graph(graph, from_networkx(network))
    assert [file.name for file in tmp_path.iterdir()] == ["cube.graphml"]


def test_networkx_alone_reads_the_file_with_tiers_and_distances(tmp_path) -> None:
    graph = build_graph(LatticeSpec((4, 4, 4), radii=(0.5, 1.0, 1.5)))
    plain = nx.read_graphml(write_graphml(graph, tmp_path / "cube.graphml"), node_type=int)
    assert isinstance(plain, nx.DiGraph)
    assert set(plain.nodes) == set(range(64))
    assert plain.nodes[7] == {"x": 0.0, "y": 1.0, "z": 3.0, "input": False, "output": True}
    names = ["local", "functional", "distant"]
    expected = {
        (source, target): {"tier": names[tier], "distance": distance, "dx": dx, "dy": dy, "dz": dz}
        for (source, target), tier, (distance,), (dx, dy, dz) in zip(
            graph.edge_index.T.tolist(),
            graph.edge_tier.tolist(),
            graph.edge_attr.tolist(),
            graph.edge_offset.tolist(),
            strict=True,
        )
    }
    assert {(source, target): values for source, target, values in plain.edges(data=True)} == expected


def test_gephi_finds_places_and_weights_in_gexf(tmp_path) -> None:
    graph = build_graph(LatticeSpec((2, 2, 3), radii=(0.5, 1.0, 1.5)))
    weight = torch.rand(graph.num_edges, generator=torch.Generator().manual_seed(0))
    path = write_network(to_networkx(graph, edges={"weight": weight}), tmp_path / "cube.gexf")
    plain = nx.read_gexf(path, node_type=int)
    places = [plain.nodes[node]["viz"]["position"] for node in range(12)]
    assert [[place[axis] for axis in "xyz"] for place in places] == graph.pos.tolist()
    found = [plain.edges[source, target]["weight"] for source, target in graph.edge_index.T.tolist()]
    assert found == weight.tolist()
    texts = ElementTree.parse(path).getroot().iter("{http://www.gexf.net/1.2draft}edge")
    assert sorted(float(edge.get("weight")) for edge in texts) == sorted(weight.tolist())


def arrays_for(graph, seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    """One array of each type and width."""
    draw = torch.Generator().manual_seed(seed)
    cells, edges = graph.spec.num_nodes, graph.num_edges
    return {
        "cells": {
            "gate": torch.rand(cells, 3, generator=draw),
            "activity": torch.rand(cells, generator=draw, dtype=torch.float64) * 1e-300,
            "half": torch.rand(cells, 1, generator=draw).half(),
            "arrival": torch.randint(-1, 9, (cells,), generator=draw),
            "count": torch.randint(-9, 9, (cells, 2), generator=draw, dtype=torch.int32),
            "lost": torch.rand(cells, generator=draw) < 0.5,
        },
        "edges": {
            "weight": torch.rand(edges, generator=draw, requires_grad=True),
            "flow": torch.rand(edges, 2, generator=draw),
            "kept": torch.rand(edges, 2, generator=draw) < 0.5,
        },
    }


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("spec", SPECS[1:], ids=str)
def test_every_format_brings_every_array_back_to_the_bit(spec, suffix, tmp_path) -> None:
    graph = graph_of(spec)
    arrays = arrays_for(graph)
    state = torch.randn(spec.num_nodes, 3, generator=torch.Generator().manual_seed(1))
    network = to_networkx(graph, state, **arrays)
    for back in (network, read_network(write_network(network, tmp_path / f"cube{suffix}"))):
        assert_same_network(network, back)
        found = from_networkx(back)
        expected = {"state": state} | arrays["cells"] | {f"edge_{name}": x for name, x in arrays["edges"].items()}
        assert set(found.keys()) == set(graph.keys()) | set(expected)
        for name, array in expected.items():
            assert found[name].dtype == array.dtype
            assert torch.equal(found[name], array)
        for name, value in graph.to_dict().items():
            assert torch.equal(found[name], value) if isinstance(value, torch.Tensor) else found[name] == value


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=8, max_size=8),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=8, max_size=8),
    st.sampled_from(SUFFIXES),
)
def test_any_finite_number_survives(tmp_path_factory, reals, wholes, suffix) -> None:
    graph = build_graph(LatticeSpec((2, 2, 2), radii=(0.5, 1.0, 1.5)))
    cells = {"real": torch.tensor(reals, dtype=torch.float64), "whole": torch.tensor(wholes)}
    path = write_network(to_networkx(graph, cells=cells), tmp_path_factory.mktemp("any") / f"cube{suffix}")
    found = from_networkx(read_network(path))
    assert all(torch.equal(found[name], array) for name, array in cells.items())


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_pygs_own_conversion_reads_the_network(spec) -> None:
    graph = graph_of(spec)
    arrays = {} if spec is SPECS[0] else arrays_for(graph)
    data = torch_geometric.utils.from_networkx(to_networkx(graph, torch.zeros(spec.num_nodes, 2), **arrays))
    tiers = {"local": 0, "functional": 1, "distant": 2}
    columns = [*data.edge_index, torch.tensor([tiers[name] for name in data.tier]), *data.offset.T]
    ours = [*graph.edge_index, graph.edge_tier, *graph.edge_offset.T]
    assert sorted(torch.stack(columns, dim=1).tolist()) == sorted(torch.stack(ours, dim=1).tolist())
    assert torch.equal(data.pos, graph.pos)
    assert torch.equal(data.input, graph.input_mask)
    assert data.state.shape == (spec.num_nodes, 2)
    for name, array in arrays.get("cells", {}).items():
        assert torch.equal(data[name].float(), array.float())  # PyG keeps float32


@pytest.mark.slow
def test_a_16_cube_round_trips(tmp_path) -> None:
    graph = build_graph(LatticeSpec((16, 16, 16)))
    assert_same_graph(graph, from_networkx(read_graphml(write_graphml(graph, tmp_path / "cube.graphml"))))


@pytest.mark.parametrize(
    "state",
    [torch.zeros(27), torch.zeros(26, 4), torch.zeros(2, 27, 4), torch.zeros(27, 4, dtype=torch.long)],
    ids=lambda state: f"{state.dtype}{tuple(state.shape)}",
)
def test_a_wrong_state_is_refused(state, refuses) -> None:
    with refuses("one state of the 27 cells, [N, F] or [1, N, F]", f"{state.dtype} of shape", "Pick one sample"):
        to_networkx(build_graph(LatticeSpec((3, 3, 3))), state)


def test_foreign_networks_are_refused(refuses) -> None:
    with refuses("spec, inputs, outputs as JSON", "without spec", "Make it with to_networkx"):
        from_networkx(nx.path_graph(3, create_using=nx.DiGraph))
    network = to_networkx(build_graph(LatticeSpec((3, 3, 3), "full")))
    with refuses("numbered 0 to 26", "'0'", "nx.read_graphml(path, node_type=int)"):
        from_networkx(nx.relabel_nodes(network, str))
    del network.edges[0, 1]["tier"]
    with refuses("edges tier, distance and offset", "'tier' is missing", "Make it with to_networkx"):
        from_networkx(network)
    network.edges[0, 1]["tier"] = "local"
    with refuses("edge_tier matches the edge's distance", "Received", "Rebuild"):
        from_networkx(network)


@pytest.mark.parametrize("content", ["", "no xml", "<graphml/>", "<html></html>"])
def test_foreign_files_are_refused(content, tmp_path, refuses) -> None:
    path = tmp_path / "cube.graphml"
    path.write_text(content)
    with refuses("must be the GraphML of a lattice", "cube.graphml", "Write it with write_graphml"):
        read_graphml(path)


def test_graphml_of_another_graph_is_refused(tmp_path, refuses) -> None:
    path = tmp_path / "path.graphml"
    nx.write_graphml(nx.path_graph(3, create_using=nx.DiGraph), path)
    with refuses("must be the GraphML of a lattice", "path.graphml", "Write it with write_graphml"):
        read_graphml(path)


@pytest.mark.parametrize("suffix", [".gexf", ".json"])
@pytest.mark.parametrize("content", ["", "no xml", "[]", "{}", "<gexf/>", '{"nodes": 1}', '{"nodes": [], "edges": []}'])
def test_foreign_files_of_other_formats_are_refused(content, suffix, tmp_path, refuses) -> None:
    path = tmp_path / f"cube{suffix}"
    path.write_text(content)
    with refuses(f"must be the {suffix[1:].upper()} of a lattice", path.name, "Write it with write_network"):
        read_network(path)


def test_json_that_lacks_places_is_refused(tmp_path, refuses) -> None:
    path = write_network(build_graph(LatticeSpec((2, 2, 2))), tmp_path / "cube.json")
    content = json.loads(path.read_text())
    del content["nodes"][3]["pos"]
    path.write_text(json.dumps(content))
    with refuses("must be the JSON of a lattice", "KeyError: 'pos'", "Write it with write_network"):
        read_network(path)


def test_other_endings_are_refused(tmp_path, refuses) -> None:
    graph = build_graph(LatticeSpec((2, 2, 2)))
    for call in (lambda path: write_network(graph, path), read_network):
        with refuses("ends in .graphml, .gexf, .json", "cube.png", "Rename it"):
            call(tmp_path / "cube.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["pos", "x", "z", "input_mask", "spec", "num_nodes", "edge_weight", "label", "two words", "", "state_1"]
)
def test_names_that_are_taken_are_refused(name, refuses) -> None:
    graph = build_graph(LatticeSpec((2, 2, 2)))
    with refuses("array of nodes has a name of its own", repr(name), "Rename it"):
        to_networkx(graph, torch.zeros(8, 2), cells={name: torch.zeros(8)})
    with refuses("array of edges has a name of its own", "'offset'", "Rename it"):
        to_networkx(graph, edges={"offset": torch.zeros(graph.num_edges)})
    with refuses("one state", "state and an array named state", "Leave one"):
        to_networkx(graph, torch.zeros(8, 2), cells={"state": torch.zeros(8)})


@pytest.mark.parametrize(
    "array",
    [torch.zeros(7), torch.zeros(8, 0), torch.zeros(8, 2, 2), torch.zeros(8, dtype=torch.complex64)]
    + [torch.full((8,), value) for value in (float("nan"), float("inf"))],
    ids=lambda array: f"{array.dtype}{tuple(array.shape)}",
)
def test_arrays_that_do_not_fit_are_refused(array, refuses) -> None:
    graph = build_graph(LatticeSpec((2, 2, 2)))
    with refuses("holds finite numbers, [8] or [8, k]", f"'mine', {array.dtype} of shape", "Cast it"):
        to_networkx(graph, cells={"mine": array})
    with refuses(f"holds finite numbers, [{graph.num_edges}]", f"'mine', {array.dtype}", "Cast it"):
        to_networkx(graph, edges={"mine": array})


def test_a_missing_file_is_named(tmp_path, refuses) -> None:
    for suffix in SUFFIXES:
        with refuses("must exist", f"none{suffix}", "Check the path", FileNotFoundError):
            read_network(tmp_path / f"none{suffix}")


def test_torch_cluster_is_imported_only_when_used() -> None:
    code = (
        "import sys, latticegnn.lattice as l; l.tier_report(l.LatticeSpec()); assert 'torch_cluster' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
