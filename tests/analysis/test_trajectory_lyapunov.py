"""The largest Lyapunov exponent of maps whose exponent is known in closed form."""

import math

import pytest
import torch

from latticegnn.analysis import largest_lyapunov
from latticegnn.analysis.known_systems import logistic


def start(samples: int, cells: int = 1, channels: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return 0.1 + 0.8 * torch.rand(samples, cells, channels, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    ("r", "exponent", "tolerance"),
    [
        (2.5, math.log(0.5), 1e-3),  # |f'| = |2 − r| at the fixed point
        (3.2, 0.5 * math.log(4 + 2 * 3.2 - 3.2**2), 1e-3),  # f'·f' on the 2-cycle
        (4.0, math.log(2), 5e-3),
    ],
)
def test_logistic_map(r, exponent, tolerance):
    found = largest_lyapunov(logistic(r), start(4), steps=5000, transient=500)
    assert found.sub(exponent).abs().max() < tolerance


def test_tent_map():
    found = largest_lyapunov(lambda x: 1.9 * torch.minimum(x, 1 - x), start(4), steps=2000)
    assert found.sub(math.log(1.9)).abs().max() < 1e-4


def test_linear_map_has_the_log_of_its_spectral_radius():
    matrix = torch.tensor([[0.5, 1.0, 0.0], [-1.0, 0.5, 0.3], [0.0, 0.0, 0.7]], dtype=torch.float64)
    radius = math.log(float(torch.linalg.eigvals(matrix).abs().max()))
    found = largest_lyapunov(lambda x: x @ matrix.T, torch.zeros(1, 2, 3, dtype=torch.float64), 4000, transient=200)
    assert abs(float(found) - radius) < 1e-3


@pytest.mark.parametrize("every", [1, 10])
def test_rotation_keeps_distances(every):
    turn = torch.tensor([[0, -1.0], [1.0, 0]], dtype=torch.float64).mul(0.7).matrix_exp()
    found = largest_lyapunov(lambda x: x @ turn, start(3, 4, 2), 500, every=every)
    assert found.abs().max() < 1e-6


def test_a_constant_map_is_as_stable_as_can_be():
    assert largest_lyapunov(torch.zeros_like, start(2), 10, transient=0).tolist() == [-math.inf, -math.inf]


def test_each_sample_by_itself():
    state = start(3, 5)
    together = largest_lyapunov(logistic(3.9), state, 200)
    alone = [largest_lyapunov(logistic(3.9), state[i : i + 1], 200) for i in range(3)]
    assert torch.equal(together, torch.cat(alone))
    assert len(set(together.tolist())) == 3


def test_float32_and_a_given_size():
    found = largest_lyapunov(logistic(4.0), start(8).float(), 2000, size=1e-3)
    assert found.mean().sub(math.log(2)).abs() < 0.02


def test_mistakes_are_told(refuses):
    with refuses("multiples of every", "steps=10", "steps=1000"):
        largest_lyapunov(logistic(4.0), start(1), 10, every=3)
    with refuses("[B, N, F]", "torch.int64", ".double()"):
        largest_lyapunov(logistic(4.0), start(1).long())
    with refuses("stand out from rounding", "1e-18", "float64"):
        largest_lyapunov(logistic(4.0), start(1), size=1e-18)
    with refuses("keeps the state's shape", "(1, 2, 1)", "model.cell"):
        largest_lyapunov(lambda x: x.repeat(1, 2, 1), start(1))
    with refuses("must be finite", "sample 0", "steps before it"):
        largest_lyapunov(lambda x: 1e200 * x, start(1))
