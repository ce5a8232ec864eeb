"""What a rollout comes to in time: a fixed point, a cycle, a quasi-periodic motion, a drift, or chaos."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from latticegnn.analysis.trajectory import checked
from latticegnn.lattice import LatticeSpec, node_grid

TimeName = Literal["fixed point", "cycle", "quasi-periodic", "drift", "chaotic"]

SHORTEST = 32
"""States below which no class is told: a cycle must be seen to repeat, and growth to go on."""


@dataclass(frozen=True)
class TimeRules:
    """The thresholds of `classify_time`.

    Args:
        window: The last states that are looked at, at least 32. It must be past the transient and hold two periods
            of the slowest motion. A longer one tells quasi-periodic from chaotic better.
        still: Change a step, as a part of the largest root mean square of a state in the window, up to which a state
            rests.
        remaining: The way still to go, likewise measured, up to which changes that shrink count as a fixed point.
        recurrence: Root mean square distance of two states, as a part of that of unrelated states of the window, up to
            which they are the same.
        growth: Exponent α of the median squared displacement, τ^α, from which a state moves away for good: 0 for
            whatever comes back, 1 for a random walk, 2 for a steady advance.
        exponent: Largest Lyapunov exponent, nats a step, from which a motion is chaotic.
        mixing: K of the 0–1 test, in −1…1, from which a motion is chaotic; used where no exponent is given.
    """

    window: int = 256
    still: float = 1e-5
    remaining: float = 0.05
    recurrence: float = 0.01
    growth: float = 0.5
    exponent: float = 0.01
    mixing: float = 0.5

    def __post_init__(self) -> None:
        """Check every threshold."""
        if not isinstance(self.window, int) or self.window < SHORTEST:
            raise ValueError(
                f"window is a number of states from {SHORTEST}. Received {self.window!r}. Write window=256."
            )
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            if not 0 < value < math.inf:
                raise ValueError(
                    f"{field.name} is a finite number above 0. Received {value!r}. Leave it at {field.default}."
                )


@dataclass(frozen=True)
class TimeClass:
    """The class of one sample.

    Args:
        name: One of the five.
        period: Steps after which the state is the same, or after which a drifting pattern is the same but elsewhere.
        shift: Cells along x, y and z by which a drifting pattern moves in one period.
    """

    name: TimeName
    period: int | None = None
    shift: tuple[int, int, int] | None = None


def classify_time(
    trajectory: Tensor, spec: LatticeSpec, exponent: Tensor | None = None, rules: TimeRules | None = None
) -> list[TimeClass]:
    r"""Name what each sample does in the last states of a trajectory; the first rule that holds decides.

    1. *Fixed point*: the changes of the window's last quarter are at most ``still``, or they shrink from quarter to
       quarter by a factor q that leaves at most ``remaining`` to go, as the geometric series says.
    2. *Drift*, of a pattern: after p steps the state is the same but moved by a whole number of cells along periodic
       axes, and it is not the same again after p or 2p steps (a checkerboard that flips has no direction: a cycle).
       A glider is a drift, though on a torus it comes back some day. p goes up to an eighth of the window.
    3. *Cycle*: after p steps, and after every multiple of p, the state is the same. p goes up to a quarter of the
       window.
    4. *Drift*, of a state: the median squared displacement grows with an exponent of at least ``growth``, from its mean
       over lags up to an eighth of the window to that over lags from three eighths to a half. Growth, random walks, and
       motions slower than the window.
    5. *Chaotic*: the given exponent is at least ``exponent``. Without one, K of the 0–1 test (Gottwald and Melbourne,
       2009) is at least ``mixing``, which only numbers that look unrelated from state to state can pass: sample slow
       motions about four times a swing. Noise passes too; only an exponent tells it from chaos.
    6. *Quasi-periodic*: what is left, bounded, never the same and not mixing.

    Args:
        trajectory: The states.
        spec: The lattice.
        exponent: Each sample's exponent from `largest_lyapunov`, nats a step [B].
        rules: The thresholds; their defaults where left out.

    Shapes:
        trajectory [T + 1, B, N, F] → B classes.

    Raises:
        ValueError: The trajectory is not sound, has fewer than 32 states, or the exponents are not B numbers.
    """
    rules = rules or TimeRules()
    x = checked(trajectory[-rules.window :], spec, SHORTEST)
    samples = x.shape[1]
    if exponent is not None and (exponent.shape != (samples,) or bool(exponent.isnan().any())):
        raise ValueError(
            f"exponent is one number a sample, [{samples}]. Received {exponent.tolist()}. Give largest_lyapunov's "
            "result for the same samples, or leave it out."
        )
    given = [None] * samples if exponent is None else exponent.tolist()
    return [_classify(x[:, sample], spec, given[sample], rules) for sample in range(samples)]


def _classify(x: Tensor, spec: LatticeSpec, exponent: float | None, rules: TimeRules) -> TimeClass:
    """Classify the window x [W, N, F] of one sample."""
    x = x / x.abs().max().clamp_min(torch.finfo(x.dtype).tiny)  # squares of what grows without end stay finite
    flat = x.flatten(1)
    if _rests(flat, rules):
        return TimeClass("fixed point")
    squared = _squared_distances(flat)
    unrelated = 2 * float((flat - flat.mean(dim=0)).square().sum(dim=1).mean())
    same = rules.recurrence**2 * unrelated
    period = _period(squared, same)
    longest = len(x) // 8 if period is None else min(len(x) // 8, (period - 1) // 2)
    moved = _shift(x, spec, longest, same)
    if moved is not None:
        return moved
    if period is not None:
        return TimeClass("cycle", period)
    if _growth(flat) >= rules.growth:
        return TimeClass("drift")
    chaotic = _mixing(flat, squared) >= rules.mixing if exponent is None else exponent >= rules.exponent
    return TimeClass("chaotic" if chaotic else "quasi-periodic")


def _rests(flat: Tensor, rules: TimeRules) -> bool:
    numbers = flat.shape[1]
    scale = float(flat.norm(dim=1).max()) / numbers**0.5
    moved = flat.diff(dim=0).norm(dim=1) / numbers**0.5
    quarter = len(moved) // 4
    last = moved[-quarter:]
    if float(last.max()) <= rules.still * scale:
        return True
    before = float(moved[-2 * quarter : -quarter].mean())
    now = float(last.mean())
    left = now * quarter * now / (before - now) if now < before else math.inf
    return left <= rules.remaining * scale


def _squared_distances(flat: Tensor) -> Tensor:
    """Return the squared distances of all pairs of states, [W, W]."""
    centred = flat - flat.mean(dim=0)
    product = centred @ centred.T
    square = product.diagonal()
    return (square[:, None] + square - 2 * product).clamp_min(0)


def _period(squared: Tensor, same: float) -> int | None:
    """Return the least lag at all of whose multiples up to half a window the later states are the same as before."""
    half = len(squared) // 2
    distance = torch.stack([squared.diagonal(lag)[half - lag :].mean() for lag in range(half + 1)])
    for lag in range(1, half // 2 + 1):
        if bool((distance[lag::lag] <= same).all()):
            return lag
    return None


def _growth(flat: Tensor) -> float:
    """Return the exponent with which the squared displacement grows with the lag, by its median: growth has no mean."""
    eighth = len(flat) // 8
    near, far = range(1, eighth + 1), range(3 * eighth, 4 * eighth + 1)
    first, last = (
        sum(float((flat[lag:] - flat[:-lag]).square().sum(dim=1).median()) for lag in lags) / len(lags)
        for lags in (near, far)
    )
    if first == 0 or last == 0:
        return math.inf if last > 0 else -math.inf
    return math.log(last / first) / math.log((sum(far) / len(far)) / (sum(near) / len(near)))


def _shift(x: Tensor, spec: LatticeSpec, longest: int, same: float) -> TimeClass | None:
    """Return the drift in which a shift other than none turns each state into that up to ``longest`` steps later."""
    axes = [axis for axis, (n, wraps) in enumerate(zip(spec.shape, spec.periodic, strict=True)) if wraps and n > 1]
    if not axes or longest < 1:
        return None
    others = [axis for axis in range(3) if axis not in axes]
    grid = x[:, node_grid(spec)]  # [W, X, Y, Z, F]
    spectrum = torch.fft.fftn(grid, dim=[axis + 1 for axis in axes])
    for lag in range(1, longest + 1):
        cross = (spectrum[lag:] * spectrum[:-lag].conj()).sum(dim=(0, -1))
        product = torch.fft.ifftn(cross, dim=axes).real
        if others:
            product = product.sum(dim=others, keepdim=True)
        place = [int(index) for index in np.unravel_index(int(product.argmax()), product.shape)]
        error = (grid[lag:] - grid[:-lag].roll(place, dims=(1, 2, 3))).square().flatten(1).sum(dim=1).mean()
        if any(place) and float(error) <= same:
            along_x, along_y, along_z = (p - n if 2 * p > n else p for p, n in zip(place, spec.shape, strict=True))
            return TimeClass("drift", lag, (along_x, along_y, along_z))
    return None


def _mixing(flat: Tensor, squared: Tensor) -> float:
    """Return K of the 0–1 test, by correlation: towards 0 for regular motions, towards 1 for chaotic ones.

    The series drives a walk, p(n) = Σ φ(j) cos(jc), q(n) = Σ φ(j) sin(jc), that stays bounded or spreads as a random
    walk; K is the correlation of its mean squared displacement with time, the median over 64 random c. The up to 64
    numbers of the state that vary most are each a series, and their displacements add up. φ are the differences between
    states at the lag of the nearest return, for chaos may be a small part of what is mostly a cycle.
    """
    nearest = min(range(1, len(flat) // 4 + 1), key=lambda lag: float(squared.diagonal(lag).mean()))
    flat = flat[nearest:] - flat[:-nearest]
    series = flat[:, flat.var(dim=0).argsort(descending=True, stable=True)[:64]].numpy(force=True)
    length, lags = len(series), np.arange(1, max(4, len(series) // 10) + 1)
    mean = series.mean(axis=0)
    time = np.arange(1, length + 1)
    found = []
    for angle in np.random.default_rng(0).uniform(np.pi / 5, 4 * np.pi / 5, 64):
        walk = np.cumsum((series - mean) * np.exp(1j * angle * time)[:, None], axis=0)
        spread = [np.square(np.abs(walk[lag:] - walk[:-lag])).sum(axis=1)[: length - lags[-1]].mean() for lag in lags]
        found.append(np.corrcoef(lags, spread)[0, 1])
    return float(np.median(found))
