"""Regions of the volume: exact sizes, compact shapes, periodic axes."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latticegnn.lattice import LatticeSpec, apart, coordinates, hops, random_regions


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_distances_take_the_short_way_round_periodic_axes() -> None:
    spec = LatticeSpec((8, 8, 8), boundary=("periodic", "open", "open"))
    away = apart(spec, (7, 7, 0.5))
    corner = (coordinates(spec) == torch.tensor([0, 0, 0])).all(dim=1)
    assert away[corner].tolist() == [[1.0, 7.0, 0.5]]


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    part=st.floats(0.01, 0.99),
    kind=st.sampled_from(["sphere", "box", "half"]),
    boundary=st.sampled_from(["open", "periodic"]),
    seed=st.integers(0, 99),
)
def test_a_region_holds_its_part_of_the_cells(shape, part, kind, boundary, seed) -> None:
    spec = LatticeSpec(shape, boundary=boundary)
    regions = random_regions(spec, part, kind, 3, generator(seed))
    assert regions.sum(dim=1).tolist() == 3 * [round(part * spec.num_nodes)]
    assert torch.equal(regions, random_regions(spec, part, kind, 3, generator(seed)))


def test_a_sphere_holds_no_cell_farther_than_one_that_it_leaves() -> None:
    spec = LatticeSpec((6, 6, 6), boundary="periodic")
    region = random_regions(spec, 0.3, "sphere", 1, generator())[0]
    fits = [
        bool(away[region].max() <= away[~region].min())
        for away in (apart(spec, place).norm(dim=1) for place in coordinates(spec).tolist())
    ]
    assert any(fits)


def test_half_takes_whole_layers_from_an_end() -> None:
    spec = LatticeSpec((8, 4, 4))
    found = set()
    for region in random_regions(spec, 0.5, "half", 40, generator()):
        low, high = (bound.tolist() for bound in coordinates(spec)[region].aminmax(dim=0))
        found.add((*low, *high))
    halves = {(0, 0, 0, 3, 3, 3), (4, 0, 0, 7, 3, 3), (0, 0, 0, 7, 1, 3), (0, 2, 0, 7, 3, 3)}
    assert found == halves | {(0, 0, 0, 7, 3, 1), (0, 0, 2, 7, 3, 3)}


def test_draws_are_torchs_own_by_default() -> None:
    spec = LatticeSpec((5, 5, 5))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        first = random_regions(spec, 0.25, "box", 2)
        torch.manual_seed(3)
        assert torch.equal(first, random_regions(spec, 0.25, "box", 2))
        assert not torch.equal(first, random_regions(spec, 0.25, "box", 2))


def test_wrong_regions_are_refused(refuses) -> None:
    spec = LatticeSpec((4, 4, 4))
    with refuses("above 0 and below 1", "1.5", "0.25"):
        random_regions(spec, 1.5, "box", 1)
    with refuses("one of sphere, box, half", "'spere'", "Did you mean 'sphere'?"):
        random_regions(spec, 0.5, "spere", 1)


def test_no_signal_passes_lost_cells(refuses) -> None:
    spec = LatticeSpec((3, 3, 5), radii=(0.5, 1.0, 1.5))
    place, start = coordinates(spec), torch.tensor([0])
    wall = place[:, 2] == 2
    around = hops(spec, start, wall)
    assert (around[place[:, 2] > 2] == -1).all()
    assert torch.equal(around[place[:, 2] < 2], hops(spec, start)[place[:, 2] < 2])
    opened = wall & ~((place[:, 0] == 2) & (place[:, 1] == 2))
    far = hops(spec, start, opened)
    assert (far[place[:, 2] > 2] > 0).all()
    assert (far >= hops(spec, start))[~opened].all()
    assert (hops(spec, start, place[:, 0] == 0) == -1).all(), "a lost source sends nothing"
    with refuses("BoolTensor [N], N = 45", "torch.int64", "num_nodes"):
        hops(spec, start, torch.zeros(45, dtype=torch.long))
