"""The nested order: prefixes, the quality that is promised of each, and the numbering of ports."""

import itertools
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latticegnn.lattice import LatticeSpec, Nested, Ports, Random, build_graph, coordinates, covering_radius
from latticegnn.lattice.spread import farthest_first

FACE = LatticeSpec((8, 8, 8))


def radius(places: torch.Tensor, chosen: list[int]) -> float:
    """The covering radius, cell by cell."""
    return max(
        min(sum((a - b) ** 2 for a, b in zip(c, places[p].tolist(), strict=True)) for p in chosen) ** 0.5
        for c in places.tolist()
    )


@pytest.mark.parametrize("face", ["z-", "y+", "surface"])
def test_a_prefix_of_the_order_is_the_smaller_placement(face) -> None:
    spec = LatticeSpec((4, 5, 6), order="morton")
    order = Ports(face, "nested").nodes(spec)
    assert sorted(order.tolist()) == sorted(Ports(face).nodes(spec).tolist())
    for count in (1, 2, 7, len(order)):
        assert torch.equal(Ports(face, Nested(count)).nodes(spec), order[:count])
    assert torch.equal(Ports(face, Nested(fraction=0.5)).nodes(spec), order[: round(len(order) / 2)])


def test_the_order_is_the_same_on_opposite_faces_and_for_every_seed() -> None:
    near, far = (Ports(face, "nested", seed).nodes(FACE) for face, seed in (("z-", 0), ("z+", 5)))
    place = coordinates(FACE)
    assert torch.equal(place[near][:, :2], place[far][:, :2])


def test_the_beginning_is_the_middle_and_then_the_corners() -> None:
    place = coordinates(LatticeSpec((5, 5, 5)))[Ports("z-", Nested(5)).nodes(LatticeSpec((5, 5, 5)))]
    assert place.tolist() == [[2, 2, 0], [0, 0, 0], [0, 4, 0], [4, 0, 0], [4, 4, 0]]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 16))
def test_every_prefix_covers_at_most_twice_as_far_as_the_best_placement(long, wide, count) -> None:
    places = torch.cartesian_prod(torch.arange(long), torch.arange(wide))
    count = min(count, len(places))
    best = min(radius(places, list(chosen)) for chosen in itertools.combinations(range(len(places)), count))
    found = farthest_first(places, count).tolist()
    assert len(set(found)) == count
    assert radius(places, found) <= 2 * best + 1e-9


@pytest.mark.parametrize(
    ("count", "nested"),
    [(1, 32**0.5), (4, 18**0.5), (8, 3.0), (12, 2.0), (16, 2**0.5), (24, 1.0), (48, 1.0)],
)
def test_covering_radius_on_eight_by_eight_is_below_the_mean_of_random_ports(count, nested) -> None:
    assert covering_radius(FACE, Ports("z+", Nested(count))) == pytest.approx(nested)
    drawn = [covering_radius(FACE, Ports("z+", Random(count), seed)) for seed in range(20)]
    assert nested < sum(drawn) / len(drawn)


def test_the_covering_radius_is_that_of_its_definition() -> None:
    ports = Ports("x+", Random(count=3), seed=2)
    spec = LatticeSpec((3, 5, 6))
    face, place = Ports("x+").nodes(spec).tolist(), coordinates(spec)
    rows = [face.index(node) for node in ports.nodes(spec).tolist()]
    assert covering_radius(spec, ports) == pytest.approx(radius(place[face], rows))


def test_a_graph_lists_the_ports_in_their_order() -> None:
    spec = LatticeSpec((4, 4, 3))
    outputs = Ports("z+", Nested(count=6))
    graph = build_graph(spec, outputs=outputs)
    assert torch.equal(graph.output_nodes, outputs.nodes(spec))
    assert int(graph.output_mask.sum()) == 6


@pytest.mark.parametrize(
    "ports", [Ports("z+", Nested()), Ports("surface", Nested(fraction=0.1)), Ports("z-", "nested")]
)
def test_json_round_trip(ports) -> None:
    assert Ports.from_dict(json.loads(json.dumps(ports.to_dict()))) == ports


@pytest.mark.parametrize(
    ("build", "rule", "received", "remedy"),
    [
        (lambda: Nested(3, 0.5), "count or fraction, or neither", "fraction=0.5", "Leave out one"),
        (lambda: Nested(count=0), "at least 1", "Received 0", "Write count: 8"),
        (lambda: Nested(fraction=0.0), "above 0", "Received 0.0", "Write fraction"),
        (lambda: Ports("z-", Nested(65)).nodes(FACE), "more ports than its face has cells", "count=65", "Lower count"),
    ],
)
def test_refusals(build, rule, received, remedy, refuses) -> None:
    with refuses(rule, received, remedy):
        build()
