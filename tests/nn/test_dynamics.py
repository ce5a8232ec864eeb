"""Plain, diffusive and directional steps against known answers, tight bounds, nesting, and what every mode shares."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from latticegnn.lattice import LatticeSpec, Ports, coordinates, hops, node_grid
from latticegnn.nn import Diffusion, Directional, Dynamics, LatticeCell, Plain, Stochastic, Synchronous, Wave
from latticegnn.nn.exchange import largest_eigenvalue, most_faces

RADII = (0.5, 1.0, 1.5)
OPEN = LatticeSpec((4, 3, 5), radii=RADII)
TORUS = LatticeSpec((4, 6, 2), radii=RADII, boundary="periodic")
MIXED = LatticeSpec((3, 4, 5), radii=RADII, boundary=("periodic", "open", "periodic"), order="morton")
LATTICES = pytest.mark.parametrize("spec", [OPEN, TORUS, MIXED], ids=["open", "torus", "mixed"])
FACES = [(axis, sign) for axis in range(3) for sign in (-1.0, 1.0)]


def still(x: Tensor) -> Tensor:
    """The cell that changes nothing."""
    return x


def run(mode: Dynamics, x: Tensor, steps: int, cell=still) -> Tensor:
    memory = mode.start(x)
    for at in range(steps):
        x, memory = mode(cell, x, memory, at)
    return x


def state(spec: LatticeSpec, batch: int = 2, channels: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, spec.num_nodes, channels, generator=generator, dtype=torch.float64)


def by_place(spec: LatticeSpec, values: Tensor) -> Tensor:
    """[X, Y, Z] -> a state [1, N, 1]."""
    x = torch.empty(1, spec.num_nodes, 1, dtype=torch.float64)
    x[0, node_grid(spec).flatten(), 0] = values.flatten().double()
    return x


def axis_modes(length: int, wraps: bool) -> tuple[Tensor, Tensor]:
    """Eigenvalues [n] and orthonormal eigenvectors [cell, n] of a path's or a cycle's Laplacian, in closed form."""
    k, i = torch.arange(length, dtype=torch.float64), torch.arange(length, dtype=torch.float64).unsqueeze(1)
    if not wraps or length <= 2:
        vectors = torch.cos(math.pi * k * (i + 0.5) / length)
        return 2 - 2 * torch.cos(math.pi * k / length), vectors / vectors.norm(dim=0)
    angle = 2 * math.pi * k / length
    vectors = torch.where(k <= length // 2, torch.cos(angle * i), torch.sin(angle * i))
    return 2 - 2 * torch.cos(angle), vectors / vectors.norm(dim=0)


def modes(spec: LatticeSpec) -> tuple[Tensor, Tensor]:
    """All eigenvalues [X, Y, Z], and the most jagged eigenvector as a state."""
    axes = [axis_modes(n, wraps) for n, wraps in zip(spec.shape, spec.periodic, strict=True)]
    x, y, z = (values for values, _ in axes)
    jagged = [vectors[:, values.argmax()] for values, vectors in axes]
    return x[:, None, None] + y[:, None] + z, by_place(spec, torch.einsum("x,y,z->xyz", *jagged))


def jagged(spec: LatticeSpec) -> Tensor:
    return modes(spec)[1]


@given(st.tuples(*[st.integers(1, 6)] * 3), st.tuples(*[st.sampled_from(["open", "periodic"])] * 3))
def test_the_largest_eigenvalue_is_that_of_the_lattice(shape, boundary) -> None:
    spec = LatticeSpec(shape, boundary=boundary)
    assert largest_eigenvalue(spec) == pytest.approx(float(modes(spec)[0].max()), abs=1e-12)
    matrix = Diffusion(spec, 0.0).laplacian(torch.eye(spec.num_nodes, dtype=torch.float64).unsqueeze(0))[0]
    assert torch.equal(matrix, matrix.T)
    assert float(torch.linalg.eigvalsh(-matrix).max()) == pytest.approx(largest_eigenvalue(spec), abs=1e-12)
    assert most_faces(spec) == int((-matrix.diagonal()).max())


class TestDiffusion:
    @LATTICES
    @pytest.mark.parametrize("steps", [1, 7, 60])
    def test_a_point_source_spreads_as_the_discrete_greens_function(self, spec, steps) -> None:
        """x_k = V (1 − D/q Λ)^k Vᵀ δ, by the eigenvectors of the three axes."""
        rate, source = 0.7, (1, 2, 0)
        axes = [axis_modes(n, wraps)[1] for n, wraps in zip(spec.shape, spec.periodic, strict=True)]
        for vectors in axes:
            torch.testing.assert_close(vectors.T @ vectors, torch.eye(len(vectors), dtype=torch.float64))
        factor = (1 - rate / most_faces(spec) * modes(spec)[0]) ** steps
        there = [vectors[place] for vectors, place in zip(axes, source, strict=True)]
        expected = torch.einsum("xi,yj,zk,i,j,k,ijk->xyz", *axes, *there, factor)
        point = torch.zeros(spec.shape)
        point[source] = 1
        found = run(Diffusion(spec, rate), by_place(spec, point), steps)
        torch.testing.assert_close(found, by_place(spec, expected), rtol=0, atol=1e-12)

    @LATTICES
    def test_the_sum_over_cells_is_conserved(self, spec) -> None:
        x = state(spec)
        moved = run(Diffusion(spec, 0.9), x, 200)
        torch.testing.assert_close(moved.sum(1), x.sum(1), rtol=0, atol=1e-12)
        assert float(moved.std(1).max()) < float(x.std(1).min()) / 5

    def test_inside_it_adds_the_mean_of_the_face_neighbours_minus_the_state(self) -> None:
        spec = LatticeSpec((3, 3, 3))
        x, grid = state(spec, 1, 1), node_grid(spec)
        around = grid[[0, 2, 1, 1, 1, 1], [1, 1, 0, 2, 1, 1], [1, 1, 1, 1, 0, 2]]
        centre = int(grid[1, 1, 1])
        expected = x[0, centre] + 0.4 * (x[0, around].mean(0) - x[0, centre])
        torch.testing.assert_close(run(Diffusion(spec, 0.4), x, 1)[0, centre], expected)

    @LATTICES
    def test_the_bound_is_tight(self, spec) -> None:
        mode = Diffusion(spec, 0.999 * Diffusion(spec, 0.0).bound)
        x = jagged(spec) + 0.1 * state(spec, 1, 1)
        assert run(mode, x, 2000).abs().max() <= x.abs().max() * spec.num_nodes**0.5
        mode.rate = 1.001 * mode.bound  # past the constructor's check
        assert run(mode, x, 2000).abs().max() > 10 * x.abs().max()

    def test_bounds_known_by_hand(self) -> None:
        assert Diffusion(LatticeSpec((8, 8, 8), boundary="periodic"), 1.0).bound == 1.0
        eight = Diffusion(LatticeSpec((8, 8, 8)), 1.0).bound
        assert eight == pytest.approx(2 / (1 + math.cos(math.pi / 8)))
        assert Diffusion(LatticeSpec((1, 1, 1)), 5.0).bound == math.inf

    def test_refusals(self, refuses) -> None:
        with refuses("at least 0 and at most 1 on this lattice", "got 1.01", "choose a rate within the bound"):
            Diffusion(LatticeSpec((8, 8, 8), boundary="periodic"), 1.01)
        with refuses("at least 0", "got -0.1", "choose a rate"):
            Diffusion(OPEN, -0.1)
        for wrong in (math.nan, "fast", True):
            with refuses("rate must be a finite number", f"got {wrong!r}", "write rate=0.1"):
                Diffusion(OPEN, wrong)


class TestDirectional:
    @pytest.mark.parametrize(("axis", "sign"), FACES)
    def test_at_full_speed_a_pulse_moves_one_cell_a_step(self, axis, sign) -> None:
        spec = LatticeSpec((5, 4, 2), boundary="periodic")
        way = tuple(sign * (axis == other) for other in range(3))
        pulse = torch.zeros(spec.shape)
        pulse[2, 1, 1] = 1
        found = run(Directional(spec, way, 1.0), by_place(spec, pulse), 3)
        assert torch.equal(found, by_place(spec, pulse.roll(int(3 * sign), axis)))

    @pytest.mark.parametrize("boundary", ["open", "periodic"])
    def test_a_pulse_spreads_as_a_binomial(self, boundary) -> None:
        """A cell's value moves on with probability s: after k steps it has moved Binomial(k, s) cells."""
        spec, speed, steps = LatticeSpec((1, 1, 40), boundary=boundary), 0.3, 20
        pulse = torch.zeros(spec.shape)
        pulse[0, 0, 10] = 1
        found = run(Directional(spec, (0, 0, 2), speed), by_place(spec, pulse), steps)[0, :, 0]
        chance = [math.comb(steps, j) * speed**j * (1 - speed) ** (steps - j) for j in range(steps + 1)]
        expected = torch.zeros(40, dtype=torch.float64)
        expected[10:31] = torch.tensor(chance, dtype=torch.float64)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)

    def test_along_a_diagonal_the_centre_moves_at_the_stated_speed(self) -> None:
        spec = LatticeSpec((13, 13, 13), order="morton")
        pulse = torch.zeros(spec.shape)
        pulse[3, 8, 5] = 1
        mode = Directional(spec, (2, -1, 2), 0.5)
        assert mode.axis == pytest.approx((2 / 3, -1 / 3, 2 / 3))
        found = run(mode, by_place(spec, pulse), 6)[0, :, 0]
        moved = (found.unsqueeze(1) * coordinates(spec)).sum(0) - torch.tensor([3, 8, 5])
        assert float(found.sum()) == pytest.approx(1)
        assert moved.tolist() == pytest.approx([6 * 0.5 * part for part in mode.axis], abs=1e-12)

    def test_a_signal_on_an_open_input_face_is_carried_in(self) -> None:
        spec = LatticeSpec((2, 2, 6))
        mode = Directional.between(spec, Ports(face="z-"), Ports(face="z+"), 1.0)
        assert mode.axis == (0, 0, 1)
        held = torch.zeros(spec.shape)
        held[..., 0] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        x = by_place(spec, held)
        for steps in (3, 5, 9):
            reached = held[..., :1] * (torch.arange(6) <= steps)
            assert torch.equal(run(mode, x, steps), by_place(spec, reached))

    def test_the_bound_is_tight_on_a_torus(self) -> None:
        spec = LatticeSpec((4, 6, 1), boundary="periodic")
        mode = Directional(spec, (1, -2, 0), 0.999 * math.sqrt(5) / 3)
        assert mode.bound == pytest.approx(math.sqrt(5) / 3)
        x = jagged(spec) + 0.1 * state(spec, 1, 1)
        assert run(mode, x, 2000).abs().max() <= x.abs().max()
        mode.strength = 1.001 * mode.bound
        assert run(mode, x, 2000).abs().max() > 10 * x.abs().max()

    def test_on_an_open_lattice_a_maximum_grows_beyond_the_bound_for_a_while(self) -> None:
        spec = LatticeSpec((1, 1, 30))
        mode, x = Directional(spec, (0, 0, 1), 1.0), jagged(LatticeSpec((1, 1, 30), boundary="periodic"))
        peaks = []
        for mode.strength in (1.0, 1.1):
            peaks.append([float(run(mode, x, k).abs().max() / x.abs().max()) for k in range(0, 201, 20)])
        assert max(peaks[0]) <= 1
        assert max(peaks[1]) > 20
        assert peaks[1][-1] < 2

    def test_periodic_ports_are_joined_the_short_way(self) -> None:
        spec = LatticeSpec((3, 3, 6), boundary=("open", "open", "periodic"))
        mode = Directional.between(spec, Ports(face="z-"), Ports(face="z+"), 0.5)
        assert mode.axis == (0, 0, -1)

    def test_refusals(self, refuses) -> None:
        with refuses("at most 0.57735 on this lattice", "got 0.6", "choose a strength within the bound"):
            Directional(OPEN, (1, 1, 1), 0.6)
        for wrong in ((0, 0, 0), (1, 2), "z+"):
            with refuses("three numbers x, y and z", f"got {wrong!r}", "write (0, 0, 1)"):
                Directional(OPEN, wrong, 0.5)
        with refuses("a side of at least 2 cells", "got (0.0, 0.0, 1.0) in the shape (4, 4, 1)", "turn it"):
            Directional(LatticeSpec((4, 4, 1)), (0, 0, 3), 0.5)
        with refuses("must lie apart", "the faces z- and z-", "name the axis itself"):
            Directional.between(OPEN, Ports(face="z-"), Ports(face="z-"), 0.5)


class Tanh(torch.nn.Module):
    """A cell of its own kind: no neighbours, a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight * torch.tanh(x)


def stacks(spec: LatticeSpec) -> dict[str, Dynamics]:
    return {
        "plain": Plain(),
        "diffusion": Diffusion(spec, 0.3),
        "wave": Wave(spec, 0.3, 0.1),
        "directional": Directional(spec, (1, 0, -2), 0.3),
        "synchronous": Synchronous(Diffusion(spec, 0.3)),
        "stochastic": Stochastic(0.6, seed=3, inner=Directional(spec, (0, 1, 1), 0.3, Diffusion(spec, 0.2))),
        "waves and more": Diffusion(spec, 0.2, Wave(spec, 0.3, 0.2, Stochastic(0.5))),
    }


EVERY = pytest.mark.parametrize("name", list(stacks(OPEN)))


class TestEveryMode:
    @EVERY
    def test_a_batch_equals_its_samples(self, name) -> None:
        mode, x = stacks(MIXED)[name], state(MIXED, batch=3)
        torch.manual_seed(0)
        cell = LatticeCell(MIXED, 2, 4).double()
        with torch.no_grad():
            singles = torch.cat([run(mode, one.unsqueeze(0), 5, cell) for one in x])
            torch.testing.assert_close(run(mode, x, 5, cell), singles, rtol=1e-12, atol=1e-12)

    @EVERY
    def test_gradients(self, name) -> None:
        spec = LatticeSpec((2, 1, 3), radii=RADII)
        mode = stacks(spec)[name]
        torch.manual_seed(0)
        cell, x = LatticeCell(spec, 2, 3).double(), state(spec).requires_grad_()
        assert torch.autograd.gradcheck(lambda x: run(mode, x, 2, cell), (x,))
        memory = tuple(state(spec, seed=1).requires_grad_() for _ in mode.start(x))
        assert torch.autograd.gradcheck(lambda x, *memory: mode(cell, x, memory, 4)[0], (x, *memory))

    @EVERY
    def test_a_checkpointed_rollout_has_the_same_gradient(self, name) -> None:
        mode, cell = stacks(OPEN)[name], Tanh()
        gradients = []
        for step in (mode, lambda *given: checkpoint(mode, *given, use_reentrant=False)):
            x = state(OPEN).requires_grad_()
            now, memory = x, mode.start(x)
            for at in range(4):
                now, memory = step(cell, now, memory, at)
            gradients.append(torch.autograd.grad(now.square().sum(), (x, cell.weight)))
        for one, other in zip(*gradients, strict=True):
            assert torch.equal(one, other)
            assert bool(one.any())

    @EVERY
    def test_nothing_is_kept_and_no_global_generator_is_drawn_from(self, name) -> None:
        mode, x = stacks(OPEN)[name], state(OPEN)
        before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
        first = run(mode, x, 3)
        assert torch.equal(run(mode, x, 3), first)
        assert torch.equal(torch.get_rng_state(), before)
        assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002
        assert not mode.state_dict()

    @EVERY
    def test_a_step_reaches_face_neighbours_at_most(self, name) -> None:
        spec = LatticeSpec((3, 4, 5), radii=(0.3, 0.6, 1.0), boundary=("periodic", "open", "open"))
        mode, x = stacks(spec)[name], state(spec)
        distance = hops(spec, torch.tensor([17]))
        poked = x.clone()
        poked[:, 17] += 1
        for steps in (1, 2, 3):
            moved = (run(mode, x, steps) - run(mode, poked, steps)).abs().amax((0, 2))
            assert not moved[distance > steps].any()
            assert moved.any()

    def test_the_order_of_nesting_does_not_matter(self) -> None:
        x, axis = state(OPEN), (0, 1, 2)
        pairs = [
            (Diffusion(OPEN, 0.3, Directional(OPEN, axis, 0.4)), Directional(OPEN, axis, 0.4, Diffusion(OPEN, 0.3))),
            (Diffusion(OPEN, 0.3, Wave(OPEN, 0.3, 0.2)), Wave(OPEN, 0.3, 0.2, Diffusion(OPEN, 0.3))),
        ]
        for one, other in pairs:
            torch.testing.assert_close(run(one, x, 6, Tanh()), run(other, x, 6, Tanh()), rtol=1e-12, atol=1e-12)
        twice = Diffusion(OPEN, 0.3, Diffusion(OPEN, 0.2))
        torch.testing.assert_close(run(twice, x, 6), run(Diffusion(OPEN, 0.5), x, 6), rtol=1e-12, atol=1e-12)

    @LATTICES
    def test_bounds_are_shared(self, spec, refuses) -> None:
        """At the shared bound of diffusion and transport no maximum grows; diffusions add up to their own."""
        inside = Directional(spec, (1, -1, 1), 0.2)
        mode = Diffusion(spec, Diffusion(spec, 0.0, inside).bound, inside)
        assert mode.rate + inside.linear.courant == pytest.approx(1)
        x = state(spec, channels=30).sign()
        tops = [float(run(mode, x, k).abs().max()) for k in range(6)]
        assert all(later <= earlier + 1e-12 for earlier, later in pairwise(tops))
        with refuses("beside the modes inside", "got 0.9", "choose a rate within the bound"):
            Diffusion(spec, 0.9, inside)
        for around in (inside, Diffusion(spec, 0.4, inside), Diffusion(spec, 0.4)):
            left = 1 - 0.2 * math.sqrt(3) * (around is inside or around.inner is inside) - 0.4 * (around is not inside)
            assert Directional(spec, (1, 1, 1), 0.0, around).bound == pytest.approx(left / math.sqrt(3))
            twice = Directional(spec, (1, 1, 1), 0.05, around)
            assert Diffusion(spec, 0.0, twice).bound == pytest.approx(left - 0.05 * math.sqrt(3))

    @LATTICES
    def test_diffusions_add_up(self, spec) -> None:
        for bare in (Plain(), Wave(spec, 0.3, 0.2)):
            alone = Diffusion(spec, 0.0, bare).bound
            assert Diffusion(spec, 0.0, Diffusion(spec, 0.4, bare)).bound == pytest.approx(alone - 0.4)
        inside = Wave(spec, 0.3, 0.2, Diffusion(spec, 0.4))
        assert Diffusion(spec, 0.0, inside).bound == pytest.approx(alone - 0.4)

    def test_refusals(self, refuses) -> None:
        with refuses("a mode wraps another mode", "got Tanh as inner", "wrap Plain()"):
            Diffusion(OPEN, 0.1, Tanh())
        with refuses("nested modes share one lattice", "shape=(4, 6, 2)", "the same LatticeSpec"):
            Diffusion(OPEN, 0.1, Synchronous(Wave(TORUS, 0.1)))
        with refuses("with N = 60", "got [2, 48, 2]", "pass a batch of states"):
            run(Diffusion(OPEN, 0.1), state(TORUS), 1)
        with refuses("must return the state's shape", "got [2, 60, 1] for [2, 60, 2]", "output width to F"):
            run(Plain(), state(OPEN), 1, lambda x: x[..., :1])
