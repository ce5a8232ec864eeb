"""Constraints: bounds and walls hold after every step, have the last word, and let through only what they should."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import latticegnn as lg
from latticegnn.lattice import hops, node_grid
from latticegnn.nn import Bounded, Diffusion, Dynamics, Stochastic, Wall, Wave, build_modes

SPEC = lg.LatticeSpec((4, 3, 5), radii=(0.5, 1.0, 1.5))
PORTS = (lg.Ports(face="z-"), lg.Ports(face="z+"))


def state(spec: lg.LatticeSpec = SPEC, size: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return size * torch.randn(2, spec.num_nodes, 3, generator=generator, dtype=torch.float64)


def run(mode: Dynamics, x: Tensor, steps: int, cell=lambda x: x) -> list[Tensor]:
    memory, states = mode.start(x), [x]
    for at in range(steps):
        x, memory = mode(cell, x, memory, at)
        states.append(x)
    return states


def test_a_bound_cuts_and_nothing_else() -> None:
    x = state(size=3)
    first, second = run(Bounded(2.0), x, 2, lambda x: 1.5 * x)[1:]
    torch.testing.assert_close(first, torch.minimum(torch.maximum(1.5 * x, x.new_tensor(-2)), x.new_tensor(2)))
    assert float(second.abs().max()) == 2.0
    torch.testing.assert_close(run(Bounded(100.0, Diffusion(SPEC, 0.3)), x, 4), run(Diffusion(SPEC, 0.3), x, 4))


def test_a_number_that_is_cut_has_no_gradient() -> None:
    x = torch.tensor([[[0.5, -0.5, 3.0]]], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(Bounded(1.0)(lambda x: 2 * x, x, (), 0)[0].sum(), x)
    assert slope.flatten().tolist() == [2.0, 2.0, 0.0]  # at the bound itself it still passes


@pytest.mark.parametrize("order", ["raster", "morton"])
@pytest.mark.parametrize(("axis", "at"), [("x", 0), ("y", 2), ("z", 3)])
def test_a_wall_is_a_layer_less_its_holes(axis, at, order) -> None:
    """A plain twin, cell by cell."""
    spec = lg.LatticeSpec((4, 3, 5), order=order, radii=(0.5, 1.0, 1.5))
    wall, grid = Wall(spec, axis, at, [[0, 1], [2, 2]]), node_grid(spec)
    for x in range(4):
        for y in range(3):
            for z in range(5):
                place = {"x": x, "y": y, "z": z}
                beside = [place[name] for name in "xyz" if name != axis]
                expected = place[axis] == at and beside not in ([0, 1], [2, 2])
                assert bool(wall.dead[grid[x, y, z]]) == expected


def test_a_wall_is_zero_after_every_step_and_the_rest_is_as_it_was() -> None:
    wall = Wall(SPEC, "z", 2, [[1, 1]], inner=Bounded(3.0))
    for x in run(wall, state(), 3, lambda x: x + 1)[1:]:
        assert not x[:, wall.dead].any()
        assert x[:, ~wall.dead].any(dim=(0, 2)).all()
    inner = run(Bounded(3.0), state(), 1, lambda x: x + 1)[1]
    torch.testing.assert_close(run(wall, state(), 1, lambda x: x + 1)[1][:, ~wall.dead], inner[:, ~wall.dead])


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([[], [[1, 1]], [[0, 0], [3, 2]]]), st.integers(0, 2**31))
def test_signals_cross_a_wall_by_its_holes_alone(holes, seed) -> None:
    """A step at a time, what a poke on one side has reached are the cells within so many hops around the wall."""
    model = lg.LatticeModel(SPEC, embedding_dim=12, channels=3, hidden=4, steps=8, seed=seed % 100).double().eval()
    wall, source = Wall(SPEC, "z", 2, holes), node_grid(SPEC)[seed % 4, seed % 3, 0]
    x = state()
    x[:, wall.dead] = 0
    poked = x.clone()
    poked[:, source] += 1
    away = hops(SPEC, source.unsqueeze(0), wall.dead)
    with torch.no_grad():
        pairs = zip(run(wall, x, 6, model.cell), run(wall, poked, 6, model.cell), strict=True)
        for step, (one, other) in enumerate(pairs):
            moved = (one != other).any(dim=2).any(dim=0)
            assert not moved[(away < 0) | (away > step)].any()
    assert bool(moved.reshape(4, 3, 5)[:, :, 3:].any()) == bool(holes)


def test_constraints_have_the_last_word(refuses) -> None:
    inner = Wall(SPEC, "z", 2, inner=Bounded(1.0, Wave(SPEC, 0.3, inner=None)))
    assert isinstance(Bounded(1.0, inner).inner, Wall)
    for outer in (lambda: Diffusion(SPEC, 0.1, inner), lambda: Stochastic(0.5, inner=inner)):
        with refuses("a constraint has the last word", "Wall inside", "after all other modes"):
            outer()
    with refuses("a constraint has the last word", "Bounded inside", "after all other modes"):
        build_modes({"bounded": {"limit": 1.0}, "diffusion": {"rate": 0.1}}, SPEC, *PORTS)


@pytest.mark.parametrize(
    ("wrong", "rule", "received", "remedy"),
    [
        ({"bounded": {"limit": 0}}, "limit must be above 0", "got 0", "6 leaves room"),
        ({"bounded": {"limit": "six"}}, "limit must be a finite number", "'six'", "write limit=0.1"),
        ({"wall": {"axis": "w", "at": 1}}, "one of the axes x, y and z", "'w'", "write axis: z"),
        ({"wall": {"axis": "z", "at": 5}}, "one of the 5 layers along z", "got at: 5", "at: 2 for the middle"),
        ({"wall": {"axis": "z", "at": 1.0}}, "one of the 5 layers along z", "got at: 1.0", "at: 2 for the middle"),
        ({"wall": {"axis": "x", "at": 1, "holes": [[3, 0]]}}, "layer of 3 by 5", "[3, 0]", "holes: [[1, 2]]"),
        ({"wall": {"axis": "z", "at": 1, "holes": [[1]]}}, "two indices", "[1]", "holes: [[2, 1]]"),
        ({"wall": {"axis": "z", "at": 1, "holes": 3}}, "holes are a list", "got 3", "holes: [[2, 1]]"),
        ({"wall": {"axis": "z", "at": 0}}, "input or output port", "12 of them", "another layer"),
    ],
)
def test_wrong_settings_are_refused(wrong, rule, received, remedy, refuses) -> None:
    with refuses(rule, received, remedy):
        build_modes(wrong, SPEC, *PORTS)


def test_a_wall_too_thin_is_refused(refuses) -> None:
    for spec in (lg.LatticeSpec((4, 4, 8), radii=(0.5, 1.0, 2.0)), lg.LatticeSpec((4, 4, 4), connectivity="full")):
        with refuses("where no neighbour is 2 cells away", str(spec.thresholds), "distant radius less than 2"):
            Wall(spec, "z", 2)


@pytest.mark.parametrize("execution", ["reference", "fused"])
def test_a_model_has_walls_in_training_and_once_saved(execution, tmp_path) -> None:
    dynamics = {"bounded": {"limit": 4.0}, "wall": {"axis": "z", "at": 2, "holes": [[1, 1]]}}
    model = lg.LatticeModel(SPEC, 12, 4, 4, steps=6, dynamics=dynamics, clamp=True, execution=execution)
    model.save_pretrained(tmp_path)
    again, embedding = lg.LatticeModel.from_pretrained(tmp_path), torch.randn(3, 12)
    out = model.eval().rollout(embedding, trajectory=True)
    assert torch.equal(again(embedding).state, out.state)
    assert out.trajectory is not None
    dead = Wall(SPEC, "z", 2, [[1, 1]]).dead
    assert not out.trajectory[:, :, dead].any()
    model.train()(embedding).embedding.sum().backward()
    assert bool(model.mapper.lift.grad.any()), "gradients pass through the hole"
