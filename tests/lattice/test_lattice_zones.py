"""Zones are the quadrants of a face; learned ports share all of its cells."""

import json

import pytest
import torch

from latticegnn.lattice import LatticeSpec, Learned, Nested, Ports, Zones, coordinates, steps_needed

SPEC = LatticeSpec((6, 5, 4))


@pytest.mark.parametrize("face", ["x-", "x+", "y-", "y+", "z-", "z+"])
def test_zones_are_the_quadrants_of_the_face(face) -> None:
    ports = Ports(face, "zones")
    zones = ports.zones(SPEC)
    assert torch.equal(ports.nodes(SPEC), Ports(face).nodes(SPEC))
    first, second = (axis for axis in range(3) if axis != "xyz".index(face[0]))
    for place, zone in zip(coordinates(SPEC)[ports.nodes(SPEC)].tolist(), zones.tolist(), strict=True):
        late = [place[axis] + 1 > SPEC.shape[axis] - SPEC.shape[axis] // 2 for axis in (first, second)]
        assert zone == 2 * late[0] + late[1]


@pytest.mark.parametrize("count", [1, 3, 4])
def test_every_zone_gets_its_count_spread_in_nested_order(count) -> None:
    spec = LatticeSpec((4, 4, 4), order="morton")
    ports = Ports("z+", Zones(count))
    assert torch.bincount(ports.zones(spec)).tolist() == [count] * 4
    own = coordinates(spec)[ports.nodes(spec)][ports.zones(spec) == 0]
    alone = LatticeSpec((2, 2, 2))
    expected = coordinates(alone)[Ports("z-", Nested(count)).nodes(alone)]
    assert sorted(own[:, :2].tolist()) == sorted(expected[:, :2].tolist())


def test_other_placements_have_no_zones() -> None:
    assert Ports("z-").zones(SPEC) is None


def test_learned_ports_have_the_nodes_and_the_light_cone_of_the_whole_face() -> None:
    ports = Ports("z-", Learned(count=7))
    assert ports.count(SPEC) == 7
    assert torch.equal(ports.nodes(SPEC), Ports("z-", "nested").nodes(SPEC))
    assert (ports.learned, Ports("z-").learned) == (Learned(7), None)
    spec = LatticeSpec((8, 8, 8))
    assert steps_needed(spec, Ports("z-", "learned"), Ports("z+", "learned")) == steps_needed(
        spec, Ports(), Ports("z+")
    )


def test_ports_are_counted() -> None:
    assert [Ports("z-", placement).count(SPEC) for placement in ("full", "zones", "center", Zones(2))] == [30, 30, 1, 8]


@pytest.mark.parametrize("ports", [Ports("z-", "zones"), Ports("x+", Zones(3)), Ports("z+", Learned(5, 0.5))])
def test_json_round_trip(ports) -> None:
    assert Ports.from_dict(json.loads(json.dumps(ports.to_dict()))) == ports


@pytest.mark.parametrize(
    ("build", "rule", "received", "remedy"),
    [
        (lambda: Zones(0), "at least 1", "Received 0", "Write count: 8"),
        (lambda: Ports("z-", Zones(5)).nodes(LatticeSpec((4, 4, 4))), "more ports than", "count=5", "Lower count to 4"),
        (lambda: Ports("z-", "zones").nodes(LatticeSpec((8, 1, 8))), "2 × 2 cells", "(8, 1, 1)", "placement: full"),
        (lambda: Learned(count=0), "at least 1", "Received 0", "Write count: 8"),
        (lambda: Learned(width=0.0), "above 0", "Received 0.0", "Write width: 1.0"),
        (lambda: Learned(width=float("nan")), "above 0", "Received nan", "Write width: 1.0"),
        (lambda: Ports("z-", Learned(31)).nodes(SPEC), "more ports than", "count=31", "Lower count to 30"),
        (lambda: Ports("surface", Learned(4)), "places ports on one face", "face='surface'", "Write face: z-"),
    ],
)
def test_refusals(build, rule, received, remedy, refuses) -> None:
    with refuses(rule, received, remedy):
        build()
