"""What a state looks like in space: uniform, a spiral, a wave, clustered, static or disordered."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from latticegnn.analysis.spatial import face_pairs, morans_i
from latticegnn.analysis.trajectory import checked
from latticegnn.lattice import LatticeSpec, node_grid

SpaceName = Literal["uniform", "spiral", "wave", "clustered", "static", "disordered"]

SHORTEST = 16
"""States below which no frequency is told from another."""


@dataclass(frozen=True)
class SpaceRules:
    """The thresholds of `classify_space`.

    Args:
        window: The last states that are looked at, at least 16. It must hold three swings of a wave; what is slower is
            taken for a trend.
        uniform: Standard deviation over the cells of the last state, as a part of the largest root mean square of a
            state in the window, up to which all cells are alike.
        still: Root mean square of the fluctuations in time, as a part of the standard deviation over the cells, up to
            which a pattern stands; and of the swings, three or more a window, up to which nothing travels.
        moran: Moran's I of the last state from which neighbours are alike.
        lag: Root mean square sine of the phase lag from cell to cell, kept over two cells, from which a phase advances:
            0.1 is a wave length of 63 cells.
        smooth: Correlation of the fluctuations of neighbours, −1…1, from which a phase is smooth: at 0.3 a wave along
            a row is at least 5 cells long.
        steady: Standard deviation over mean of the cells' amplitudes at the strongest frequency, up to which a rotating
            pattern fills the lattice: 0.52 for random waves, whose dislocations are no spirals (Berry, 1978).
        cores: Part of the squares of four cells around which the phase may turn by 2π: spirals have few cores.
    """

    window: int = 256
    uniform: float = 0.01
    still: float = 0.05
    moran: float = 0.3
    lag: float = 0.1
    smooth: float = 0.3
    steady: float = 0.4
    cores: float = 0.05

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
class SpaceClass:
    """The class of one sample, and the measures that decided; NaN where there is nothing to measure.

    Of a pattern that stands there is no lag, smoothness, variation or core.

    Args:
        name: One of the six.
        spread: Standard deviation over the cells, relative, as ``uniform`` is.
        motion: Fluctuation in time, relative, as ``still`` is.
        swing: The part of it in three or more swings a window, relative, as ``still`` is.
        moran: Moran's I of the last state.
        lag: Sine of the phase lag from cell to cell, 0…1.
        smooth: Correlation of the fluctuations of neighbours, −1…1.
        variation: Of the amplitudes, as ``steady`` is.
        cores: Squares of four cells around which the phase turns.
    """

    name: SpaceName
    spread: float
    motion: float
    swing: float
    moran: float
    lag: float
    smooth: float
    variation: float
    cores: int


def classify_space(trajectory: Tensor, spec: LatticeSpec, rules: SpaceRules | None = None) -> list[SpaceClass]:
    r"""Name what each sample's last state looks like and how its pattern moves; the first rule that holds decides.

    1. *Uniform*: all cells are alike, within ``uniform``.
    2. *Spiral*: the phase at the strongest frequency turns by ±2π around a few cores, at most ``cores`` of all squares
       of four cells, the amplitude is the same nearly everywhere (``steady``), and the phase is smooth.
    3. *Wave*: the phase of the fluctuations advances from cell to cell, on through the next cell (``lag``), and
       smoothly (``smooth``). What travels is a wave; a standing wave has no direction and is not.
    4. *Clustered*: neighbours are alike, by Moran's I of the last state (``moran``): spots, stripes, domains, smooth
       fields, at rest or not.
    5. *Static*: cells differ, neighbours as much as others, and stay as they are.
    6. *Disordered*: what is left, cells that change and know nothing of each other.

    Phases are those of the cells' Fourier transforms in time over the window, tapered (Hann); with the cross-spectrum
    :math:`L_{ij} = \sum_\omega Y_j \bar Y_i` and :math:`P_i = L_{ii}` over the frequencies from three swings a
    window to below half a swing a step,

    .. math::
        \text{smooth} = \frac{\sum_{(i,j)} \mathrm{Re} L_{ij}}{\sum_{(i,j)} (P_i + P_j) / 2}, \qquad
        \text{lag}^2 = \sum_{\text{axes}}
        \frac{\sum_i \mathrm{Im} L_{i-1,i} \, \mathrm{Im} L_{i,i+1}}{\sum_i P_i^2}

    Args:
        trajectory: The states.
        spec: The lattice, of at least two cells.
        rules: The thresholds; their defaults where left out.

    Shapes:
        trajectory [T + 1, B, N, F] → B classes.

    Raises:
        ValueError: The trajectory is not sound, has fewer than 16 states, or the lattice is a single cell.
    """
    rules = rules or SpaceRules()
    x = checked(trajectory[-rules.window :], spec, SHORTEST)
    moran = morans_i(x[-1:], spec)[0].tolist()
    return [_classify(x[:, sample], moran[sample], spec, rules) for sample in range(x.shape[1])]


def _classify(x: Tensor, moran: float, spec: LatticeSpec, rules: SpaceRules) -> SpaceClass:
    """Classify the window x [W, N, F] of one sample."""
    deviation = (x - x.mean(dim=1, keepdim=True)).square().mean(dim=(1, 2))
    scale = float(x.square().mean(dim=(1, 2)).max())
    spread = _root(float(deviation[-1]), scale)
    motion = _root(float(x.var(dim=0, correction=0).mean()), float(deviation.mean()))
    spectrum = _spectrum(x)
    lag = smooth = variation = math.nan
    cores = squares = 0
    swing = _root(2 * float(spectrum.abs().square().sum()) / x[0].numel(), float(deviation.mean()))
    if swing > rules.still:
        lag, smooth = _advance(spectrum, spec)
        variation, cores, squares = _cores(spectrum, spec)
    name: SpaceName = "disordered"
    if not spread > rules.uniform:
        name = "uniform"
    elif smooth >= rules.smooth and variation <= rules.steady and 0 < cores <= max(1, rules.cores * squares):
        name = "spiral"
    elif smooth >= rules.smooth and lag >= rules.lag:
        name = "wave"
    elif moran >= rules.moran:
        name = "clustered"
    elif motion <= rules.still:
        name = "static"
    return SpaceClass(name, spread, motion, swing, moran, lag, smooth, variation, cores)


def _root(value: float, whole: float) -> float:
    return math.sqrt(value / whole) if whole > 0 else math.nan if value == 0 else math.inf


def _spectrum(x: Tensor) -> Tensor:
    """Return the cells' tapered Fourier transforms from 3 swings a window to below 1/2 a step, [frequencies, N, F].

    Scaled so that twice the sum of their squares is the mean square in time. Below three swings the taper does not tell
    a swing from a trend; at 1/2 a swing has no direction.
    """
    taper = torch.hann_window(len(x), dtype=x.dtype, device=x.device)[:, None, None]
    mean = (taper * x).sum(dim=0) / taper.sum()
    spectrum = torch.fft.rfft(taper * (x - mean), dim=0)[3 : (len(x) + 1) // 2]
    return spectrum / (len(x) * taper.square().sum()).sqrt()


def _advance(spectrum: Tensor, spec: LatticeSpec) -> tuple[float, float]:
    """Return the lag and the smoothness."""
    power = spectrum.abs().square().sum(dim=(0, 2))
    alike = both = squared = 0.0
    for axis, (first, second) in enumerate(face_pairs(spec)):
        if not len(first):
            continue
        link = (spectrum[:, second] * spectrum[:, first].conj()).sum(dim=(0, 2))
        alike += float(link.real.sum())
        both += float((power[first] + power[second]).sum()) / 2
        shape = [*spec.shape]
        shape[axis] = len(first) * spec.shape[axis] // spec.num_nodes
        ahead, onward = link.imag.reshape(shape), link.imag.reshape(shape).roll(-1, axis)
        middle = power[second].reshape(shape).square()
        kept = shape[axis] if shape[axis] == spec.shape[axis] else shape[axis] - 1
        whole = float(middle.narrow(axis, 0, kept).sum())
        squared += float((ahead * onward).narrow(axis, 0, kept).sum()) / whole if whole > 0 else 0.0
    return math.sqrt(max(0.0, squared)), alike / both


def _cores(spectrum: Tensor, spec: LatticeSpec) -> tuple[float, int, int]:
    """Return the variation of the amplitudes at the strongest frequency, the cores of its phase, and all squares."""
    tone = spectrum[spectrum.abs().square().sum(dim=(1, 2)).argmax()]
    amplitude = tone.abs().square().sum(dim=1).sqrt()
    grid, wraps = node_grid(spec), [p and n > 2 for n, p in zip(spec.shape, spec.periodic, strict=True)]
    cores = squares = 0
    for a, b in itertools.combinations(range(3), 2):
        corners = [grid, grid.roll(-1, a), grid.roll((-1, -1), (a, b)), grid.roll(-1, b)]
        for axis in (a, b):
            if not wraps[axis]:
                corners = [corner.narrow(axis, 0, spec.shape[axis] - 1) for corner in corners]
        ring = [tone[corner.reshape(-1)] for corner in corners]
        turns = [(after * before.conj()).sum(dim=1).angle() for before, after in itertools.pairwise([*ring, ring[0]])]
        cores += int((torch.stack(turns).sum(dim=0).abs() > math.pi).sum())
        squares += len(ring[0])
    return float(amplitude.std(correction=0)) / float(amplitude.mean()), cores, squares
