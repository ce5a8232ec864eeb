"""Ports: faces, every placement, seeds, order, JSON, refusals."""

import json
from dataclasses import dataclass

import pytest
import torch
from jsonargparse import ArgumentParser

from latticegnn.lattice import (
    FACES,
    Center,
    CornersCenter,
    Grid,
    LatticeSpec,
    Placement,
    Ports,
    Random,
    node_grid,
)
from latticegnn.lattice.placement import PLACEMENTS

SPEC = LatticeSpec((4, 5, 6))


def cells(ports: Ports, spec: LatticeSpec = SPEC) -> list[list[int]]:
    grid = node_grid(spec)
    return [(grid == node).nonzero()[0].tolist() for node in ports.nodes(spec)]


@dataclass(frozen=True)
class Diagonal(Placement):
    """A user's own placement."""

    start: int = 0

    def select(self, face_coordinates, extent, generator) -> torch.Tensor:
        x, y, _ = face_coordinates.T
        return ((x == y) & (x >= self.start)).nonzero()[:, 0]


class Unsaved(Placement):
    """A placement that is no dataclass, and returns what it likes."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows = rows

    def select(self, face_coordinates, extent, generator) -> torch.Tensor:
        return self.rows


@pytest.mark.parametrize("face", FACES)
def test_a_full_face_is_its_layer_in_raster_order(face) -> None:
    axis, end = "xyz".index(face[0]), {"-": 0, "+": SPEC.shape["xyz".index(face[0])] - 1}[face[1]]
    expected = [list(cell) for cell in torch.ones(SPEC.shape).nonzero().tolist() if cell[axis] == end]
    assert cells(Ports(face)) == expected


def test_the_surface_holds_each_outer_cell_once() -> None:
    assert len(Ports("surface").nodes(LatticeSpec())) == 8**3 - 6**3
    assert cells(Ports("surface")) == [
        cell
        for cell in torch.ones(SPEC.shape).nonzero().tolist()
        if any(c in (0, n - 1) for c, n in zip(cell, SPEC.shape, strict=True))
    ]
    assert len(Ports("surface").nodes(LatticeSpec((1, 3, 3)))) == 9


def test_corners_center_and_grid() -> None:
    spec = LatticeSpec((8, 8, 8))
    assert cells(Ports("z+", "corners"), spec) == [[0, 0, 7], [0, 7, 7], [7, 0, 7], [7, 7, 7]]
    assert cells(Ports("y-", "center"), spec) == [[4, 0, 4]]
    assert cells(Ports("y-", Center()), LatticeSpec((7, 7, 7))) == [[3, 0, 3]]
    corners_center = cells(Ports("z-", "corners_center"), spec)
    assert corners_center == [[0, 0, 0], [0, 7, 0], [4, 4, 0], [7, 0, 0], [7, 7, 0]]
    assert cells(Ports("z-", Grid(4)), spec) == [[x, y, 0] for x in (1, 5) for y in (1, 5)]
    assert len(cells(Ports("z-", "grid"), spec)) == 16
    assert cells(Ports("z-", Grid(3)), LatticeSpec((7, 4, 2))) == [[x, y, 0] for x in (0, 3, 6) for y in (0, 3)]
    assert cells(Ports("z-", "corners_center"), LatticeSpec((1, 1, 3))) == [[0, 0, 0]]


def test_on_the_surface_geometric_placements_apply_to_each_face() -> None:
    spec = LatticeSpec((7, 7, 7))
    assert len(cells(Ports("surface", "corners"), spec)) == 8
    assert cells(Ports("surface", "center"), spec) == [
        [0, 3, 3], [3, 0, 3], [3, 3, 0], [3, 3, 6], [3, 6, 3], [6, 3, 3]
    ]  # fmt: skip
    assert len(cells(Ports("surface", Random(count=11)), spec)) == 11


@pytest.mark.parametrize(("side", "fewest", "most"), [(8, 5, 10), (32, 80, 160), (3, 1, 1), (1, 1, 1)])
def test_proportional_takes_its_share(side, fewest, most) -> None:
    spec = LatticeSpec((side, side, 2))
    counts = {len(Ports("z-", "proportional", seed).nodes(spec)) for seed in range(40)}
    assert fewest <= min(counts)
    assert max(counts) <= most
    if side == 8:
        assert counts == set(range(5, 11))


def test_random_takes_a_count_or_a_fraction() -> None:
    assert len(Ports("z-", Random(count=20)).nodes(SPEC)) == 20
    assert len(Ports("z-", Random(fraction=0.5)).nodes(SPEC)) == 10
    assert len(Ports("z-", Random(fraction=0.001)).nodes(SPEC)) == 1


@pytest.mark.parametrize("placement", ["proportional", Random(count=5)])
def test_the_seed_alone_decides(placement) -> None:
    state = torch.get_rng_state()
    draws = [Ports("z-", placement, seed).nodes(SPEC).tolist() for seed in (0, 0, 1, 2, 3)]
    assert torch.equal(state, torch.get_rng_state())
    assert draws[0] == draws[1]
    assert len({tuple(draw) for draw in draws}) > 2
    assert all(draw == sorted(set(draw)) for draw in draws)  # in raster order these are the ids themselves


@pytest.mark.parametrize("face", [*FACES, "surface"])
@pytest.mark.parametrize("placement", [*sorted(set(PLACEMENTS) - {"random"}), Random(fraction=0.3)], ids=str)
def test_node_order_changes_no_port(face, placement) -> None:
    if face == "surface" and placement in ("zones", "learned"):
        pytest.skip("these lie on one face")
    ports = Ports(face, placement, seed=7)
    assert cells(ports) == cells(ports, LatticeSpec(SPEC.shape, order="morton"))


@pytest.mark.parametrize(
    "ports",
    [
        Ports(),
        Ports("surface", "proportional", 9),
        Ports("x+", Grid(spacing=3)),
        Ports("x+", Random(count=4)),
        Ports("x+", Random(fraction=0.25)),
    ],
    ids=str,
)
def test_json_round_trip(ports) -> None:
    assert Ports.from_dict(json.loads(json.dumps(ports.to_dict()))) == ports


def test_a_name_stays_a_name_and_an_object_names_its_class() -> None:
    assert Ports(placement="corners_center").to_dict()["placement"] == "corners_center"
    saved = {"class_path": "latticegnn.lattice.placement.CornersCenter", "init_args": {}}
    assert Ports(placement=CornersCenter()).to_dict()["placement"] == saved
    assert Ports.from_dict({"placement": saved}) == Ports(placement=CornersCenter())
    assert Ports(placement=Random(count=4)).to_dict()["placement"] == {
        "class_path": "latticegnn.lattice.placement.Random",
        "init_args": {"count": 4, "fraction": None},
    }


def test_class_paths_through_the_ports_module_work() -> None:
    placement = {"class_path": "latticegnn.lattice.ports.Random", "init_args": {"count": 3}}
    assert Ports.from_dict({"placement": placement}) == Ports(placement=Random(count=3))


def test_a_users_placement_is_used_and_saved(monkeypatch) -> None:
    ports = Ports("z-", Diagonal(start=2))
    assert cells(ports) == [[2, 2, 0], [3, 3, 0]]
    monkeypatch.setattr("latticegnn.lattice.placement.Diagonal", Diagonal, raising=False)
    saved = ports.to_dict()["placement"] | {"class_path": "latticegnn.lattice.placement.Diagonal"}
    assert Ports.from_dict({"placement": saved}) == ports


def test_the_command_line_builds_them() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--ports", type=Ports)
    arguments = ["--ports.face=x+", "--ports.placement=latticegnn.lattice.ports.Random"]
    parsed = parser.parse_args([*arguments, "--ports.placement.init_args.count=5"])
    assert parser.instantiate(parsed).ports == Ports("x+", Random(count=5))
    assert parser.instantiate(parser.parse_args(["--ports.placement=grid"])).ports == Ports(placement="grid")


@pytest.mark.parametrize(
    ("build", "rule", "received", "remedy"),
    [
        (lambda: Ports("z"), "face must be one of 'x-'", "'z'", "Did you mean 'z"),
        (lambda: Ports(placement="corner"), "placement must be one of 'full'", "'corner'", "Did you mean 'corners'?"),
        (lambda: Ports(placement=3), "or a Placement object", "Received 3", "placement: full"),
        (lambda: Ports(placement="random"), "exactly one of count and fraction", "count=None", "Random(count=8)"),
        (lambda: Random(1, 0.5), "exactly one of count and fraction", "fraction=0.5", "init_args: {count: 8}"),
        (lambda: Random(count=0), "at least 1", "Received 0", "Write count: 8"),
        (lambda: Random(count=True), "whole number", "Received True", "Write count: 8"),
        (lambda: Random(fraction=1.5), "at most 1", "Received 1.5", "Write fraction: 0.1"),
        (lambda: Grid(0), "at least 1", "Received 0", "Write spacing: 2"),
        (lambda: Ports("surface", "zones"), "Zones places ports on one face", "'surface'", "Write face: z-"),
        (lambda: Ports(seed=-1), "seed is a whole number", "Received -1", "Write seed: 0"),
        (lambda: Ports.from_dict({"fase": "z-"}), "Ports have the keys face", "'fase'", "Did you mean 'face'?"),
        (lambda: Ports.from_dict({"placement": {"name": "grid"}}), "given by class_path", "['name']", "class_path:"),
        (
            lambda: Ports.from_dict({"placement": {"class_path": "latticegnn.lattice.ports.Nowhere"}}),
            "a Placement class of an imported module",
            "Nowhere",
            "placement.Random",
        ),
        (
            lambda: Ports.from_dict({"placement": {"class_path": "Random"}}),
            "a Placement class of an imported module",
            "'Random'",
            "placement.Random",
        ),
        (
            lambda: Ports.from_dict({"placement": {"class_path": "latticegnn.lattice.ports.Ports"}}),
            "subclass of Placement",
            "ports.Ports",
            "placement.Random",
        ),
        (
            lambda: Ports.from_dict(
                {"placement": {"class_path": "latticegnn.lattice.ports.Grid", "init_args": {"step": 2}}}
            ),
            "init_args must be the arguments",
            "{'step': 2}",
            "Correct them",
        ),
        (
            lambda: Ports("z-", Random(count=21)).nodes(SPEC),
            "cannot have more ports than its face has cells",
            "count=21 for a face of 20 cells",
            "Lower count to 20",
        ),
        (lambda: Ports(placement=Unsaved(torch.arange(1))).to_dict(), "dataclass fields", "Unsaved", "Decorate it"),
        *(
            (
                lambda r=rows: Ports(placement=Unsaved(r)).nodes(SPEC),
                "distinct, rows",
                "Unsaved returned",
                "Correct its",
            )
            for rows in (
                torch.tensor([], dtype=torch.long),
                torch.tensor([0, 0]),
                torch.tensor([20]),
                torch.tensor([-1]),
                torch.ones(20, dtype=torch.bool),
            )
        ),
    ],
)
def test_refusals(build, rule, received, remedy, refuses) -> None:
    with refuses(rule, received, remedy):
        build()
