"""LatticeSpec: thresholds, coercion, JSON, and every refusal."""

import json

import numpy as np
import pytest
from jsonargparse import ArgumentParser

from latticegnn.lattice import LatticeSpec, Tier


def test_published_thresholds() -> None:
    spec = LatticeSpec()
    assert spec.max_radius == pytest.approx(1.6)
    assert spec.thresholds == pytest.approx((0.16, 1.04, 1.6))
    assert spec.num_nodes == 512
    assert [int(tier) for tier in Tier] == [0, 1, 2]


def test_the_longest_side_sets_the_radius() -> None:
    assert LatticeSpec((5, 20, 7)).max_radius == pytest.approx(4.0)


def test_radii_take_the_place_of_ratios() -> None:
    spec = LatticeSpec((20, 20, 20), radii=(0.5, 1, 1.5))
    assert spec.thresholds == (0.5, 1.0, 1.5)
    assert spec.max_radius == 1.5


def test_lists_become_tuples_and_the_spec_can_be_a_key() -> None:
    spec = LatticeSpec([4, np.int64(5), 6], boundary=["open", "periodic", "open"], radii=[1, 2, 3])  # type: ignore[arg-type]
    same = LatticeSpec((4, 5, 6), boundary=("open", "periodic", "open"), radii=(1.0, 2.0, 3.0))
    assert spec == same
    assert hash(spec) == hash(same)
    assert spec.periodic == (False, True, False)
    assert LatticeSpec(boundary="periodic").periodic == (True, True, True)
    mixed = LatticeSpec(boundary=("reflecting", "absorbing", "open"))
    assert (mixed.reflecting, mixed.absorbing) == ((True, False, False), (False, True, False))
    assert mixed.boundaries == mixed.boundary


@pytest.mark.parametrize(
    "spec",
    [LatticeSpec(), LatticeSpec((3, 4, 5), "full", ("open", "periodic", "open"), "morton", radii=(0.5, 1.5, 2.5))],
)
def test_json_round_trip(spec: LatticeSpec) -> None:
    assert LatticeSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_the_command_line_builds_it() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--spec", type=LatticeSpec)
    arguments = ["--spec.shape=[4, 5, 6]", "--spec.boundary=[open, periodic, open]", "--spec.radii=[0.5, 1, 2]"]
    spec = parser.instantiate(parser.parse_args([*arguments, "--spec.connectivity=full"])).spec
    assert spec == LatticeSpec((4, 5, 6), "full", ("open", "periodic", "open"), radii=(0.5, 1.0, 2.0))


@pytest.mark.parametrize(
    ("fields", "rule", "received", "remedy"),
    [
        ({"shape": (8, 8)}, "three whole numbers", "(8, 8)", "shape: [8, 8, 8]"),
        ({"shape": (8, 0, 8)}, "at least 1", "(8, 0, 8)", "shape: [8, 8, 8]"),
        ({"shape": (8, True, 8)}, "three whole numbers", "True", "shape: [8, 8, 8]"),
        ({"shape": (8, 2.5, 8)}, "three whole numbers", "2.5", "shape: [8, 8, 8]"),
        ({"shape": 8}, "three whole numbers", "Received 8", "shape: [8, 8, 8]"),
        ({"connectivity": "ful"}, "'radius', 'full'", "'ful'", "Did you mean 'full'?"),
        ({"order": "mortn"}, "'raster', 'morton'", "'mortn'", "Did you mean 'morton'?"),
        ({"edges": "stencils"}, "'radius_graph', 'stencil'", "'stencils'", "Did you mean 'stencil'?"),
        (
            {"boundary": "periodical"},
            "'open', 'periodic', 'reflecting', 'absorbing'",
            "'periodical'",
            "Did you mean 'periodic'?",
        ),
        ({"boundary": ("open", "opn", "open")}, "along y must be one of", "'opn'", "Did you mean 'open'?"),
        ({"boundary": ("open", "open")}, "one for each of the axes", "2 names", "boundary='periodic'"),
        ({"radius_ratio": 0}, "radius_ratio must be a finite number above 0", "0", "positive ratio"),
        ({"local_ratio": float("nan")}, "local_ratio must be a finite number", "nan", "positive ratio"),
        ({"distant_ratio": float("inf")}, "distant_ratio must be a finite number", "inf", "positive ratio"),
        ({"functional_ratio": "big"}, "functional_ratio must be a finite number", "'big'", "positive ratio"),
        ({"local_ratio": 0.7}, "local_ratio < functional_ratio < distant_ratio", "0.7, 0.65, 1", "Reorder"),
        ({"functional_ratio": 1.0}, "must rise", "0.1, 1, 1", "keep the defaults 0.1, 0.65, 1.0"),
        ({"radii": (1, 2)}, "three finite distances", "(1, 2)", "radii: null"),
        ({"radii": (1, 3, 2)}, "local < functional < distant", "(1, 3, 2)", "radii: [0.5, 1.0, 1.6]"),
        ({"radii": (1, True, 2)}, "three finite distances", "True", "radii: null"),
        ({"radii": (0, 1, 2)}, "above 0", "(0, 1, 2)", "radii: null"),
        ({"strict_tiers": "yes"}, "strict_tiers is a switch", "'yes'", "Write true or false"),
    ],
)
def test_refusals(fields, rule, received, remedy, refuses) -> None:
    with refuses(rule, received, remedy):
        LatticeSpec(**fields)


def test_an_unknown_key_is_refused(refuses) -> None:
    with refuses("has the keys shape", "'conectivity'", "Did you mean 'connectivity'?"):
        LatticeSpec.from_dict({"conectivity": "full"})
