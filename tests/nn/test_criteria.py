"""Criteria on consecutive states: known values, what satisfies each, and that they judge every sample by itself."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from latticegnn.lattice import LatticeSpec
from latticegnn.nn import Absolute, Combined, Criterion, Energy, Relative, SpatialGradient, Statistical

SPEC = LatticeSpec((2, 2, 3), radii=(0.5, 1.0, 1.5))
CASES = {
    "absolute": lambda **more: Absolute(**more),
    "largest": lambda **more: Absolute(norm="max", **more),
    "relative": lambda **more: Relative(**more),
    "energy": lambda **more: Energy(**more),
    "spatial_gradient": lambda **more: SpatialGradient(SPEC, **more),
    "statistical": lambda **more: Statistical(window=4, **more),
}


def states(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, 12, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def judge(criterion: Criterion, trajectory: Tensor) -> tuple[Tensor, Tensor]:
    """Measures and verdicts of the states 1 … T of a trajectory [T + 1, B, N, F]."""
    memory, measures, verdicts = criterion.start(trajectory[0]), [], []
    for taken, x in enumerate(trajectory[1:], 1):
        assert len(memory) == criterion.remembers
        measures.append(criterion.measure(x, memory[1:], taken)[0])
        settled, memory = criterion(x, memory, taken)
        verdicts.append(settled)
    return torch.stack(measures), torch.stack(verdicts)


def known(name: str, before: Tensor, after: Tensor) -> float:
    """The number of a step of one sample [N, F], as its formula reads."""
    if name == "absolute":
        return math.sqrt(float((after - before).square().mean()))
    if name == "largest":
        return float((after - before).abs().max())
    if name == "relative":
        return float((after - before).norm() / max(after.norm(), before.norm()))
    if name == "energy":
        one, other = float(before.square().mean()), float(after.square().mean())
    else:
        one, other = (pairs(x) for x in (before, after))
    return abs(other - one) / max(other, one)


def pairs(x: Tensor) -> float:
    grid = x.reshape(2, 2, 3, -1)
    squares = [grid.diff(dim=axis).square().sum(dim=-1).flatten() for axis in range(3)]
    return float(torch.cat(squares).mean())


@pytest.mark.parametrize("name", [name for name in CASES if name != "statistical"])
def test_a_number_is_what_its_formula_says(name) -> None:
    trajectory = states(3, 4)
    measures, _ = judge(CASES[name](), trajectory)
    for k in range(2):
        for b in range(4):
            expected = known(name, trajectory[k, b], trajectory[k + 1, b])
            assert float(measures[k, b]) == pytest.approx(expected, rel=1e-12)


def test_around_a_torus_each_pair_of_neighbours_counts_once() -> None:
    spec = LatticeSpec((2, 3, 1), radii=(0.5, 1.0, 1.5), boundary="periodic")
    x = torch.zeros(1, 6, 1, dtype=torch.float64)
    x[0, 0] = 1.0
    # Nine pairs: three along x, each once though both ways lead there, and six around y; cell 0 is in three of them.
    assert float(SpatialGradient(spec).roughness(x)) == pytest.approx(3 / 9)


def test_the_statistical_number_is_that_of_the_window_s_halves() -> None:
    trajectory = states(7, 3)
    measures, verdicts = judge(Statistical(window=4, tolerance=10.0), trajectory)
    assert measures[:2].isnan().all(), "until four states are there"
    assert verdicts.tolist() == [[False] * 3] * 2 + [[True] * 3] * 4
    for k in range(3, 7):
        for b in range(3):
            halves = [trajectory[i : i + 2, b].flatten(0, 1) for i in (k - 3, k - 1)]
            (m1, m2), (v1, v2) = ([f(h, 0) for h in halves] for f in (torch.mean, lambda h, d: h.var(d, correction=0)))
            q = sum(h.square().mean(0).sum() for h in halves)
            expected = max((m2 - m1).norm() / (q / 2).sqrt(), (v2 - v1).abs().sum() / (v1 + v2).sum())
            assert float(measures[k - 1, b]) == pytest.approx(float(expected), rel=1e-9)


def test_a_travelling_pattern_is_steady_to_some_and_moving_to_others() -> None:
    """A wave around a ring keeps energy, roughness and distribution, and never its place."""
    spec = LatticeSpec((16, 1, 1), radii=(0.5, 1.0, 1.5), boundary="periodic")
    ring = torch.sin(2 * math.pi / 16 * torch.arange(16, dtype=torch.float64))
    trajectory = torch.stack([ring.roll(k) for k in range(12)])[:, None, :, None]
    told = {
        type(criterion).__name__: bool(judge(criterion, trajectory)[1][-1])
        for criterion in (Absolute(), Relative(), Energy(), SpatialGradient(spec), Statistical())
    }
    assert told == {
        "Absolute": False, "Relative": False, "Energy": True, "SpatialGradient": True, "Statistical": True,
    }  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_rest_satisfies_and_steady_growth_does_not(name) -> None:
    rest = states(1).expand(8, 1, 12, 2)
    assert judge(CASES[name](), rest)[1][-1].all()
    assert judge(CASES[name](), torch.zeros_like(rest))[1][-1].all(), "nothing of nothing is nothing"
    growth = states(1) * 1.5 ** torch.arange(8, dtype=torch.float64)[:, None, None, None]
    assert not judge(CASES[name](), growth)[1].any()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("adaptive", [False, True])
def test_what_is_not_finite_never_settles(name, adaptive) -> None:
    trajectory = states(1).expand(12, 1, 12, 2).clone()
    trajectory[3] = torch.inf
    trajectory[4:6] = torch.nan
    trajectory[6:8] = torch.inf
    assert not judge(CASES[name](tolerance=0.5, adaptive=adaptive), trajectory)[1][2:8].any()


@pytest.mark.parametrize("name", ["absolute", "largest", "relative"])
def test_an_adaptive_tolerance_counts_in_the_sample_s_largest_change(name) -> None:
    target = states(1)
    path = target + 0.5 ** torch.arange(12, dtype=torch.float64)[:, None, None, None] * states(1, seed=1)
    measures, verdicts = judge(CASES[name](tolerance=0.1, adaptive=True), path)
    peaks = measures.cummax(dim=0).values
    assert torch.equal(verdicts, measures <= 0.1 * peaks)
    assert 0 < int(verdicts.sum()) < len(verdicts)
    louder = judge(CASES[name](tolerance=0.1, adaptive=True), 1024 * path)[1]
    assert torch.equal(louder, verdicts), "scale does not matter"


def test_a_fixed_tolerance_in_units_of_the_state_hangs_on_its_scale() -> None:
    path = states(1) + 0.5 ** torch.arange(12, dtype=torch.float64)[:, None, None, None]
    ends = [int(judge(Absolute(0.01), scale * path)[1].sum()) for scale in (1, 16)]
    assert ends[0] == ends[1] + 4, "four halvings for a factor of 16"


def test_combined_asks_for_as_many_as_it_says() -> None:
    trajectory = states(1) + 0.7 ** torch.arange(24, dtype=torch.float64)[:, None, None, None] * states(1, seed=1)
    trajectory = torch.cat([trajectory, 3 * trajectory], dim=1)
    parts = [CASES[name](tolerance=0.02) for name in ("absolute", "relative", "energy", "spatial_gradient")]
    votes = torch.stack([judge(part, trajectory)[1] for part in parts]).sum(dim=0)
    assert set(votes.flatten().tolist()) == {0, 1, 2, 3, 4}
    for at_least in (1, 2, 3, 4):
        assert torch.equal(judge(Combined(parts, at_least), trajectory)[1], votes >= at_least)
    nested = Combined([Combined(parts, 3), parts[0]], at_least=2)
    assert torch.equal(judge(nested, trajectory)[1], (votes >= 3) & judge(parts[0], trajectory)[1])


@given(st.sampled_from([*CASES, "combined"]), st.lists(st.integers(0, 4), min_size=1, max_size=6), st.booleans())
@settings(deadline=None, max_examples=40)
def test_a_sample_is_judged_by_itself(name, rows, adaptive) -> None:
    more = {"tolerance": 0.3, "adaptive": adaptive}
    criterion = Combined([make(**more) for make in CASES.values()]) if name == "combined" else CASES[name](**more)
    trajectory = states(9, 5).cumsum(dim=0)
    measures, verdicts = judge(criterion, trajectory)
    mine = judge(criterion, trajectory[:, rows])
    torch.testing.assert_close(mine[0], measures[:, rows], rtol=1e-13, atol=0, equal_nan=True)
    assert torch.equal(mine[1], verdicts[:, rows])


@pytest.mark.parametrize(
    ("make", "rule", "received", "remedy"),
    [
        (lambda: Relative(0.0), "tolerance must be above 0", "got 0.0", "0.01 is a start"),
        (lambda: Energy(1.0, adaptive=True), "below 1 where it is adaptive", "got 1.0", "0.01 is a start"),
        (lambda: Relative("small"), "tolerance must be a finite number", "'small'", "tolerance=0.1"),
        (lambda: Absolute(norm="mean"), "norm must be one of rms, max", "'mean'", "choose one"),
        (lambda: Statistical(window=5), "an even number of states, at least 4", "got 5", "8 is the default"),
        (lambda: SpatialGradient(LatticeSpec((1, 1, 1))), "need two cells or more", "(1, 1, 1)", "another criterion"),
        (lambda: Combined([Energy()]), "must agree of two or more", "at_least 2 of 1", "name more criteria"),
        (lambda: Combined([Energy(), Relative()], 3), "must agree of two or more", "3 of 2", "ask for fewer"),
    ],
)
def test_settings_out_of_range_are_refused(make, rule, received, remedy, refuses) -> None:
    with refuses(rule, received, remedy):
        make()
