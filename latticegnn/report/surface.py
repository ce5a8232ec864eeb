"""Quality by output ports and steps, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from latticegnn.report.plots import METRICS, styled


@styled
def surface_map(rows: Sequence[Mapping[str, Any]], metric: str) -> Figure:
    """Draw one metric of a surface as a heat map, ports across and steps upwards; darker is better.

    An unexplained fraction of 1 and more, no better than the mean, has the palest colour, so that a rollout that
    diverges hides no other difference; each value stands in its field, which is blank where it is NaN.

    Args:
        rows: Of `latticegnn.analysis.quality_surface`.
        metric: A name of `METRICS` that the rows have.

    Raises:
        ValueError: When a place of the surface is missing, or the metric.
    """
    steps, ports, values = _grid(rows, metric)
    label, better = METRICS[metric]
    finite = values[np.isfinite(values)]
    low = finite.min(initial=1.0)
    high = max(low, min(finite.max(initial=low), 1.0))
    figure = Figure(figsize=(1.8 + 0.8 * len(ports), 1.6 + 0.42 * len(steps)), layout="constrained")
    axes = figure.add_subplot()
    colours = "Blues_r" if better == "lower" else "Blues"
    image = axes.imshow(values, cmap=colours, vmin=low, vmax=high, aspect="auto", origin="lower")
    for (row, column), value in np.ndenumerate(values):
        red, green, blue, _ = image.to_rgba(np.array([value]))[0]
        dark = np.isfinite(value) and 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
        text = f"{value:.3f}" if abs(value) < 10 else f"{value:.3g}"
        axes.text(column, row, text, ha="center", va="center", color="white" if dark else "black", fontsize=9)
    axes.set_xticks(range(len(ports)), [str(count) for count in ports])
    axes.set_yticks(range(len(steps)), [str(step) for step in steps])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("output ports read")
    axes.set_ylabel("steps")
    figure.suptitle(f"{label[0].upper()}{label[1:]}, {better} is better", x=0.01, ha="left", fontweight="bold")
    return figure


def _grid(rows: Sequence[Mapping[str, Any]], metric: str) -> tuple[list[int], list[int], np.ndarray]:
    """Return the steps, the ports, and the metric at each pair of them."""
    steps, ports = (sorted({row[key] for row in rows}) for key in ("steps", "ports"))
    found = {(row["steps"], row["ports"]): row[metric] for row in rows if metric in row}
    wanted = [(step, count) for step in steps for count in ports]
    if metric not in METRICS or not wanted or not set(wanted) <= set(found):
        raise ValueError(
            f"A surface has a value of its metric, one of {', '.join(METRICS)}, for every pair of steps and ports; "
            f"received {len(found)} values of {metric!r} for {len(wanted)} pairs. Take the rows of quality_surface."
        )
    return steps, ports, np.array([found[pair] for pair in wanted]).reshape(len(steps), len(ports))
