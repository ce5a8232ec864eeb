"""Pictures of damage: quality over the steps after a blow, against the cells lost, against the hole in a wall."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from latticegnn.report.plots import BLUE, GREEN, GREY, MARKS, PURPLE, VERMILLION, band, spanned, styled

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
    for (name, runs), colour, mark in zip(models.items(), COLOURS, MARKS, strict=False):
        steps = [row["step"] for row in runs[0]]
        for key, style in (("intact", "--"), ("lesioned", "-")):
            shown = slice(at if key == "lesioned" else 0, None)  # before the blow the two are one
            courses = spanned([[row[key] for row in run][shown] for run in runs], statistics.fmean)
            label = name if key == "lesioned" else f"{name}, no blow"
            width = 1.0 if style == "--" else 1.8
            band(
                axes, steps[shown], *courses, linestyle=style, color=colour, label=label, linewidth=width, marker=mark,
                markersize=3,
            )  # fmt: skip
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
    figure = _against(rows, "part", "percolation", "Quality as cells fall silent", "part of the cells that are silent")
    figure.axes[0].xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure


@styled
def wall_curve(rows: Sequence[Row]) -> Figure:
    """Draw quality against the side of the hole in a wall, and beside it which ports a signal still reaches.

    Args:
        rows: Of `latticegnn.analysis.wall`.

    Raises:
        ValueError: When there is no row.
    """
    figure = _against(rows, "opening", "wall", "Quality through a hole in a wall", "side of the hole, cells")
    figure.axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _against(rows: Sequence[Row], key: str, analysis: str, title: str, along: str) -> Figure:
    """Draw quality, with its interval where there is one, and the ports in reach against a row's key."""
    _check_rows(rows, analysis)
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    x, quality = [row[key] for row in rows], [row["quality"] for row in rows]
    if "low" in rows[0]:
        low, high = ([row[end] for row in rows] for end in ("low", "high"))
        band(axes, x, quality, low, high, color=BLUE, marker="o", label="quality, 95 % interval")
    else:
        axes.plot(x, quality, color=BLUE, marker="o", label="quality")
    axes.plot(x, [row["reached"] for row in rows], "--", color=VERMILLION, label="output ports within reach")
    if "connected" in rows[0]:
        axes.plot(x, [row["connected"] for row in rows], ":", color=GREY, label="draws with any in reach")
    _finish(axes, title, along)
    axes.legend(loc="best")
    return figure


@styled
def lesion_bars(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the quality that is left under each lesion as bars, the costliest on top, against that without any.

    Args:
        rows: Of `latticegnn.analysis.quality_lost`.

    Raises:
        ValueError: When there is no row.
    """
    _check_rows(rows, "quality_lost")
    ordered = sorted(rows, key=lambda row: row["lost"])  # bars are drawn from below
    figure = Figure(figsize=(6.8, 1.3 + 0.42 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    left = [row["lesioned"] for row in ordered]
    axes.barh([row["lesion"] for row in ordered], left, height=0.62, color=BLUE)
    for place, row in enumerate(ordered):
        text = f"{row['lesioned']:.3f}  ({row['lesioned'] - row['intact']:+.3f})"
        axes.annotate(text, (max(row["lesioned"], 0), place), (6, 0), textcoords="offset points", va="center")
    axes.axvline(ordered[0]["intact"], color=VERMILLION, linestyle="--", label=f"intact {ordered[0]['intact']:.3f}")
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set_title("What is left under each lesion")
    axes.set_xlabel("quality")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.25)
    axes.grid(axis="x")
    figure.legend(loc="outside lower right")
    return figure


def _check_rows(rows: Sequence[Mapping[str, Any]], analysis: str) -> None:
    if not rows:
        raise ValueError(
            f"A figure needs at least one row; received none. Take those of latticegnn.analysis.{analysis}."
        )


def _finish(axes: Axes, title: str, along: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(along)
    axes.set_ylabel("quality")
    axes.grid(axis="y")
