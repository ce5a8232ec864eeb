"""Classes in time and in space: known systems, each rule at its limit, and samples that do not see each other."""

import math

import pytest
import torch
from torch import Tensor

from latticegnn import LatticeSpec
from latticegnn.analysis import (
    SpaceRules,
    TimeClass,
    TimeRules,
    classify_space,
    classify_time,
    confusion,
    known_runs,
    largest_lyapunov,
)
from latticegnn.analysis.known_fields import LARGE, TORUS, gray_scott, heat, laplacian
from latticegnn.analysis.known_systems import coupled_logistic, game_of_life, logistic, rollout, translation
from latticegnn.lattice import coordinates

SQUARE = LatticeSpec(shape=(16, 16, 1), boundary="periodic")


def noise(spec: LatticeSpec, samples: int = 1, channels: int = 1, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(samples, spec.num_nodes, channels, generator=generator, dtype=torch.float64)


def share_right(seeds: range, slow: bool) -> tuple[float, float, int]:
    time, space, wrong = confusion(run for seed in seeds for run in known_runs(seed, slow))
    right = [sum(n for (known, told), n in counts.items() if known == told) for counts in (time, space)]
    return right[0] / sum(time.values()), right[1] / sum(space.values()), len(wrong)


def test_known_systems_are_told_right():
    time, space, wrong = share_right(range(1000, 1002), slow=False)
    assert time >= 0.95, wrong
    assert space >= 0.95, wrong


@pytest.mark.slow
def test_known_systems_are_told_right_over_many_runs():
    time, space, wrong = share_right(range(2000, 2005), slow=True)
    assert time >= 0.95, wrong
    assert space >= 0.95, wrong


def test_the_steps_are_those_of_the_literature():
    """Gray-Scott's homogeneous rest, heat's decay of a mode, and a blinker are known in closed form."""
    rest = torch.tensor([1.0, 0.0], dtype=torch.float64).expand(1, LARGE.num_nodes, 2)
    torch.testing.assert_close(gray_scott(LARGE, 0.03, 0.06)(rest), rest)
    mode = torch.arange(16.0, dtype=torch.float64).mul(2 * math.pi / 16).cos()[:, None].expand(16, 16).reshape(1, -1, 1)
    decay = 1 - 0.1 * (2 - 2 * math.cos(2 * math.pi / 16))
    torch.testing.assert_close(heat(SQUARE, 0.1)(mode), decay * mode)
    board = torch.zeros(16, 16, dtype=torch.float64)
    board[4, 3:6] = 1
    flipped = torch.zeros(16, 16, dtype=torch.float64)
    flipped[3:6, 4] = 1
    assert torch.equal(game_of_life(SQUARE)(board.reshape(1, -1, 1)), flipped.reshape(1, -1, 1))
    open_line = LatticeSpec(shape=(3, 1, 1))
    line = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).reshape(1, 3, 1)
    assert laplacian(open_line)(line).flatten().tolist() == [-1, 1, 0]  # nothing leaves the ends


@pytest.mark.parametrize("shift", [(1, 0, 0), (-3, 2, 0), (0, 0, 2)])
def test_a_translation_is_a_drift_by_its_shift(shift):
    spec = LatticeSpec(shape=(9, 8, 5), boundary="periodic", order="raster")
    states = rollout(translation(spec, shift), noise(spec, channels=2), 128)
    assert classify_time(states, spec) == [TimeClass("drift", 1, shift)]


def test_a_drift_in_morton_order_and_along_one_periodic_axis():
    ring = LatticeSpec(shape=(3, 16, 4), boundary=("open", "periodic", "open"))
    states = rollout(translation(ring, (0, 2, 0)), noise(ring), 64)
    assert classify_time(states, ring) == [TimeClass("drift", 1, (0, 2, 0))]
    morton = LatticeSpec(shape=(3, 16, 4), boundary=("open", "periodic", "open"), order="morton")
    raster = coordinates(morton) @ torch.tensor([64, 4, 1])
    assert classify_time(states[:, :, raster], morton) == [TimeClass("drift", 1, (0, 2, 0))]


def test_a_flipping_checkerboard_has_no_direction():
    board = torch.tensor([[float((x + y) % 2) for y in range(16)] for x in range(16)]).reshape(1, -1, 1)
    states = rollout(lambda x: 1 - x, board, 64)
    assert classify_time(states, SQUARE) == [TimeClass("cycle", 2)]


@pytest.mark.parametrize("period", [2, 3, 7, 16, 31])
def test_cycles_have_their_period(period):
    states = noise(SQUARE, period).repeat(20, 1, 1)[:256, None]
    assert classify_time(states, SQUARE) == [TimeClass("cycle", period)]


def test_slow_and_far_decays_are_fixed_points_and_steady_motions_are_not():
    steps = torch.arange(257, dtype=torch.float64)[:, None, None, None]
    start = noise(SQUARE)
    assert classify_time(start * 0.98**steps, SQUARE)[0].name == "fixed point"
    assert classify_time(0.3 + start * (-0.95) ** steps, SQUARE)[0].name == "fixed point"
    assert classify_time(torch.zeros(40, 1, 256, 1), SQUARE)[0].name == "fixed point"
    assert classify_time(1 + start * 1e-3 * steps, SQUARE)[0].name == "drift"
    assert classify_time(start * (steps / 70).floor(), SQUARE)[0].name == "drift"  # rests, mostly, and never comes back
    for rate in (1.01, -1.1, 2.0, 10.0):
        assert classify_time(start * rate**steps, SQUARE)[0].name == "drift"


def test_the_exponent_decides_where_it_is_given():
    step = coupled_logistic(SQUARE, 1.95, 0.1)
    states = rollout(step, 2 * noise(SQUARE) - 1, 256, skip=500)
    exponent = largest_lyapunov(step, states[-1], 300)
    assert classify_time(states, SQUARE, exponent)[0].name == "chaotic"
    assert classify_time(states, SQUARE, torch.zeros(1))[0].name == "quasi-periodic"


def test_samples_do_not_see_each_other():
    rates = torch.tensor([2.5, 3.2, 3.5, 3.9], dtype=torch.float64)[:, None, None]
    states = rollout(lambda x: rates * x * (1 - x), 0.1 + 0.8 * noise(SQUARE, 4), 256, skip=1000)
    together = classify_time(states, SQUARE)
    assert [(c.name, c.period) for c in together] == [
        ("fixed point", None), ("cycle", 2), ("cycle", 4), ("chaotic", None),
    ]  # fmt: skip
    spaces = classify_space(states, SQUARE)
    assert [c.name for c in spaces] == ["uniform", "disordered", "disordered", "disordered"]
    for sample in range(4):
        alone = states[:, sample : sample + 1]
        assert classify_time(alone, SQUARE) == [together[sample]]
        assert str(classify_space(alone, SQUARE)) == str([spaces[sample]])  # NaN equals NaN as text


def test_float32_tells_the_same():
    states = rollout(logistic(3.5), 0.1 + 0.8 * noise(SQUARE).float(), 256, skip=1000)
    assert classify_time(states, SQUARE) == [TimeClass("cycle", 4)]


@pytest.mark.parametrize("length", [8, 16, 32])
def test_a_travelling_wave_is_a_wave_and_a_standing_one_is_not(length):
    spec = LatticeSpec(shape=(32, 4, 1), boundary="periodic")
    phase = (2 * math.pi / length * torch.arange(32.0)).repeat_interleave(4)
    time = 0.37 * torch.arange(256.0)[:, None]
    travelling, standing = (phase - time).cos(), phase.cos() * time.cos()
    found = classify_space(torch.stack([travelling, standing], dim=1)[..., None], spec)
    assert [c.name for c in found] == ["wave", "clustered"]
    assert math.isclose(found[0].lag, math.sin(2 * math.pi / length), rel_tol=1e-3)
    assert found[1].lag < 1e-3


def test_a_spiral_has_one_core_and_needs_its_amplitude():
    spec = LatticeSpec(shape=(21, 21, 1))
    x, y = torch.meshgrid(torch.arange(21.0) - 10.4, torch.arange(21.0) - 9.7, indexing="ij")
    radius, angle = (x**2 + y**2).sqrt(), torch.atan2(y, x)
    time = 0.5 * torch.arange(200.0)[:, None, None]
    arms = (angle + 0.5 * radius - time).cos()
    fading = (-radius / 2).exp() * arms
    found = classify_space(torch.stack([arms, fading], dim=1).reshape(200, 2, -1, 1), spec)
    assert found[0].name == "spiral"
    assert found[0].cores == 1
    assert found[1].name != "spiral"


def test_thresholds_are_settings():
    states = rollout(logistic(3.2), 0.1 + 0.8 * noise(SQUARE), 64, skip=500)
    assert classify_space(states, SQUARE, SpaceRules(uniform=0.9))[0].name == "uniform"
    assert classify_time(states, SQUARE, rules=TimeRules(remaining=1e9, still=10.0))[0].name == "fixed point"
    near = rollout(logistic(3.452), 0.1 + 0.8 * noise(SQUARE), 256, skip=5000)
    assert classify_time(near, SQUARE)[0].period == 4
    assert classify_time(near, SQUARE, rules=TimeRules(recurrence=0.2))[0].period == 2


def test_mistakes_are_told(refuses):
    states = noise(SQUARE, 40)[:, None]
    with refuses("from 32", "8", "window=256"):
        TimeRules(window=8)
    with refuses("from 16", "8.0", "window=256"):
        SpaceRules(window=8.0)
    with refuses("growth is a finite number above 0", "nan", "0.5"):
        TimeRules(growth=math.nan)
    with refuses("moran is a finite number above 0", "-1", "0.3"):
        SpaceRules(moran=-1)
    with refuses("at least 32 states", "20", "Roll out further"):
        classify_time(states[:20], SQUARE)
    with refuses("at least 16 states", "10", "Roll out further"):
        classify_space(states[:10], SQUARE)
    with refuses("one number a sample, [1]", "[0.0, 0.0]", "largest_lyapunov"):
        classify_time(states, SQUARE, torch.zeros(2))
    with refuses("counts the cells", "256", "Give the spec"):
        classify_time(states, TORUS)
