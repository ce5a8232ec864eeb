"""Measures of a trajectory: hand-computed cases, plain loops, the light cone of real cells, and the watch."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from latticegnn import LatticeModel, LatticeSpec, Ports
from latticegnn.analysis import (
    TimeRules,
    TrajectoryWatch,
    arrival_step,
    autocorrelation,
    change,
    classify_space,
    classify_time,
    distance_correlation,
    energy,
    face_pairs,
    layer_activity,
    light_cone,
    morans_i,
    participation_ratio,
    relative_change,
)
from latticegnn.lattice import arrival, coordinates

SPECS = [
    LatticeSpec(shape=(3, 4, 2)),
    LatticeSpec(shape=(3, 4, 2), boundary="periodic"),
    LatticeSpec(shape=(5, 1, 4), boundary=("periodic", "periodic", "open"), order="morton"),
]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def distance(spec: LatticeSpec) -> Tensor:
    """All pairs' distances, the shortest way round: [N, N]."""
    gap = (coordinates(spec)[:, None] - coordinates(spec)).abs()
    sides, wraps = torch.tensor(spec.shape), torch.tensor(spec.periodic)
    return torch.where(wraps, torch.minimum(gap, sides - gap), gap).double().norm(dim=-1)


def test_change_and_energy_by_hand():
    states = torch.zeros(3, 1, 2, 2)
    states[1, 0, 0] = torch.tensor([3.0, 4.0])  # one of two cells moves by 5
    states[2] = 2 * states[1]
    assert change(states).tolist() == [[2.5], [2.5]]
    assert relative_change(states).tolist() == [[math.inf], [1.0]]
    assert energy(states)[:, 0].tolist() == [0, 25 / 4, 25]
    assert relative_change(torch.zeros(2, 1, 2, 2)).tolist() == [[0.0]]


def test_no_gradient_is_kept():
    states = torch.rand(4, 2, 8, 3, requires_grad=True)
    spec = LatticeSpec(shape=(2, 2, 2))
    watch = TrajectoryWatch(spec)
    found = [change(states), morans_i(states, spec), watch.update(states[0] * 2).energy, watch.update(states[1]).moran]
    assert not any(value.requires_grad for value in found)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_morans_i_is_the_sum_over_all_pairs_at_distance_one(spec):
    x = random(2, 3, spec.num_nodes, 2)
    z = x - x.mean(dim=2, keepdim=True)
    near = (distance(spec) - 1).abs() < 1e-9
    expected = (
        spec.num_nodes / near.sum() * torch.einsum("tbif,ij,tbjf->tb", z, near.double(), z) / z.square().sum((-1, -2))
    )
    torch.testing.assert_close(morans_i(x, spec), expected)
    assert sum(len(first) for first, _ in face_pairs(spec)) * 2 == int(near.sum())


def test_morans_i_of_known_fields():
    spec = LatticeSpec(shape=(4, 4, 4), boundary="periodic")
    place = coordinates(spec).double()
    checkerboard = 1 - 2 * (place.sum(dim=1) % 2)
    wave = (math.pi / 2 * place[:, 0]).cos()  # neighbours along x at a quarter turn, along y and z alike
    found = morans_i(torch.stack([checkerboard, wave, torch.ones(64)])[:, None, :, None], spec)[:, 0]
    torch.testing.assert_close(found[:2], torch.tensor([-1.0, 2 / 3], dtype=torch.float64))
    assert found[2].isnan()


def test_morans_i_of_noise_is_what_moran_expects():
    spec = LatticeSpec(shape=(3, 3, 3))
    found = morans_i(random(4000, 1, 27, 1), spec)
    assert abs(float(found.mean()) + 1 / 26) < 4 * float(found.std()) / 4000**0.5


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_distance_correlation_is_the_mean_over_pairs(spec):
    x = random(2, 2, spec.num_nodes, 3)
    z = x - x.mean(dim=2, keepdim=True)
    product = torch.einsum("tbif,tbjf->tbij", z, z) / z.square().sum(-1).mean(-1)[..., None, None]
    bins = (distance(spec) + 0.5).floor().long()
    expected = torch.stack([product[..., bins == d].mean(-1) for d in range(int(bins.max()) + 1)], dim=-1)
    torch.testing.assert_close(distance_correlation(x, spec), expected)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), lags=st.integers(0, 6))
def test_autocorrelation_is_the_plain_sum(seed, lags):
    x = random(7, 2, 3, 2, seed=seed)
    found = autocorrelation(x, lags)
    for sample in range(2):
        z = (x[:, sample] - x[:, sample].mean(0)).flatten(1)
        whole = sum(float(row @ row) for row in z)
        for lag in range(lags + 1):
            plain = sum(float(z[t] @ z[t + lag]) for t in range(7 - lag)) / whole
            assert math.isclose(float(found[lag, sample]), plain, abs_tol=1e-12)
    assert bool((found.abs() <= 1 + 1e-12).all())


def test_autocorrelation_of_a_flip_alternates():
    x = (-1.0) ** torch.arange(100)[:, None, None, None].expand(-1, 1, 2, 1)
    torch.testing.assert_close(autocorrelation(x, 2)[:, 0], torch.tensor([1, -0.99, 0.98], dtype=torch.float64))
    assert autocorrelation(torch.ones(5, 1, 2, 1), 1).isnan().all()


def test_participation_ratio_counts_directions():
    angle = torch.arange(12) * (2 * math.pi / 12)
    circle = torch.zeros(12, 2, 4, 3, dtype=torch.float64)
    circle[:, 0, 0, 0], circle[:, 0, 3, 2] = angle.cos(), angle.sin()
    circle[:, 1, 1, 1] = angle
    torch.testing.assert_close(participation_ratio(circle), torch.tensor([2.0, 1.0], dtype=torch.float64))
    cells = torch.tensor([[1.0, 0, 5], [-1, 0, 5], [0, 1, 5], [0, -1, 5]])[None, None]
    assert participation_ratio(cells, over="cells").tolist() == [[2.0]]


@pytest.mark.parametrize(("states", "over"), [(3, "time"), (40, "time"), (3, "cells")])
def test_participation_ratio_is_that_of_the_eigenvalues(states, over):
    x = random(states, 1, 5, 4)
    observations = x.flatten(2)[:, 0] if over == "time" else x[0, 0]
    eigenvalues = torch.linalg.eigvalsh(observations.T.cov())
    expected = eigenvalues.sum() ** 2 / eigenvalues.square().sum()
    torch.testing.assert_close(participation_ratio(x, over).flatten()[0], expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_layers_are_planes(axis):
    spec = LatticeSpec(shape=(2, 3, 4), order="morton")
    x = random(2, 2, 24, 3)
    found = layer_activity(x, spec, axis)
    for layer in range(spec.shape[axis]):
        plane = x[:, :, coordinates(spec)[:, axis] == layer]
        torch.testing.assert_close(found[..., layer], plane.square().mean(dim=(-1, -2)).sqrt())
    torch.testing.assert_close(layer_activity(x, spec, axis, reference=x), torch.zeros_like(found))


@pytest.mark.parametrize("radii", [(0.5, 1.0, 1.6), (0.5, 1.0, 2.0)])
def test_a_signal_keeps_to_the_light_cone_and_the_local_mean_fills_it(radii):
    spec = LatticeSpec(shape=(3, 3, 7), radii=radii)
    inputs = Ports(face="z-")
    earliest = light_cone(spec, inputs.nodes(spec))
    model = LatticeModel(spec, embedding_dim=6, channels=4, hidden=8, steps=8, outputs=Ports(face="z+")).double()
    embedding = random(2, 6)
    with torch.no_grad():
        rollouts = [model.rollout(e, trajectory=True).trajectory for e in (embedding, embedding + 0.1)]
    steps = arrival_step(layer_activity(rollouts[1], spec, reference=rollouts[0]))
    assert bool((steps >= earliest).all())
    assert torch.equal(steps, earliest.expand(2, -1))
    for layer, face in ((0, "z-"), (6, "z+")):
        assert int(earliest[layer]) == int(arrival(spec, inputs, Ports(face=face)).min())


def test_arrival_of_what_never_comes():
    activity = torch.tensor([[[1.0, 0, 0]], [[1, 0.2, 0]], [[0, 0.6, 0]]])
    assert arrival_step(activity, 0.5).tolist() == [[0, 2, -1]]
    apart = LatticeSpec(shape=(1, 1, 3), radii=(0.2, 0.3, 0.5))
    assert light_cone(apart, torch.tensor([0])).tolist() == [0, -1, -1]


def test_the_watch_gives_the_numbers_of_the_functions():
    spec = LatticeSpec(shape=(3, 2, 4), boundary="periodic")
    states = random(80, 2, 24, 3).cumsum(dim=0).float()
    watch = TrajectoryWatch(spec, axis=2, threshold=2.0, time_rules=TimeRules(window=40))
    measures = []
    buffer = torch.empty_like(states[0])
    for state in states:
        buffer.copy_(state)  # as a step that writes over its state
        measures.append(watch.update(buffer))
    activity = layer_activity(states, spec, 2, states[:1].expand_as(states))
    assert measures[0].change is None
    assert measures[0].relative_change is None
    assert torch.equal(torch.stack([m.change for m in measures[1:]]), change(states))
    assert torch.equal(torch.stack([m.relative_change for m in measures[1:]]), relative_change(states))
    assert torch.equal(torch.stack([m.energy for m in measures]), energy(states))
    assert torch.equal(torch.stack([m.activity for m in measures]), activity)
    assert torch.equal(torch.stack([m.moran for m in measures]), morans_i(states, spec))
    assert torch.equal(watch.arrival, arrival_step(activity, 2.0))
    assert bool((watch.arrival > 0).all())
    assert watch.time_class() == classify_time(states, spec, rules=TimeRules(window=40))
    assert watch.space_class() == classify_space(states, spec)
    watch.reset()
    assert watch.update(states[5, :1]).change is None


def test_the_watch_holds_no_more_than_its_window():
    spec = LatticeSpec(shape=(2, 2, 2))
    watch = TrajectoryWatch(spec, time_rules=TimeRules(window=32))
    for _ in range(400):
        watch.update(torch.rand(1, 8, 1))
    assert watch._states().shape[0] == watch.space_rules.window == 256


def test_mistakes_are_told(refuses):
    spec = LatticeSpec(shape=(2, 2, 2))
    good = torch.rand(4, 2, 8, 3)
    with refuses("[T + 1, B, N, F]", "(4, 2, 8)", "rollout"):
        energy(good[..., 0])
    with refuses("floating point", "torch.int64", ".double()"):
        energy(good.long())
    with refuses("counts the cells", "27", "Give the spec"):
        morans_i(torch.rand(1, 1, 27, 1), spec)
    with refuses("at least 2 states", "1", "Roll out further"):
        change(good[:1])
    bad = good.clone()
    bad[2, 1, 3, 0] = torch.nan
    with refuses("must be finite", "step 2 of sample 1", "leave that sample out"):
        energy(bad)
    with refuses("axis is 0, 1 or 2", "3", "axis=2"):
        layer_activity(good, spec, axis=3)
    with refuses("same shape", "(3, 2, 8, 3)", "as many steps"):
        layer_activity(good, spec, reference=good[1:])
    with refuses("at least 0", "-1", "1e-6"):
        arrival_step(torch.rand(3, 1, 2), -1.0)
    with refuses("largest lag", "-2", "lags=10"):
        autocorrelation(good, -2)
    with refuses("at least 5 states", "4", "Roll out further"):
        autocorrelation(good, 4)
    with refuses("time, cells", "'space'", "over='time'"):
        participation_ratio(good, "space")
    with refuses("at least two cells", "(1, 1, 1)", "larger"):
        morans_i(good[:, :, :1], LatticeSpec(shape=(1, 1, 1)))
    watch = TrajectoryWatch(spec)
    with refuses("states seen", "none", "update(state)"):
        watch.time_class()
    watch.update(good[0])
    with refuses("one shape", "(1, 8, 3)", "reset()"):
        watch.update(good[0, :1])
    with refuses("at least 32 states", "1", "Roll out further"):
        watch.time_class()
    with refuses("threshold is at least 0", "-1", "threshold=1e-6"):
        TrajectoryWatch(spec, threshold=-1)
