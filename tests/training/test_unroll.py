"""The number of steps of a rollout: fixed, drawn, or rising, by the update's number alone."""

from collections import Counter

import pytest

from latticegnn.training.unroll import Unroll


def test_fixed_leaves_the_number_to_the_model() -> None:
    assert Unroll().steps(3, 10, seed=0) is None


def test_random_draws_evenly_and_repeats_by_seed() -> None:
    unroll = Unroll("random", 7, 10)
    drawn = [unroll.steps(update, 4000, seed=1) for update in range(4000)]
    counts = Counter(drawn)
    assert set(counts) == {7, 8, 9, 10}
    assert all(abs(count - 1000) < 120 for count in counts.values()), "four standard deviations"
    assert drawn == [unroll.steps(update, 99, seed=1) for update in range(4000)]
    assert drawn != [unroll.steps(update, 4000, seed=2) for update in range(4000)]


def test_a_curriculum_rises_evenly_and_stays() -> None:
    unroll = Unroll("curriculum", 5, 8, part=0.5)
    assert [unroll.steps(update, 16, seed=0) for update in range(16)] == [5, 5, 6, 6, 7, 7, 8, 8] + 8 * [8]
    assert Unroll("curriculum", 4, 4).steps(0, 16, seed=0) == 4


@pytest.mark.parametrize(
    ("settings", "rule", "received"),
    [
        ({"mode": "often"}, "must be fixed, random or curriculum", "'often'"),
        ({"mode": "random"}, "belong to the modes", "low None"),
        ({"mode": "random", "low": 3}, "belong to the modes", "high None"),
        ({"low": 3, "high": 4}, "belong to the modes", "mode fixed"),
        ({"mode": "random", "low": 5, "high": 4}, "1 ≤ low ≤ high", "5 and 4"),
        ({"mode": "random", "low": 0, "high": 4}, "1 ≤ low ≤ high", "0 and 4"),
        ({"part": 0.0}, "above 0 and at most 1", "0.0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, rule, received, refuses) -> None:
    with refuses(rule, received, "unroll."):
        Unroll(**settings)
