"""Random firing: who fires, repeatable draws, and bounds that hold whoever fires."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from latticegnn.lattice import LatticeSpec
from latticegnn.nn import Diffusion, Directional, Dynamics, Plain, Stochastic, Synchronous

SPEC = LatticeSpec((6, 4, 5))


def grow(x: Tensor) -> Tensor:
    return x + 1


def run(mode: Dynamics, x: Tensor, steps: int, cell=grow, first: int = 0) -> Tensor:
    memory = mode.start(x)
    for at in range(first, first + steps):
        x, memory = mode(cell, x, memory, at)
    return x


def state(batch: int = 3) -> Tensor:
    return torch.randn(batch, 120, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_cells_fire_at_their_probability_independently() -> None:
    """Counts of 120 cells in 500 steps, within five standard errors; neighbours in space and time uncorrelated."""
    mode = Stochastic(0.3, seed=1)
    fired = torch.stack([mode.fires(120, at) for at in range(500)]).double()
    error = math.sqrt(0.3 * 0.7)
    assert abs(float(fired.mean()) - 0.3) < 5 * error / math.sqrt(fired.numel())
    assert float((fired.mean(0) - 0.3).abs().max()) < 5 * error / math.sqrt(500)
    centred = fired - 0.3
    for pairs in (centred[1:] * centred[:-1], centred[:, 1:] * centred[:, :-1]):
        assert abs(float(pairs.mean())) < 5 * 0.21 / math.sqrt(pairs.numel())


def test_who_does_not_fire_keeps_its_state() -> None:
    mode, x = Stochastic(0.4, seed=2), state()
    found, fires = run(mode, x, 1, first=7), mode.fires(120, 7)
    assert torch.equal(found[:, fires], x[:, fires] + 1)
    assert torch.equal(found[:, ~fires], x[:, ~fires])
    assert 0 < int(fires.sum()) < 120


def test_draws_depend_on_seed_and_step_alone() -> None:
    mode, x = Stochastic(0.5, seed=4), state()
    whole = run(mode, x, 8)
    assert torch.equal(run(mode, run(mode, x, 3), 5, first=3), whole)
    assert torch.equal(run(Stochastic(0.5, seed=4), x[1:2], 8), whole[1:2])
    assert not torch.equal(run(mode, x, 8, first=8), whole)
    assert not torch.equal(run(Stochastic(0.5, seed=5), x, 8), whole)


def test_the_draws_are_philoxs() -> None:
    """The published test vector of Philox4x64-10 with key and counter 0, so that no release may change a rollout."""
    words = np.random.Philox(key=0, counter=[2**64 - 1] * 4).random_raw(1)
    assert hex(int(words[0])) == "0x16554d9eca36314c"
    expected = np.random.Generator(np.random.Philox(key=9, counter=[0, 3, 0, 0])).random(120) < 0.5
    assert Stochastic(0.5, seed=9).fires(120, 3).tolist() == expected.tolist()


def test_at_probability_one_it_is_synchronous() -> None:
    inner, x = Diffusion(SPEC, 0.4), state()
    for mode in (Stochastic(1.0, inner=inner), Synchronous(inner)):
        assert torch.equal(run(mode, x, 5), run(inner, x, 5))
    assert torch.equal(run(Synchronous(), x, 2), run(Plain(), x, 2))


def test_only_what_is_inside_fires() -> None:
    """Around the firing cell, diffusion acts on every cell."""
    x, firing = state(), Stochastic(0.5, seed=3)
    fires = firing.fires(120, 0).unsqueeze(1)
    spread = Diffusion(SPEC, 0.4)(lambda x: x, x, (), 0)[0]
    torch.testing.assert_close(run(Diffusion(SPEC, 0.4, firing), x, 1), spread + fires)
    torch.testing.assert_close(run(Stochastic(0.5, 3, Diffusion(SPEC, 0.4)), x, 1), torch.where(fires, spread + 1, x))


@pytest.mark.parametrize("probability", [0.2, 0.8])
def test_bounds_hold_whoever_fires(probability) -> None:
    """Transport never raises a maximum; diffusion at its bound never raises the Dirichlet energy."""
    x = state(1)
    diffusion = Diffusion(SPEC, Diffusion(SPEC, 0.0).bound)
    transport = Directional(SPEC, (1, 2, -1), 0.6)
    fired = [Stochastic(probability, inner=inner) for inner in (diffusion, transport)]
    measures = [lambda x: -(x * diffusion.laplacian(x)).sum(), lambda x: x.abs().max()]
    for mode, measure in zip(fired, measures, strict=True):
        values, now = [float(measure(x))], x
        for at in range(300):
            now = mode(lambda x: x, now, (), at)[0]
            values.append(float(measure(now)))
        assert all(later <= earlier * (1 + 1e-12) for earlier, later in pairwise(values))
        assert values[-1] < values[0]


def test_refusals(refuses) -> None:
    for wrong in (0.0, 1.5):
        with refuses("above 0 and not above 1", f"got {wrong}", "0.5 is the usual choice"):
            Stochastic(wrong)
    for wrong in (-1, 0.5, True, 2**64):
        with refuses("seed must be a whole number, at least 0", f"got {wrong!r}", "write seed=0"):
            Stochastic(0.5, wrong)
    with refuses("at must be a whole number", "got -1", "count the steps from 0"):
        Stochastic(0.5).fires(3, -1)
