"""Systems whose class is known beforehand, on lattices, with which the classifiers are judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from latticegnn.analysis.dynamics_class import TimeName, TimeRules, classify_time
from latticegnn.analysis.known_fields import (
    OPEN,
    TORUS,
    KnownRun,
    Step,
    face_neighbours,
    known_fields,
    rollout,
    smooth_field,
)
from latticegnn.analysis.space_class import SpaceName, SpaceRules, classify_space
from latticegnn.lattice import LatticeSpec


def logistic(r: float) -> Step:
    """Return the logistic map x ← r x (1 − x) of every cell by itself."""
    return lambda x: r * x * (1 - x)


def coupled_logistic(spec: LatticeSpec, a: float, coupling: float) -> Step:
    """Return Kaneko's coupled map lattice x ← (1 − ε) f(x) + ε mean f(neighbours), f = 1 − a x² (Kaneko, 1985)."""
    table = face_neighbours(spec)

    def step(x: Tensor) -> Tensor:
        mapped = 1 - a * x.square()
        return (1 - coupling) * mapped + coupling * mapped[:, table].mean(dim=2)

    return step


def game_of_life(spec: LatticeSpec) -> Step:
    """Return Conway's Game of Life on a torus of one layer (Gardner, 1970)."""
    x, y, _ = spec.shape

    def step(state: Tensor) -> Tensor:
        grid = state.reshape(-1, x, y)
        rows = grid + grid.roll(1, 1) + grid.roll(-1, 1)
        living = rows + rows.roll(1, 2) + rows.roll(-1, 2) - grid
        return ((living == 3) | ((living == 2) & (grid == 1))).to(state.dtype).reshape(state.shape)

    return step


def translation(spec: LatticeSpec, shift: tuple[int, int, int]) -> Step:
    """Return the move of everything by whole cells around the torus (raster order)."""
    return lambda x: x.reshape(-1, *spec.shape, x.shape[-1]).roll(shift, (1, 2, 3)).reshape(x.shape)


PATTERNS = {
    "block": ["11", "11"],
    "blinker": ["111"],
    "glider": ["010", "001", "111"],
    "pulsar": [
        "0011100011100", "0000000000000", "1000010100001", "1000010100001", "1000010100001", "0011100011100",
        "0000000000000", "0011100011100", "1000010100001", "1000010100001", "1000010100001", "0000000000000",
        "0011100011100",
    ],
}  # fmt: skip


def known_runs(seed: int, slow: bool = True) -> Iterator[KnownRun]:
    """Yield one run of every system, its start and its parameters drawn from the seed.

    Args:
        seed: Any whole number.
        slow: Include Gray and Scott's reaction, which takes most of the time.
    """
    draw = torch.Generator().manual_seed(seed)

    def between(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=draw, dtype=torch.float64))

    def noise(spec: LatticeSpec, channels: int = 1) -> Tensor:
        return torch.rand(1, spec.num_nodes, channels, generator=draw, dtype=torch.float64)

    yield from _maps(between, noise, draw)
    yield from _life(between)
    yield from _motions(between, noise, draw)
    yield from known_fields(between, noise, slow)


def _maps(between: Callable[..., float], noise: Callable[..., Tensor], draw: torch.Generator) -> Iterator[KnownRun]:
    chaotic = (3.69, 3.77, 3.8, 3.9, 3.95, 4.0)
    bands: list[tuple[float, TimeName, int | None, SpaceName]] = [
        (between(1.5, 2.9), "fixed point", None, "uniform"),
        (between(3.1, 3.4), "cycle", 2, "disordered"),
        (between(3.47, 3.53), "cycle", 4, "disordered"),
        (between(3.549, 3.56), "cycle", 8, "disordered"),
        (chaotic[int(torch.randint(len(chaotic), (), generator=draw))], "chaotic", None, "disordered"),
    ]
    for r, time, period, space in bands:
        states = rollout(logistic(r), 0.1 + 0.8 * noise(TORUS), 300, skip=2000)
        yield KnownRun(f"logistic map, {time} {period or ''}".strip(), TORUS, states, time, space, period)
    couplings: list[tuple[str, float, float, TimeName, int | None, SpaceName]] = [
        ("fixed", between(0.3, 0.7), between(0.1, 0.4), "fixed point", None, "uniform"),
        ("domains", between(1.0, 1.15), between(0.05, 0.15), "cycle", 2, "clustered"),
        ("turbulent", between(1.88, 1.98), between(0.05, 0.1), "chaotic", None, "disordered"),
    ]
    for name, a, coupling, time, period, space in couplings:
        start = smooth_field(TORUS, noise(TORUS), 12).tanh() if name == "domains" else 2 * noise(TORUS) - 1
        states = rollout(coupled_logistic(TORUS, a, coupling), start, 300, skip=2000)
        yield KnownRun(f"coupled map lattice, {name}", TORUS, states, time, space, period)


def _life(between: Callable[..., float]) -> Iterator[KnownRun]:
    expected: dict[str, tuple[TimeName, int | None]] = {
        "block": ("fixed point", None),
        "blinker": ("cycle", 2),
        "pulsar": ("cycle", 3),
        "glider": ("drift", 4),
    }
    for name, (time, period) in expected.items():
        pattern = torch.tensor([[float(cell) for cell in row] for row in PATTERNS[name]], dtype=torch.float64)
        grid = torch.zeros(TORUS.shape[:2], dtype=torch.float64)
        grid[: pattern.shape[0], : pattern.shape[1]] = pattern
        grid = grid.roll((int(between(0, 24)), int(between(0, 24))), (0, 1))
        states = rollout(game_of_life(TORUS), grid.reshape(1, -1, 1), 128, skip=4)
        yield KnownRun(f"Game of Life, {name}", TORUS, states, time, "clustered" if name == "block" else None, period)


def _motions(between: Callable[..., float], noise: Callable[..., Tensor], draw: torch.Generator) -> Iterator[KnownRun]:
    smooth = smooth_field(TORUS, noise(TORUS), 12)
    frozen = noise(TORUS)
    angle = between(0.3, 3.0)
    turn = torch.tensor([[0, -1.0], [1.0, 0]], dtype=torch.float64).mul(angle).matrix_exp()
    walk = torch.randn(257, 1, TORUS.num_nodes, 2, generator=draw, dtype=torch.float64).cumsum(dim=0)
    shift = (int(between(1, 4)), int(between(-3, 4)), 0)
    ramp = between(0.01, 0.1) * torch.arange(257, dtype=torch.float64)[:, None, None, None]
    turning = rollout(lambda x: x @ turn, noise(TORUS, 2) - 0.5, 300)
    moving = rollout(translation(TORUS, (1, 0, 0)), smooth, 256)
    scattered = rollout(translation(TORUS, shift), frozen, 256)
    yield KnownRun("rotation", TORUS, turning, "quasi-periodic", "disordered")
    yield KnownRun("random walk", TORUS, walk, "drift", "disordered")
    yield KnownRun("translation of a field", TORUS, moving, "drift", "wave")
    yield KnownRun("translation of noise", TORUS, scattered, "drift", "disordered")
    yield KnownRun("uniform ramp", TORUS, ramp.expand(-1, 1, TORUS.num_nodes, 1), "drift", "uniform")
    yield KnownRun("frozen noise", OPEN, frozen.expand(64, -1, -1, -1)[:, :, : OPEN.num_nodes], "fixed point", "static")
    yield KnownRun("frozen field", TORUS, smooth.expand(64, -1, -1, -1), "fixed point", "clustered")


def confusion(
    runs: Iterable[KnownRun], time_rules: TimeRules | None = None, space_rules: SpaceRules | None = None
) -> tuple[Counter[tuple[str, str]], Counter[tuple[str, str]], list[str]]:
    """Classify every run by its states alone and count the pairs (known class, told class) in time and in space.

    A cycle counts as told only with its period. Also returns a line for each run that was told wrong.
    """
    time: Counter[tuple[str, str]] = Counter()
    space: Counter[tuple[str, str]] = Counter()
    wrong = []
    for run in runs:
        pairs: list[tuple[Counter[tuple[str, str]], str | None, str]] = []
        told = classify_time(run.trajectory, run.spec, rules=time_rules)[0]
        of_period = run.period is not None and (run.period, run.time) != (told.period, told.name)
        pairs.append((time, run.time, f"{told.name} of period {told.period}" if of_period else told.name))
        pairs.append((space, run.space, classify_space(run.trajectory, run.spec, space_rules)[0].name))
        for counter, known, name in pairs:
            if known is not None:
                counter[known, name] += 1
                if known != name:
                    wrong.append(f"{run.system}: {known}, told {name}")
    return time, space, wrong
