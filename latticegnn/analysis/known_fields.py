"""Fields whose class is known beforehand: heat, waves, phase separation, Gray-Scott, spirals, excitable media."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from latticegnn.analysis.dynamics_class import TimeName
from latticegnn.analysis.space_class import SpaceName
from latticegnn.analysis.spatial import face_pairs
from latticegnn.lattice import LatticeSpec, coordinates

Step = Callable[[Tensor], Tensor]
TORUS = LatticeSpec(shape=(24, 24, 1), boundary="periodic")
OPEN = LatticeSpec(shape=(24, 24, 1))
CUBE = LatticeSpec(shape=(8, 8, 8), boundary="periodic")
LARGE = LatticeSpec(shape=(32, 32, 1), boundary="periodic")


@dataclass(frozen=True, eq=False)
class KnownRun:
    """One run of a system.

    Args:
        system: Its name and parameter.
        spec: The lattice.
        trajectory: [T + 1, 1, N, F].
        time: Its class in time, None where theory names none.
        period: Of a cycle.
        space: Its class in space, None where theory names none.
    """

    system: str
    spec: LatticeSpec
    trajectory: Tensor
    time: TimeName | None
    space: SpaceName | None
    period: int | None = None


def rollout(step: Step, state: Tensor, steps: int, skip: int = 0, every: int = 1) -> Tensor:
    """Return the states [steps + 1, B, N, F], ``every`` steps apart, the first ``skip`` steps left out."""
    for _ in range(skip):
        state = step(state)
    states = [state]
    for _ in range(steps):
        for _ in range(every):
            state = step(state)
        states.append(state)
    return torch.stack(states)


def face_neighbours(spec: LatticeSpec) -> Tensor:
    """Return the cells that share a face with each cell, LongTensor [N, K]; the cell itself where there is none."""
    columns = []
    for first, second in face_pairs(spec):
        if len(first):
            after, before = torch.arange(spec.num_nodes), torch.arange(spec.num_nodes)
            after[first], before[second] = second, first
            columns += [after, before]
    return torch.stack(columns, dim=1)


def laplacian(spec: LatticeSpec) -> Step:
    """Return the sum of the differences to the cells that share a face; no flux leaves an open boundary."""
    table = face_neighbours(spec)
    return lambda x: x[:, table].sum(dim=2) - table.shape[1] * x


def heat(spec: LatticeSpec, diffusion: float) -> Step:
    """Return x ← x + D ∇²x."""
    spread = laplacian(spec)
    return lambda x: x + diffusion * spread(x)


def smooth_field(spec: LatticeSpec, noise: Tensor, steps: int) -> Tensor:
    """Return noise after some steps of heat, with mean 0 and variance 1."""
    spread = heat(spec, 0.2)
    for _ in range(steps):
        noise = spread(noise)
    return (noise - noise.mean()) / noise.std()


def wave(spec: LatticeSpec, speed: float) -> Step:
    """Return one leapfrog step of ∂²u/∂t² = c² ∇²u; the channels are u now and a step before."""
    spread = laplacian(spec)

    def step(x: Tensor) -> Tensor:
        now, before = x[..., :1], x[..., 1:]
        return torch.cat([2 * now - before + speed**2 * spread(now), now], dim=-1)

    return step


def plane_waves(spec: LatticeSpec, speed: float, modes: list[tuple[int, int, float, float]]) -> Tensor:
    """Return the start [1, N, 2] of `wave` that makes each mode (m_x, m_y, amplitude, phase) a travelling wave."""
    place = coordinates(spec).double()
    now, before = torch.zeros(2, spec.num_nodes, dtype=torch.float64)
    for m_x, m_y, amplitude, phase in modes:
        k = 2 * math.pi * torch.tensor([m_x, m_y, 0], dtype=torch.float64) / torch.tensor(spec.shape)
        frequency = 2 * math.asin(speed * float((k / 2).sin().norm()))
        now = now + amplitude * (place @ k + phase).cos()
        before = before + amplitude * (place @ k + phase + frequency).cos()
    return torch.stack([now, before], dim=-1)[None]


def separation(spec: LatticeSpec, diffusion: float) -> Step:
    """Return x ← x + 0.1 (x − x³) + D ∇²x, two phases that part (Allen and Cahn, 1979)."""
    spread = laplacian(spec)
    return lambda x: x + 0.1 * (x - x**3) + diffusion * spread(x)


def gray_scott(spec: LatticeSpec, feed: float, kill: float) -> Step:
    """Return a step of dt = 1 of Gray and Scott's reaction with D_u = 0.16, D_v = 0.08 (Pearson, 1993)."""
    spread = laplacian(spec)
    diffusion = torch.tensor([0.16, 0.08], dtype=torch.float64)

    def step(x: Tensor) -> Tensor:
        u, v = x[..., :1], x[..., 1:]
        reaction = u * v * v
        source = torch.cat([feed * (1 - u) - reaction, reaction - (feed + kill) * v], dim=-1)
        return x + diffusion * spread(x) + source

    return step


def lambda_omega(spec: LatticeSpec, b: float) -> Step:
    """Return a step of dt = 0.1 of a λ-ω system (Kopell and Howard, 1973), its complex A in two channels.

    ``A' = A − (1 + ib) |A|² A + 0.5 ∇²A``
    """
    spread = laplacian(spec)

    def step(x: Tensor) -> Tensor:
        square = x.square().sum(dim=-1, keepdim=True)
        turned = torch.stack([-x[..., 1], x[..., 0]], dim=-1)
        return x + 0.1 * (x - square * (x + b * turned) + 0.5 * spread(x))

    return step


def excitable(spec: LatticeSpec, states: int) -> Step:
    """Return Greenberg and Hastings' medium (1978): 0 rests until a neighbour is at 1; then 1, 2, … states − 1, 0."""
    table = face_neighbours(spec)

    def step(x: Tensor) -> Tensor:
        excited = (x == 1)[:, table].any(dim=2)
        return torch.where(x == 0, excited.to(x.dtype), (x + 1) % states)

    return step


def known_fields(
    between: Callable[[float, float], float], noise: Callable[..., Tensor], slow: bool
) -> Iterator[KnownRun]:
    """Yield one run of each field.

    Args:
        between: Draws a number between two.
        noise: Draws numbers in 0…1 for a spec and a number of channels, [1, N, F].
        slow: Include Gray and Scott's reaction.
    """
    states = rollout(heat(CUBE, between(0.05, 0.15)), 1 + noise(CUBE), 400)
    yield KnownRun("heat equation", CUBE, states, "fixed point", "uniform")
    speed = between(0.4, 0.6)
    modes = [(2, 1, 1.0, between(0, 6)), (-1, 2, between(0.3, 0.6), between(0, 6)), (1, -3, 0.3, between(0, 6))]
    states = rollout(wave(TORUS, speed), plane_waves(TORUS, speed, modes), 512)
    yield KnownRun("wave equation", TORUS, states, "quasi-periodic", "wave")
    states = rollout(separation(TORUS, between(0.05, 0.15)), (start := noise(TORUS)) - start.mean(), 100)
    yield KnownRun("phase separation", TORUS, states, None, "clustered")
    yield from _rotors(between)
    if slow:
        yield from _gray_scott(between, noise)


def _gray_scott(between: Callable[[float, float], float], noise: Callable[..., Tensor]) -> Iterator[KnownRun]:
    place = coordinates(LARGE).double()
    centre = torch.tensor([between(8, 24), between(8, 24), 0], dtype=torch.float64)
    seeded = ((place - centre).abs().amax(dim=1) <= 4).double()[:, None]
    rest = torch.tensor([1.0, 0.0], dtype=torch.float64)
    spot = rest + seeded * torch.tensor([-0.5, 0.25], dtype=torch.float64) + 0.01 * noise(LARGE, 2)
    states = rollout(gray_scott(LARGE, 0.03, between(0.068, 0.075)), spot, 256, skip=3000, every=20)
    yield KnownRun("Gray-Scott, death", LARGE, states, "fixed point", "uniform")
    states = rollout(gray_scott(LARGE, between(0.034, 0.038), 0.065), spot, 256, skip=12000, every=20)
    yield KnownRun("Gray-Scott, spots", LARGE, states, "fixed point", "clustered")
    front = ((place[:, :1] >= 4) & (place[:, :1] < 10)).double()
    behind = ((place[:, :1] >= 0) & (place[:, :1] < 4)).double()
    pulse = rest + front * torch.tensor([-0.5, 0.4], dtype=torch.float64)
    pulse = pulse + behind * torch.tensor([-0.7, 0.0], dtype=torch.float64)
    states = rollout(gray_scott(LARGE, between(0.012, 0.0145), 0.045), pulse[None], 256, skip=2000, every=10)
    yield KnownRun("Gray-Scott, waves", LARGE, states, None, "wave")


def _rotors(between: Callable[[float, float], float]) -> Iterator[KnownRun]:
    place = coordinates(OPEN).double()[:, :2]
    b = between(0.6, 1.0)
    away = place - torch.tensor([between(9, 14), between(9, 14)], dtype=torch.float64)
    radius = away.norm(dim=1, keepdim=True)
    state = (away / radius.clamp_min(1e-9) * (radius / 2).tanh())[None]
    states = rollout(lambda_omega(OPEN, b), state, 256, skip=500, every=8)
    yield KnownRun("lambda-omega, spiral", OPEN, states, None, "spiral")
    k = 2 * math.pi / 24 * (place @ torch.tensor([2.0, round(between(-2, 2))], dtype=torch.float64))
    states = rollout(lambda_omega(TORUS, b), torch.stack([k.cos(), k.sin()], dim=-1)[None] * 0.8, 256, 500, 8)
    yield KnownRun("lambda-omega, plane wave", TORUS, states, None, "wave")
    count = 2 * int(between(4, 7))  # even: a rotor's way around a core of square cells is
    phase = (away.flip(1)[:, 0].atan2(away.flip(1)[:, 1]) / (2 * math.pi) * count).floor() % count
    states = rollout(excitable(OPEN, count), phase[None, :, None].double(), 256, skip=100)
    yield KnownRun("excitable medium, spiral", OPEN, states, "cycle", "spiral", count)
    ring = (24 - coordinates(TORUS)[:, 0]) % 24
    pulse = torch.where(ring < count - 1, (ring + 1).double(), 0.0)[None, :, None]
    states = rollout(excitable(TORUS, count), pulse, 256, skip=10)
    yield KnownRun("excitable medium, pulse", TORUS, states, "drift", "wave")
