"""Figures of what was looked at over a range: quality by steps, one curve a variant."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from latticegnn.report.plots import BLUE, GREY, MARKS, METRICS, OTHERS, VERMILLION, band, save, spanned, styled
from latticegnn.report.surface import surface_map

Curve = Sequence[tuple[float, float]]


@styled
def sweep(curves: Mapping[str, Sequence[Curve]], metric: str, along: str) -> Figure:
    """Draw a metric over what was swept: the median of each name's curves, and the span from lowest to highest.

    Metrics that a constant answer would bring to 0 are drawn from just below 0 to 1; what lies lower leaves the panel.

    Args:
        curves: Name to curves, one a seed, all over the same values; a value that is not finite is a gap.
        metric: A name of `METRICS`.
        along: What was swept, the label of the horizontal axis.

    Raises:
        ValueError: When the metric is unknown, or a name's curves are none or over different values.
    """
    if metric not in METRICS:
        raise ValueError(f"The metric must be one of {', '.join(METRICS)}; received {metric!r}. Choose one of them.")
    for name, several in curves.items():
        places = {tuple(x for x, _ in curve) for curve in several}
        if len(places) != 1:
            raise ValueError(
                f"The curves of a name lie over the same values, and there is at least one; received {len(places)} "
                f"sets of values for {name!r}. Compute them over one range."
            )
    label, better = METRICS[metric]
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    colours = [VERMILLION, BLUE, *OTHERS] * len(curves)
    for colour, mark, (name, several) in zip(colours, cycle(MARKS), curves.items(), strict=False):
        x = [place for place, _ in several[0]]
        middle, low, high = spanned([[y for _, y in curve] for curve in several])
        band(axes, x, middle, low, high, color=colour, label=name, marker=mark, markersize=3)
    if better == "higher":
        axes.set_ylim(-0.05, 1.02)
    axes.set_title(label)
    axes.set_xlabel(along)
    axes.set_ylabel(f"{better} is better", color=GREY)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y")
    axes.legend(loc="best")
    return figure


def draw_analyses(folder: Path) -> list[Path]:
    """Draw what `latticegnn.training.analyses` found for a run or an experiment, and return the figures' files.

    Args:
        folder: A run's, with its folder ``analysis``, or an experiment's, with ``experiment.json``.
    """
    drawn = {}
    steps = _found(folder, "steps")
    if steps:
        metric = _metric(next(iter(steps.values()))[0])
        curves = {
            name: [[(row["steps"], row[metric]) for row in rows] for rows in runs] for name, runs in steps.items()
        }
        drawn["steps"] = sweep(curves, metric, "steps")
    for name, runs in _found(folder, "surface").items():
        metric = "mrr@10" if "mrr@10" in runs[0][0] else "fvu"
        places = [{key: rows[0][key] for key in ("steps", "ports")} for rows in zip(*runs, strict=True)]
        means = [statistics.fmean(row[metric] for row in rows) for rows in zip(*runs, strict=True)]
        rows = [place | {metric: mean} for place, mean in zip(places, means, strict=True)]
        drawn[f"surface_{name}"] = surface_map(rows, metric)
    files = {name: folder / "analysis" / f"{name}.png" for name in drawn}
    for name, file in files.items():
        save(drawn[name], file)
    return list(files.values())


def _metric(rows: Sequence[Mapping[str, float]]) -> str:
    return "mrr@10" if "mrr@10" in rows[0] else "explained_variance"


def _found(folder: Path, analysis: str) -> dict[str, list[list[dict[str, float]]]]:
    """Return the rows of an analysis by variant and seed; a run is one variant, "lattice"."""
    whole, single = folder / "experiment.json", folder / "analysis" / f"{analysis}.json"
    if whole.is_file():
        return dict(json.loads(whole.read_text(encoding="utf-8")).get("analysis", {}).get(analysis, {}))
    if single.is_file():
        return {"lattice": [json.loads(single.read_text(encoding="utf-8"))["rows"]]}
    return {}
