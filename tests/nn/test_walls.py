"""Reflecting (Neumann) and absorbing (Dirichlet) walls in the propagation modes: known answers and tight bounds."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from latticegnn.lattice import LatticeSpec, coordinates
from latticegnn.nn import Diffusion, Directional, Dynamics, Wave
from latticegnn.nn.exchange import largest_eigenvalue, most_faces

NAMES = ("open", "periodic", "reflecting", "absorbing")
LATTICES = [
    LatticeSpec((4, 3, 5), boundary="reflecting"),
    LatticeSpec((4, 3, 5), boundary="absorbing", order="morton"),
    LatticeSpec((2, 4, 3), boundary=("absorbing", "periodic", "reflecting")),
    LatticeSpec((2, 5, 1), boundary=("reflecting", "absorbing", "absorbing")),
]
EVERY = pytest.mark.parametrize("spec", LATTICES, ids=str)


def still(x: Tensor) -> Tensor:
    """The cell that changes nothing."""
    return x


def run(mode: Dynamics, x: Tensor, steps: int, previous: Tensor | None = None) -> Tensor:
    memory = mode.start(x) if previous is None else (previous,)
    for at in range(steps):
        x, memory = mode(still, x, memory, at)
    return x


def state(spec: LatticeSpec) -> Tensor:
    return torch.randn(2, spec.num_nodes, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def matrix(spec: LatticeSpec) -> Tensor:
    """The Laplacian, negated."""
    return Wave(spec, 1e-3).laplacian(torch.eye(spec.num_nodes, dtype=torch.float64).unsqueeze(0))[0]


def jagged(spec: LatticeSpec) -> Tensor:
    return torch.linalg.eigh(matrix(spec)).eigenvectors[:, 0].reshape(1, -1, 1)


def sine(spec: LatticeSpec, order: tuple[int, int, int]) -> tuple[Tensor, float]:
    """A mode that vanishes one cell beyond every end, and its eigenvalue."""
    theta = [math.pi * k / (n + 1) for k, n in zip(order, spec.shape, strict=True)]
    wave = torch.sin((coordinates(spec) + 1) * torch.tensor(theta, dtype=torch.float64)).prod(1)
    return wave.reshape(1, -1, 1), sum(2 - 2 * math.cos(angle) for angle in theta)


@given(st.tuples(*[st.integers(1, 5)] * 3), st.tuples(*[st.sampled_from(NAMES)] * 3))
def test_the_laplacian_and_its_numbers_are_those_of_explicit_images(shape, boundary) -> None:
    spec = LatticeSpec(shape, boundary=boundary)
    cells = [tuple(place) for place in coordinates(spec).tolist()]
    expected = torch.zeros(spec.num_nodes, spec.num_nodes, dtype=torch.float64)
    for (i, at), axis in itertools.product(enumerate(cells), range(3)):
        length, found = shape[axis], {}
        for step in (-1, 1) if length > 1 else ():
            there = at[axis] + step
            if 0 <= there < length or boundary[axis] == "periodic":
                found[there % length] = 1.0
            elif boundary[axis] == "absorbing":
                expected[i, i] -= 1  # zero minus the state; an image minus itself is nothing
        for place, weight in found.items():
            expected[i, cells.index((*at[:axis], place, *at[axis + 1 :]))] += weight
            expected[i, i] -= weight
    found_matrix = Diffusion(spec, 0.0).laplacian(torch.eye(spec.num_nodes, dtype=torch.float64).unsqueeze(0))[0]
    assert torch.equal(found_matrix, expected)
    assert largest_eigenvalue(spec) == pytest.approx(float(torch.linalg.eigvalsh(-expected).max()), abs=1e-12)
    assert most_faces(spec) == int((-expected.diagonal()).max())


def test_heat_in_a_reflecting_box_keeps_its_sum_and_tends_to_the_mean() -> None:
    spec = LatticeSpec((4, 3, 5), boundary="reflecting")
    x = state(spec)
    moved = run(Diffusion(spec, 0.9), x, 400)
    torch.testing.assert_close(moved.sum(1), x.sum(1), rtol=0, atol=1e-11)
    torch.testing.assert_close(moved, x.mean(1, keepdim=True).expand_as(x), rtol=0, atol=1e-9)
    x = state(spec)
    assert torch.equal(run(Diffusion(spec, 0.7), x, 3), run(Diffusion(LatticeSpec((4, 3, 5)), 0.7), x, 3))


@pytest.mark.parametrize("order", [(1, 1, 1), (2, 1, 3), (4, 3, 5)])
def test_a_sine_in_an_absorbing_box_decays_by_its_exact_factor(order) -> None:
    spec, rate, steps = LatticeSpec((4, 3, 5), boundary="absorbing", order="morton"), 0.8, 12
    x, value = sine(spec, order)
    expected = (1 - rate / 6 * value) ** steps * x
    torch.testing.assert_close(run(Diffusion(spec, rate), x, steps), expected, rtol=0, atol=1e-13)


def test_a_standing_sine_in_an_absorbing_box_swings_at_its_exact_frequency() -> None:
    spec, speed = LatticeSpec((4, 3, 5), boundary="absorbing"), 0.5
    x, value = sine(spec, (2, 1, 1))
    omega = 2 * math.asin(speed * math.sqrt(value) / 2)
    found = run(Wave(spec, speed), x, 40, previous=math.cos(omega) * x)
    torch.testing.assert_close(found, math.cos(40 * omega) * x, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("boundary", "sign"), [("open", 1), ("reflecting", 1), ("absorbing", -1)])
def test_a_pulse_comes_back_upright_from_a_mirror_and_inverted_from_zeros(boundary, sign) -> None:
    """In one dimension at the speed 1 a pulse moves by one cell a step, without dispersion."""
    spec = LatticeSpec((1, 1, 40), boundary=boundary)
    mode = Wave(spec, 1.0)
    x = torch.zeros(1, 40, 1, dtype=torch.float64)
    x[0, 30:33, 0] = torch.tensor([1.0, 3.0, 2.0])
    moved = run(mode, x, 5, previous=x.roll(-1, 1))
    assert torch.equal(moved, x.roll(5, 1))
    back = run(mode, x, 20, previous=x.roll(-1, 1))
    # A mirror stands half a cell beyond the last cell, zero one cell beyond it.
    expected = torch.zeros_like(x)
    wall = 39.5 if boundary != "absorbing" else 40.0
    for place, height in ((30, 1.0), (31, 3.0), (32, 2.0)):
        expected[0, int(2 * wall - (place + 20)), 0] = sign * height
    assert torch.equal(back, expected)


@EVERY
def test_diffusion_bounds_are_tight(spec) -> None:
    mode = Diffusion(spec, 0.999 * Diffusion(spec, 0.0).bound)
    x = jagged(spec) + 0.1 * state(spec)[:1, :, :1]
    assert run(mode, x, 2000).abs().max() <= x.abs().max() * spec.num_nodes**0.5
    mode.rate = 1.001 * mode.bound
    assert run(mode, x, 2000).abs().max() > 10 * x.abs().max()


@EVERY
def test_wave_bounds_are_tight(spec) -> None:
    bound = Wave(spec, 0.1).bound
    assert bound == pytest.approx(2 / math.sqrt(largest_eigenvalue(spec)))
    x = jagged(spec)
    mode = Wave(spec, 0.999 * bound)
    assert run(mode, x, 3000).abs().max() < 40 * x.abs().max()
    mode.speed = 1.001 * bound
    assert run(mode, x, 3000).abs().max() > 1e6 * x.abs().max()


@EVERY
def test_leapfrog_keeps_its_energy(spec) -> None:
    mode, x = Wave(spec, 0.4), state(spec)
    memory = mode.start(x)
    first = mode.energy(*mode(still, x, memory, 0))
    for at in range(50):
        x, memory = mode(still, x, memory, at)
    torch.testing.assert_close(mode.energy(x, memory), first, rtol=1e-11, atol=0)


def test_transport_carries_zeros_in_from_an_absorbing_end_and_holds_a_reflecting_one() -> None:
    x = torch.arange(1.0, 7.0, dtype=torch.float64).reshape(1, 6, 1)
    for boundary, first in (("absorbing", 0.0), ("reflecting", 1.0), ("open", 1.0)):
        found = run(Directional(LatticeSpec((1, 1, 6), boundary=boundary), (0, 0, 1), 1.0), x, 2)
        assert found.flatten().tolist() == [first, first, 1.0, 2.0, 3.0, 4.0]


def test_the_shared_bound_holds_beside_absorbing_walls() -> None:
    spec = LatticeSpec((2, 4, 3), boundary="absorbing")
    inside = Directional(spec, (1, -1, 1), 0.2)
    mode = Diffusion(spec, Diffusion(spec, 0.0, inside).bound, inside)
    assert mode.rate + inside.linear.courant == pytest.approx(1)
    x = state(spec).sign()
    tops = [float(run(mode, x, k).abs().max()) for k in range(6)]
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(tops))


@EVERY
def test_gradients(spec) -> None:
    small = LatticeSpec((2, 1, 3), boundary=spec.boundary)
    mode = Diffusion(small, 0.2, Wave(small, 0.3, 0.1))
    x = state(small).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: run(mode, x, 3), (x,))
