"""The lattice without edges: numbering, offsets, degrees and counts against the brute-force reference."""

import itertools
import re

import numpy as np
import pytest
import torch

from latticegnn.lattice import (
    LatticeSpec,
    Tier,
    coordinates,
    degrees,
    divisors,
    divisors_by_distance,
    edge_count,
    empty_tiers,
    neighbours,
    node_grid,
    stencil,
    tier_report,
)

SPECS = [
    LatticeSpec((4, 4, 4)),
    LatticeSpec((6, 6, 6), "full"),
    LatticeSpec((5, 6, 7), radii=(0.5, 1.2, 2.3)),
    LatticeSpec((5, 6, 7), boundary=("periodic", "open", "periodic"), radii=(1, 1.5, 3), order="morton"),
    LatticeSpec((2, 3, 4), "full", "periodic"),
    LatticeSpec((10, 3, 4), boundary="periodic"),
    LatticeSpec((5, 4, 3), boundary="reflecting", radii=(1, 1.5, 2.5), order="morton"),
    LatticeSpec((3, 2, 4), "full", ("absorbing", "reflecting", "periodic")),
    LatticeSpec((1, 1, 1)),
    LatticeSpec((1, 2, 1), "full"),
]


@pytest.mark.parametrize("order", ["raster", "morton"])
@pytest.mark.parametrize("shape", [(8, 8, 8), (5, 6, 7), (1, 3, 9), (1, 1, 1)])
def test_ids_and_coordinates_are_inverse(shape, order) -> None:
    spec = LatticeSpec(shape, order=order)
    place, grid = coordinates(spec), node_grid(spec)
    assert torch.equal(grid[tuple(place.T)], torch.arange(spec.num_nodes))
    assert torch.equal(grid.flatten().sort()[0], torch.arange(spec.num_nodes))


def test_raster_formula_and_morton_rank() -> None:
    place = coordinates(LatticeSpec((3, 4, 5)))
    assert torch.equal((place[:, 0] * 4 + place[:, 1]) * 5 + place[:, 2], torch.arange(60))
    first = coordinates(LatticeSpec((4, 4, 4), order="morton"))[:9].tolist()
    assert first == [*map(list, itertools.product(range(2), repeat=3)), [0, 0, 2]]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_offsets_degrees_and_counts_equal_brute_force(spec, brute_force) -> None:
    edges = brute_force(spec)
    parts = stencil(spec)
    expected = np.unique(edges[:, [3, 4, 5, 2]], axis=0)
    assert np.array_equal(torch.cat([parts.offsets, parts.tier[:, None]], dim=1).numpy(), expected)
    assert torch.equal(parts.distance, parts.offsets.square().sum(1).double().sqrt())
    assert parts.distance.dtype == torch.float64
    others = edges[(edges[:, 3:] != 0).any(1)]  # a cell's own mirror images are neighbours
    counted = np.zeros((spec.num_nodes, 3), dtype=int)
    np.add.at(counted, (others[:, 0], others[:, 2]), 1)
    assert np.array_equal(degrees(spec).numpy(), counted)
    assert edge_count(spec) == {tier: int((edges[:, 2] == tier).sum()) for tier in Tier}
    assert empty_tiers(spec) == tuple(tier for tier in Tier if not counted[:, tier].any())


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_divisors_by_distance_add_up_to_those_by_tier(spec) -> None:
    distances, counts = divisors_by_distance(spec)
    tier = torch.bucketize(distances, torch.tensor(spec.thresholds[:2], dtype=torch.float64) * (1 + 1e-9))
    by_tier = torch.zeros(spec.num_nodes, 3, dtype=torch.long).index_add_(1, tier, counts)
    assert torch.equal(by_tier, divisors(spec))
    assert torch.equal(counts[:, 0], torch.ones(spec.num_nodes, dtype=torch.long))
    if not any(spec.absorbing):
        assert torch.equal(by_tier, degrees(spec) + torch.tensor([1, 0, 0]))


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_neighbours_of_every_offset_are_the_edges(spec, brute_force) -> None:
    rows = [
        (target, source, *offset)
        for offset in stencil(spec).offsets.tolist()
        for source, target in zip(*(ids.tolist() for ids in neighbours(spec, offset)), strict=True)
    ]
    assert sorted(rows) == [tuple(row) for row in brute_force(spec)[:, [0, 1, 3, 4, 5]].tolist()]


def test_an_offset_beyond_an_open_boundary_has_no_pairs() -> None:
    sources, targets = neighbours(LatticeSpec((3, 4, 5)), (-3, 0, 7))
    assert sources.numel() == targets.numel() == 0


def test_published_degrees() -> None:
    radius, full = degrees(LatticeSpec()), degrees(LatticeSpec(connectivity="full"))
    assert (radius[:, 0].max(), full[:, 0].max()) == (0, 0)
    assert (radius[:, 1].min(), radius[:, 1].max()) == (3, 6)
    assert (radius[:, 2].min(), radius[:, 2].max()) == (3, 12)
    assert (full[:, 1].min(), full[:, 1].max()) == (3, 6)
    assert (full[:, 2].min(), full[:, 2].max()) == (505, 508)
    assert bool((full.sum(1) == 511).all())


@pytest.mark.parametrize(("shape", "steps"), [((10, 10, 10), 2), ((15, 15, 15), 3), ((5, 5, 5), 1)])
def test_a_radius_that_lands_on_a_distance_includes_it(shape, steps) -> None:
    offsets = stencil(LatticeSpec(shape)).offsets.tolist()
    assert [0, 0, steps] in offsets
    assert [0, 1, steps] not in offsets


@pytest.mark.parametrize("shape", [(7, 7, 7), (8, 8, 8), (5, 6, 9)])
def test_a_torus_has_the_same_degree_everywhere(shape) -> None:
    spec = LatticeSpec(shape, boundary="periodic", radii=(0.5, 1.0, 2.0))
    expected = torch.tensor([0, 6, 26])  # shells √2: 12, √3: 8, 2: 6
    assert bool((degrees(spec) == expected).all())
    assert edge_count(spec)[Tier.DISTANT] == 26 * spec.num_nodes


def test_a_torus_of_two_has_each_neighbour_once() -> None:
    spec = LatticeSpec((2, 2, 2), boundary="periodic", radii=(0.5, 1.0, 1.8))
    assert stencil(spec).offsets.tolist() == [list(o) for o in itertools.product(range(2), repeat=3)]
    assert bool((degrees(spec) == torch.tensor([0, 3, 4])).all())


def test_the_report_is_the_published_table() -> None:
    rows = tier_report(LatticeSpec(connectivity="full"))
    assert [row["tier"] for row in rows] == ["local", "functional", "distant"]
    assert [(row["min_degree"], row["max_degree"]) for row in rows] == [(0, 0), (3, 6), (505, 508)]
    assert rows[2]["up_to"] == pytest.approx(7 * 3**0.5)
    assert sum(row["edges"] for row in rows) == 512**2
    assert rows[1]["message"] is None
    assert "Raise local_ratio to 0.625 (a radius of 1 cells)" in rows[0]["message"]


@pytest.mark.parametrize(
    ("spec", "tier"),
    [
        (LatticeSpec(), Tier.LOCAL),
        (LatticeSpec((5, 6, 7)), Tier.FUNCTIONAL),
        (LatticeSpec((4, 4, 4)), Tier.DISTANT),
        (LatticeSpec((6, 6, 6), functional_ratio=0.8), Tier.FUNCTIONAL),
        (LatticeSpec((12, 12, 12), local_ratio=0.6, functional_ratio=0.604), Tier.FUNCTIONAL),
        (LatticeSpec((3, 3, 3), "full", radii=(0.5, 9.0, 10.0)), Tier.DISTANT),
        (LatticeSpec((3, 3, 3), radii=(8.0, 9.0, 10.0)), Tier.FUNCTIONAL),
        (LatticeSpec((9, 9, 9), radii=(1.2, 1.3, 5.0)), Tier.FUNCTIONAL),
    ],
    ids=str,
)
def test_the_remedy_for_an_empty_tier_fills_it(spec, tier) -> None:
    message = tier_report(spec)[tier]["message"]
    found = re.search(r"(Raise|Lower) (\w+_ratio|radii\[\d\]) to ([\d.]+) ", message)
    assert found is not None
    verb, setting, number = found.groups()
    radii = list(spec.thresholds)
    index = int(setting[6]) if setting.startswith("radii") else ("local", "functional", "distant").index(setting[:-6])
    radii[index] = float(number) * (1.0 if setting.startswith("radii") else spec.max_radius)
    for later in range(index + 1, 3):  # "the radii must still rise"
        radii[later] = max(radii[later], radii[later - 1] + 0.1)
    for earlier in range(index - 1, -1, -1):
        radii[earlier] = min(radii[earlier], radii[earlier + 1] - 0.1)
    changed = LatticeSpec(spec.shape, spec.connectivity, radii=(radii[0], radii[1], radii[2]))
    assert tier in empty_tiers(spec)
    assert tier not in empty_tiers(changed)
    assert verb == ("Raise" if index == tier else "Lower")


def test_a_single_cell_is_told_to_grow() -> None:
    assert "single cell. Use a larger shape." in tier_report(LatticeSpec((1, 1, 1)))[2]["message"]
