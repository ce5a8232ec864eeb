"""Where rollouts go from many starts, as a picture."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from latticegnn.analysis import TimeClass, TimeRules, classify_time
from latticegnn.analysis.trajectory import checked
from latticegnn.lattice import LatticeSpec
from latticegnn.report.plots import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILLION, styled

CLASSES = {
    "fixed point": ("o", BLUE),
    "cycle": ("s", GREEN),
    "quasi-periodic": ("D", ORANGE),
    "drift": (">", PURPLE),
    "chaotic": ("X", VERMILLION),
}
"""Class of a motion in time → mark and colour of its end."""


@styled
def attractor_portrait(trajectory: Tensor, spec: LatticeSpec, rules: TimeRules | None = None) -> Figure:
    r"""Draw the paths of several rollouts in the plane in which their states vary most, coloured by step.

    The axes are the first two principal components of all states of all rollouts, :math:`U_2 S_2` of the centred
    matrix :math:`U S V^\top` [(T + 1)·B, N·F]. A path starts at a cross and ends at a mark that tells the class of its
    last states, see `latticegnn.analysis.classify_time`. A plane can hide what happens across it: its share of the
    variance is told.

    Args:
        trajectory: Of B rollouts.
        spec: The lattice.
        rules: Of `classify_time`.

    Shapes:
        trajectory [T + 1, B, N, F], T ≥ 31.

    Raises:
        ValueError: When the trajectory is not sound, too short for a class, or never moves.
    """
    x = checked(trajectory, spec).flatten(2)
    classes = classify_time(trajectory, spec, rules=rules)
    steps, rows = x.shape[:2]
    plane, shares = _principal(x.flatten(0, 1))
    paths = plane.view(steps, rows, 2).transpose(0, 1).numpy()
    figure = Figure(figsize=(6.8, 5.0), layout="constrained")
    axes = figure.add_subplot()
    for path, told in zip(paths, classes, strict=True):
        pieces = np.stack([path[:-1], path[1:]], axis=1)
        lines = LineCollection(list(pieces), cmap="viridis", array=np.arange(1, steps), linewidth=1.1, alpha=0.8)
        lines.set_clim(1, steps - 1)
        axes.add_collection(lines)
        mark, colour = CLASSES[told.name]
        axes.plot(*path[0], "x", color=GREY, markersize=5)
        axes.plot(*path[-1], mark, color=colour, markeredgecolor=BLACK, markeredgewidth=0.6, markersize=7, zorder=4)
    axes.autoscale_view()
    axes.margins(0.06)
    axes.set_title(f"{rows} start{'s' if rows > 1 else ''}, {steps - 1} steps")
    for name, share in zip("xy", shares, strict=True):
        axes.set(**{f"{name}label": f"principal component {'xy'.index(name) + 1} ({share:.0%} of the variance)"})
    axes.grid(True)
    bar = figure.colorbar(lines, ax=axes, label="step", pad=0.02)
    bar.outline.set_visible(False)
    start = Line2D([], [], color=GREY, marker="x", linestyle="", label="start")
    figure.legend(handles=[start, *_legend(classes)], loc="outside lower center", ncols=3)
    return figure


def _principal(x: Tensor) -> tuple[Tensor, list[float]]:
    """Return each row's first two principal coordinates, and the parts of the variance that they hold."""
    centred = x - x.mean(dim=0)
    wide = centred.shape[0] <= centred.shape[1]
    power, vectors = torch.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)  # the smaller of the two
    total = float(power.clamp_min(0).sum())
    if not total > 0:
        raise ValueError(
            "A portrait is of states that differ; received states that are all the same. Roll out other starts, or "
            "further."
        )
    room = max(0, 2 - len(power))
    power = torch.nn.functional.pad(power.flip(0)[:2].clamp_min(0), (0, room))
    vectors = torch.nn.functional.pad(vectors.flip(1)[:, :2], (0, room))
    return vectors * power.sqrt() if wide else centred @ vectors, (power / total).tolist()


def _legend(classes: list[TimeClass]) -> list[Line2D]:
    """Return an entry a class that occurs, with how often, and the periods of its cycles."""
    entries = []
    for name, (mark, colour) in CLASSES.items():
        own = [told for told in classes if told.name == name]
        periods = sorted(Counter(told.period for told in own if told.period is not None))
        label = f"{name} ({len(own)})" + (f", period {', '.join(map(str, periods[:4]))}" if periods else "")
        if own:
            entries.append(Line2D([], [], color=colour, marker=mark, markeredgecolor=BLACK, linestyle="", label=label))
    return entries
