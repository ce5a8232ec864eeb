"""Waves: dispersion, the energy that leapfrog conserves, damping, and a tight bound."""

import cmath
import math

import pytest
import torch
from torch import Tensor

from latticegnn.lattice import LatticeSpec, coordinates
from latticegnn.nn import Diffusion, Directional, Dynamics, Plain, Stochastic, Wave
from latticegnn.nn.exchange import largest_eigenvalue

OPEN = LatticeSpec((5, 3, 4))
TORUS = LatticeSpec((4, 6, 2), boundary="periodic")
MIXED = LatticeSpec((3, 4, 5), boundary=("periodic", "open", "periodic"), order="morton")
LATTICES = pytest.mark.parametrize("spec", [OPEN, TORUS, MIXED], ids=["open", "torus", "mixed"])


def still(x: Tensor) -> Tensor:
    """The cell that changes nothing: no force."""
    return x


def run(mode: Dynamics, x: Tensor, steps: int, previous: Tensor | None = None, cell=still) -> Tensor:
    memory = mode.start(x) if previous is None else (previous,)
    for at in range(steps):
        x, memory = mode(cell, x, memory, at)
    return x


def state(spec: LatticeSpec, batch: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, spec.num_nodes, 2, generator=generator, dtype=torch.float64)


def standing(spec: LatticeSpec, order: tuple[int, int, int]) -> tuple[Tensor, float]:
    """A cosine that an open lattice reflects into itself, and its eigenvalue."""
    sides = torch.tensor(spec.shape, dtype=torch.float64)
    wave = torch.cos(math.pi * torch.tensor(order, dtype=torch.float64) * (coordinates(spec) + 0.5) / sides).prod(1)
    value = sum(2 - 2 * math.cos(math.pi * k / n) for k, n in zip(order, spec.shape, strict=True))
    return wave.reshape(1, -1, 1), value


def jagged(spec: LatticeSpec) -> Tensor:
    """The most jagged eigenvector, by the power method on the Laplacian's matrix."""
    matrix = Wave(spec, 1e-3).laplacian(torch.eye(spec.num_nodes, dtype=torch.float64).unsqueeze(0))[0]
    return torch.linalg.eigh(matrix).eigenvectors[:, 0].reshape(1, -1, 1)


@pytest.mark.parametrize("order", ["raster", "morton"])
@pytest.mark.parametrize("waves", [(1, 0, 0), (0, 0, 2), (2, -1, 3), (4, 3, 0)])
def test_a_plane_wave_travels_at_the_discrete_phase_velocity(waves, order) -> None:
    """sin²(ω/2) = c² Σ sin²(θ/2): after k steps the phase is k·ω."""
    spec, speed = LatticeSpec((8, 6, 7), boundary="periodic", order=order), 0.5
    theta = 2 * math.pi * torch.tensor(waves, dtype=torch.float64) / torch.tensor(spec.shape)
    omega = 2 * math.asin(speed * float((theta / 2).sin().norm()))
    phase = (coordinates(spec) * theta).sum(1).reshape(1, -1, 1)
    for steps in (1, 10, 300):
        found = run(Wave(spec, speed), torch.cos(phase), steps, previous=torch.cos(phase + omega))
        torch.testing.assert_close(found, torch.cos(phase - steps * omega), rtol=0, atol=1e-11)


def test_long_waves_travel_c_cells_a_step() -> None:
    spec, speed = LatticeSpec((1, 1, 400), boundary="periodic"), 0.5
    bump = torch.exp(-((torch.arange(400, dtype=torch.float64) - 100) ** 2) / 800).reshape(1, -1, 1)
    moved = run(Wave(spec, speed), bump, 200, previous=torch.lerp(bump, bump.roll(-1, 1), speed))
    torch.testing.assert_close(moved, bump.roll(100, 1), rtol=0, atol=0.01)


@pytest.mark.parametrize("damping", [0.0, 0.1, 0.7, 1.0])
def test_a_standing_wave_decays_as_the_roots_say(damping) -> None:
    """z² − (2 − γ)(1 − c²μ/2) z + 1 − γ = 0; x_k = Re(A z₁ᵏ + B z₂ᵏ)."""
    speed, (wave, value) = 0.4, standing(OPEN, (2, 1, 3))
    half = (2 - damping) * (1 - speed**2 * value / 2) / 2
    root = cmath.sqrt(half**2 - (1 - damping))
    first, second = half + root, half - root
    # Amplitudes of a wave at rest: x₀ = x₋₁ = 1, where the second root is not 0.
    share = 1.0 if abs(second) < 1e-12 else (1 - 1 / second) / (1 / first - 1 / second)
    for steps in (1, 2, 9):
        factor = share * first**steps + (1 - share) * second**steps
        assert abs(factor.imag) < 1e-14
        found = run(Wave(OPEN, speed, damping), wave, steps)
        torch.testing.assert_close(found, factor.real * wave, rtol=0, atol=1e-13)


@LATTICES
def test_energy_is_conserved_without_damping(spec) -> None:
    mode, x = Wave(spec, 0.9 * Wave(spec, 0.1).bound), state(spec)
    memory = (x + 0.3 * state(spec, seed=1),)
    start = mode.energy(x, memory)
    assert start.shape == (3,)
    assert bool((start > 0).all())
    for at in range(1000):
        x, memory = mode(still, x, memory, at)
        assert float((mode.energy(x, memory) / start - 1).abs().max()) < 1e-12


@LATTICES
def test_damping_takes_the_energy_it_says(spec) -> None:
    damping = 0.2
    mode, x = Wave(spec, 0.95 * Wave(spec, 0.1).bound, damping), state(spec)
    memory = (state(spec, seed=1),)
    start = mode.energy(x, memory)
    for at in range(150):
        before, previous = mode.energy(x, memory), memory[0]
        x, memory = mode(still, x, memory, at)
        taken = damping / (2 * (2 - damping)) * (x - previous).square().sum((1, 2))
        torch.testing.assert_close(before - mode.energy(x, memory), taken, rtol=1e-9, atol=1e-9)
    assert bool((mode.energy(x, memory) < 1e-3 * start).all())


def test_energy_of_two_cells_by_hand() -> None:
    """½·(1² + 0²) + ½·c²·(x₀ − x₁)(p₀ − p₁) with x = (3, 1), p = (2, 1), c = ½."""
    x, previous = (torch.tensor(values, dtype=torch.float64).reshape(1, 2, 1) for values in ([3, 1], [2, 1]))
    assert Wave(LatticeSpec((1, 1, 2)), 0.5).energy(x, (previous,)).tolist() == [0.5 + 0.125 * 2 * 1]


@LATTICES
@pytest.mark.parametrize("damping", [0.0, 0.01])
def test_the_bound_is_tight(spec, damping) -> None:
    bound = Wave(spec, 0.1, damping).bound
    assert bound == pytest.approx(2 / math.sqrt(largest_eigenvalue(spec)))
    mode = Wave(spec, 0.999 * bound, damping)
    x = jagged(spec) + 0.01 * state(spec, 1)[..., :1]
    peaks = [float(run(mode, x, k).abs().max()) for k in (100, 1000, 2000)]
    assert max(peaks) < 30 * float(x.abs().max())  # at rest the jagged mode swings to 1 / cos(ω/2) = 22 times its start
    mode.speed = 1.001 * bound  # past the constructor's check
    assert run(mode, x, 2000).abs().max() > 1e9 * x.abs().max()


@LATTICES
def test_diffusion_shares_the_bound(spec) -> None:
    inner = Diffusion(spec, 0.5)
    mode = Wave(spec, 0.999 * Wave(spec, 0.1, 0.3, inner).bound, 0.3, inner)
    x = jagged(spec)
    assert run(mode, x, 2000).abs().max() < 10 * x.abs().max()
    mode.speed = 1.001 * mode.bound
    assert run(mode, x, 2000).abs().max() > 10 * x.abs().max()
    assert Diffusion(spec, 0.0, Wave(spec, mode.bound * (1 - 1e-12), 0.3)).bound == pytest.approx(0.5)


def test_the_cells_update_is_a_force() -> None:
    """Under a constant force and no waves a cell falls: x_k = f·k(k + 1)/2."""
    x = torch.zeros(1, 60, 2, dtype=torch.float64)
    found = run(Wave(OPEN, 0.3), x, 6, cell=lambda x: x + 0.5)
    torch.testing.assert_close(found, torch.full_like(x, 0.5 * 21))


def test_a_step_backwards_returns() -> None:
    """Leapfrog is reversible: with the two last states exchanged the wave runs back."""
    mode, x = Wave(MIXED, 0.4), state(MIXED)
    now, memory = x, mode.start(x)
    for at in range(50):
        now, memory = mode(still, now, memory, at)
    torch.testing.assert_close(run(mode, memory[0], 50, previous=now), x, rtol=0, atol=1e-11)


def test_refusals(refuses) -> None:
    cube = LatticeSpec((8, 8, 8), boundary="periodic")
    with refuses("below 0.57735 on this lattice", "got 0.578", "choose a speed within the bound"):
        Wave(cube, 0.578)
    with refuses("speed must be above 0", "got 0", "leave the mode out"):
        Wave(cube, 0.0)
    for wrong in (-0.1, 1.1):
        with refuses("0 to 1", f"got {wrong}", "0 keeps all of it"):
            Wave(cube, 0.3, wrong)
    refused = {
        "Directional transport": Directional(cube, (0, 0, 1), 0.1),
        "another Wave": Wave(cube, 0.1, 0.5),
        "Stochastic firing of a term": Diffusion(cube, 0.1, Stochastic(0.5, inner=Diffusion(cube, 0.1))),
    }
    for received, inner in refused.items():
        with refuses("forces that a second-order step keeps bounded", f"got {received} inside", "take it out"):
            Wave(cube, 0.1, inner=inner)
    with refuses("a state of first order in time", "Directional around a Wave", "take one of the two"):
        Directional(cube, (0, 0, 1), 0.1, Wave(cube, 0.3))
    with refuses("random firing pumps energy into waves", "Stochastic around a Wave", "put it inside"):
        Stochastic(0.5, inner=Diffusion(cube, 0.1, Wave(cube, 0.3)))
    mode, x = Wave(OPEN, 0.3, inner=Stochastic(0.5, inner=Plain())), state(OPEN)
    for memory, got in (((), "an empty memory"), ((x[:1],), "a memory of shape [1, 60, 2]")):
        with refuses("needs the state before it, of shape [3, 60, 2]", f"got {got}", "begin with mode.start(x)"):
            mode(still, x, memory, 0)
