"""networkx and GraphML: there and back without loss, and what is refused."""

import subprocess
import sys

import networkx as nx
import pytest
import torch

from latticegnn.lattice import (
    Grid,
    LatticeSpec,
    Ports,
    build_graph,
    from_networkx,
    read_graphml,
    to_networkx,
    write_graphml,
)

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


def test_a_missing_file_is_named(tmp_path, refuses) -> None:
    with refuses("must exist", "none.graphml", "Check the path", FileNotFoundError):
        read_graphml(tmp_path / "none.graphml")


def test_torch_cluster_is_imported_only_when_used() -> None:
    code = (
        "import sys, latticegnn.lattice as l; l.tier_report(l.LatticeSpec()); assert 'torch_cluster' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
