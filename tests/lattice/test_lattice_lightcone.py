"""The light cone: hops against networkx shortest paths, the published step counts, and what a refusal says."""

import networkx as nx
import pytest
import torch

from latticegnn.lattice import (
    LatticeSpec,
    LightConeError,
    Ports,
    arrival,
    build_graph,
    check_light_cone,
    coordinates,
    hops,
    steps_needed,
)

FACE, OPPOSITE = Ports("z-"), Ports("z+")


@pytest.mark.parametrize(
    "spec",
    [
        LatticeSpec(),
        LatticeSpec((10, 3, 4), order="morton"),
        LatticeSpec((5, 6, 7), boundary="periodic", radii=(0.5, 1.0, 2.3)),
        LatticeSpec((9, 2, 8), boundary=("periodic", "periodic", "open"), radii=(0.5, 1.0, 1.5), order="morton"),
        LatticeSpec((5, 3, 8), boundary=("reflecting", "absorbing", "reflecting"), radii=(0.5, 1.0, 2.3)),
        LatticeSpec((6, 6, 6), "full"),
        LatticeSpec((4, 4, 4)),
        LatticeSpec((1, 1, 9), radii=(0.5, 1, 2)),
        LatticeSpec((1, 1, 1)),
    ],
    ids=str,
)
def test_hops_are_shortest_paths(spec) -> None:
    sources = torch.tensor(sorted({0, spec.num_nodes // 3, spec.num_nodes // 2}))
    network = nx.DiGraph(build_graph(spec).edge_index.T.tolist())
    length = nx.multi_source_dijkstra_path_length(network, set(sources.tolist()))
    assert hops(spec, sources).tolist() == [length.get(node, -1) for node in range(spec.num_nodes)]


@pytest.mark.parametrize(("n", "steps"), [(8, 7), (10, 5), (16, 5), (37, 6), (5, 4), (7, 6)])
def test_published_steps_to_the_opposite_face(n, steps) -> None:
    assert steps_needed(LatticeSpec((n, n, n)), FACE, OPPOSITE) == steps


def test_full_connectivity_needs_one_step() -> None:
    spec = LatticeSpec(connectivity="full")
    assert steps_needed(spec, FACE, OPPOSITE) == 1
    assert arrival(spec, FACE, FACE).max() == 0


def test_arrival_is_in_the_order_of_the_output_ports() -> None:
    spec = LatticeSpec((6, 3, 3), order="morton", radii=(0.5, 1.0, 1.1))
    outputs = Ports("surface")
    z = coordinates(spec)[outputs.nodes(spec)][:, 2]
    assert torch.equal(arrival(spec, FACE, outputs), z)


def test_a_large_lattice_needs_no_edges() -> None:
    assert steps_needed(LatticeSpec((64, 64, 64), radii=(0.5, 1.0, 1.6)), FACE, OPPOSITE) == 63
    assert steps_needed(LatticeSpec((64, 64, 64)), FACE, OPPOSITE) == 6


@pytest.mark.slow
def test_a_huge_lattice_takes_seconds() -> None:
    assert steps_needed(LatticeSpec((128, 128, 128), radii=(0.5, 1.0, 1.6)), FACE, OPPOSITE) == 127


def test_too_few_steps_are_refused_with_the_number_needed(refuses) -> None:
    spec = LatticeSpec()
    with refuses("inside the input ports' light cone", "steps=5 from z- to z+", "Set steps to 7", LightConeError):
        check_light_cone(spec, FACE, OPPOSITE, steps=5)
    with refuses("1.414 cells", "64 of 64 output ports are out of reach, 7 steps are needed", "connectivity: full"):
        check_light_cone(spec, FACE, OPPOSITE, steps=6)
    check_light_cone(spec, FACE, OPPOSITE, steps=7)
    # Out of reach are the rims of the layers z = 5 and z = 6, and all of z = 7.
    with refuses("light cone", f"{28 + 28 + 64} of 296 output ports", "larger radius_ratio"):
        check_light_cone(spec, FACE, Ports("surface"), steps=4)


@pytest.mark.parametrize("find", [steps_needed, lambda *parts: check_light_cone(*parts, steps=99)])
@pytest.mark.parametrize(
    ("spec", "radius", "remedy"),
    [
        (LatticeSpec((4, 4, 4)), "radius of 0.8 cells", "Set radius_ratio to 0.25 or more"),
        (LatticeSpec((3, 3, 3)), "radius of 0.6 cells", "Set radius_ratio to 0.3334 or more"),
        (LatticeSpec(radii=(0.1, 0.2, 0.9)), "radius of 0.9 cells", "Set radii[2] to 1 or more"),
    ],
)
def test_a_lattice_without_neighbours_is_refused_at_any_number_of_steps(find, spec, radius, remedy, refuses) -> None:
    with refuses("unreachable from z- at any number of steps", radius, remedy, LightConeError):
        find(spec, FACE, OPPOSITE)
    assert hops(spec, torch.tensor([0])).tolist() == [0] + [-1] * (spec.num_nodes - 1)


def test_the_remedy_for_a_lattice_without_neighbours_suffices() -> None:
    assert steps_needed(LatticeSpec((3, 3, 3), radius_ratio=0.3334), FACE, OPPOSITE) == 2


@pytest.mark.parametrize("steps", [0, -1, 2.0, True])
def test_steps_are_a_whole_number(steps, refuses) -> None:
    with refuses("whole number, at least 1", f"Received {steps!r}", "Write steps: 8"):
        check_light_cone(LatticeSpec(), FACE, OPPOSITE, steps)


@pytest.mark.parametrize(
    "sources",
    [torch.tensor([], dtype=torch.long), torch.tensor([512]), torch.tensor([-1]), torch.tensor([0.5]), torch.tensor(3)],
)
def test_sources_are_node_ids(sources, refuses) -> None:
    with refuses("node ids from 0 to 511", f"{sources.dtype}", "Take them from Ports.nodes(spec)"):
        hops(LatticeSpec(), sources)
