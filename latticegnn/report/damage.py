"""Pictures of damage: quality over the steps after a blow, against the cells lost, against the hole in a wall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from latticegnn.report.plots import BLUE, GREEN, GREY, PURPLE, VERMILLION, styled

COLOURS = (BLUE, VERMILLION, GREEN, PURPLE)
Row = Mapping[str, float]


@styled
def recovery_curves(models: Mapping[str, Sequence[Sequence[Row]]], at: int) -> Figure:
    """Draw quality over steps with a blow (lines) and without (dashes), the mean over runs and their whole range.

    Args:
        models: Up to four names → runs, each the rows of `latticegnn.analysis.recovery`, all over the same steps.
        at: The step of the blow.

    Raises:
        ValueError: When a model has no run, or runs differ in their steps.
    """
    lengths = {name: sorted({len(run) for run in runs}) for name, runs in models.items()}
    if not models or len(models) > len(COLOURS) or {len(found) for found in lengths.values()} != {1}:
        raise ValueError(
            f"Recovery is drawn for one to {len(COLOURS)} models, each with at least one run, all over the same steps; "
            f"received the lengths {lengths}. Take the rows of recovery(…) with the same at and steps."
        )
    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    axes = figure.add_subplot()
    for (name, runs), colour in zip(models.items(), COLOURS, strict=False):
        steps = [row["step"] for row in runs[0]]
        for key, style in (("intact", "--"), ("lesioned", "-")):
            values = list(zip(*([row[key] for row in run] for run in runs), strict=True))
            mean = [sum(found) / len(found) for found in values]
            shown = slice(at if key == "lesioned" else 0, None)  # before the blow the two are one
            label = name if key == "lesioned" else f"{name}, no blow"
            axes.plot(
                steps[shown], mean[shown], style, color=colour, label=label, linewidth=1.0 if style == "--" else 1.8
            )
            low, high = [min(found) for found in values], [max(found) for found in values]
            axes.fill_between(steps[shown], low[shown], high[shown], color=colour, alpha=0.15, linewidth=0)
    axes.axvline(at, color=GREY, linewidth=0.8, linestyle=":")
    axes.annotate("blow", (at, 0.02), (4, 0), xycoords=("data", "axes fraction"), textcoords="offset points")
    _finish(axes, "Quality after a blow", "step")
    axes.set_ylim(max(-0.1, axes.get_ylim()[0]), 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@styled
def percolation_curve(rows: Sequence[Row]) -> Figure:
    """Draw quality against the part of cells that are silent, and beside it which ports a signal still reaches.

    Args:
        rows: Of `latticegnn.analysis.percolation`.

    Raises:
        ValueError: When there is no row.
    """
    _check_rows(rows, "percolation")
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    parts = [row["part"] for row in rows]
    axes.plot(parts, [row["quality"] for row in rows], color=BLUE, marker="o", label="quality, 95 % interval")
    axes.fill_between(
        parts, [row["low"] for row in rows], [row["high"] for row in rows], color=BLUE, alpha=0.15, linewidth=0
    )
    axes.plot(parts, [row["reached"] for row in rows], "--", color=VERMILLION, label="output ports within reach")
    axes.plot(parts, [row["connected"] for row in rows], ":", color=GREY, label="draws with any in reach")
    _finish(axes, "Quality as cells fall silent", "part of the cells that are silent")
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend(loc="best")
    return figure


@styled
def wall_curve(rows: Sequence[Row]) -> Figure:
    """Draw quality against the side of the hole in a wall.

    Args:
        rows: Of `latticegnn.analysis.wall`.

    Raises:
        ValueError: When there is no row.
    """
    _check_rows(rows, "wall")
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    openings = [row["opening"] for row in rows]
    axes.plot(openings, [row["quality"] for row in rows], color=BLUE, marker="o", label="quality")
    axes.plot(openings, [row["reached"] for row in rows], "--", color=VERMILLION, label="output ports within reach")
    _finish(axes, "Quality through a hole in a wall", "side of the hole, cells")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="best")
    return figure


def _check_rows(rows: Sequence[Row], name: str) -> None:
    if not rows:
        raise ValueError(f"A curve needs at least one row; received none. Take those of latticegnn.analysis.{name}.")


def _finish(axes: Axes, title: str, along: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(along)
    axes.set_ylabel("quality")
    axes.grid(axis="y")
