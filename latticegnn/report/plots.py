"""Plots of a run: curves over steps, models side by side, gates. And the look that all pictures share."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, ParamSpec

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

#: The colours of Okabe and Ito (2008), told apart by colour-blind readers too.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILLION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY, PALE = "#6E6E6E", "#D9D9D9"

INPUT, OUTPUT = BLUE, VERMILLION
TIERS = {"local": ORANGE, "functional": GREEN, "distant": PURPLE}
SPLITS = {"train": BLUE, "validation": VERMILLION, "test": GREEN}
OTHERS = [PURPLE, ORANGE, SKY, BLACK]
#: What tells lines apart where colours do not print.
DASHES, MARKS = ("-", "--", ":", "-."), ("o", "s", "^", "D")

METRICS = {
    "fvu": ("variance unexplained (FVU)", "lower"),
    "explained_variance": ("explained variance (1 − FVU)", "higher"),
    "cosine": ("cosine with the target", "higher"),
    "neighbour_recall@10": ("neighbours kept, of 10", "higher"),
    "mrr@10": ("mean reciprocal rank (MRR@10)", "higher"),
    "recall@1": ("right answer first (recall@1)", "higher"),
    "recall@10": ("right answer among 10 (recall@10)", "higher"),
    "token_accuracy": ("right tokens at their places", "higher"),
}
"""Metric of `latticegnn.analysis.evaluate` → what it is called in a picture, and which way is better."""

LOG_SPAN = 20
"""Positive values that span more than this factor are drawn on a logarithmic axis."""

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelcolor": "#333333",
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": "#333333",
    "ytick.labelcolor": "#333333",
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}

P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the house's style and leave the caller's settings of matplotlib alone."""
    return rc_context(STYLE)(draw)


def band(
    axes: Axes, x: Sequence[float], middle: Sequence[float], low: Sequence[float], high: Sequence[float], **line: Any
) -> None:
    """Draw a line and, behind it, what lies between two others, in its colour; ``line`` is for `Axes.plot`."""
    (drawn,) = axes.plot(x, middle, **line)
    axes.fill_between(x, low, high, color=drawn.get_color(), alpha=0.15, linewidth=0)


def spanned(
    curves: Sequence[Sequence[float]], centre: Callable[[Sequence[float]], float] = statistics.median
) -> tuple[list[float], list[float], list[float]]:
    """Return centre, lowest and highest of several curves, place by place; NaN where one of them is not finite."""
    columns = [list(column) for column in zip(*curves, strict=True)]
    whole = [all(math.isfinite(value) for value in column) for column in columns]
    return tuple(
        [float(pick(column)) if fine else math.nan for column, fine in zip(columns, whole, strict=True)]
        for pick in (centre, min, max)
    )  # type: ignore[return-value]


@styled
def loss_curves(history: Mapping[str, Sequence[tuple[int, float]]]) -> Figure:
    """Draw recorded numbers over steps, one panel a quantity, one line a split.

    A panel is logarithmic where its values are positive and span more than a factor of `LOG_SPAN`. A value that is not
    finite leaves a gap.

    Args:
        history: ``"split/quantity"`` (``"validation/loss"``) or ``"quantity"`` → (step, value) pairs in the order of
            steps.

    Raises:
        ValueError: When nothing was recorded, under any name or under one.
    """
    if not history or not all(history.values()):
        empty = [name for name, series in history.items() if not series]
        raise ValueError(
            f"Curves need at least one recorded (step, value) pair a name; received none for {empty or 'any name'}. "
            "Train for at least one step, or leave the name out."
        )
    panels: dict[str, dict[str, Sequence[tuple[int, float]]]] = {}
    for name, series in history.items():
        split, _, quantity = name.rpartition("/")
        panels.setdefault(quantity, {})[split] = series
    columns = min(3, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * lines), layout="constrained")
    for place, (quantity, by_split) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(lines, columns, place)
        label, better = METRICS.get(quantity, (quantity, None))
        axes.set_title(label)
        axes.set_xlabel("step")
        if better is not None:
            axes.set_ylabel(f"{better} is better", color=GREY)
        axes.grid(axis="y")
        spare = iter(OTHERS * len(by_split))
        for (split, series), dash in zip(by_split.items(), cycle(DASHES), strict=False):
            steps, values = zip(*series, strict=True)
            # A lone point draws no line.
            mark = "o" if len(series) == 1 else None
            colour = SPLITS.get(split) or next(spare)
            axes.plot(steps, values, color=colour, linestyle=dash, label=split, marker=mark)
        found = [value for series in by_split.values() for _, value in series if math.isfinite(value)]
        if found and min(found) > 0 and max(found) > LOG_SPAN * min(found):
            axes.set_yscale("log")
        if any(by_split):
            axes.legend(loc="best")
    return figure


@styled
def honest_table(rows: Sequence[Mapping[str, Any]], metric: str) -> Figure:
    """Draw one metric of several models as horizontal bars with their 95 % intervals, the best on top.

    Models with "lattice" in their name are highlighted.

    Args:
        rows: One a model: ``"model"``, the metric, ``"<metric>_low"``, ``"<metric>_high"`` and ``"parameters"`` (the
            number trained).
        metric: A name of `METRICS`.

    Raises:
        ValueError: When the metric is unknown, there is no row, or a row lacks an entry.
    """
    if metric not in METRICS:
        raise ValueError(f"The metric must be one of {', '.join(METRICS)}; received {metric!r}. Choose one of them.")
    keys = ("model", metric, f"{metric}_low", f"{metric}_high", "parameters")
    lacking = [f"row {number} lacks {key}" for number, row in enumerate(rows) for key in keys if key not in row]
    if not rows or lacking:
        raise ValueError(
            f"Every model's row needs {', '.join(keys)}; received {'; '.join(lacking) or 'no row'}. "
            "Take the rows from a run's metrics.json."
        )
    label, better = METRICS[metric]
    ordered = sorted(rows, key=lambda row: row[metric], reverse=better == "lower")  # bars are drawn from below
    figure = Figure(figsize=(7.2, 1.3 + 0.52 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for place, row in enumerate(ordered):
        ours = "lattice" in row["model"].lower()
        low, high = row[f"{metric}_low"], row[f"{metric}_high"]
        axes.barh(place, row[metric], height=0.62, color=VERMILLION if ours else "#B8C4CE")
        axes.plot([low, high], [place, place], color=BLACK, linewidth=1.4, marker="|", markersize=7)
        axes.annotate(
            f"{row[metric]:.3f}", (max(high, row[metric]), place), (6, 0), textcoords="offset points", va="center",
            fontweight="bold" if ours else "normal",
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), [f"{row['model']}\n{row['parameters']:,} parameters" for row in ordered])
    for text, row in zip(axes.get_yticklabels(), ordered, strict=True):
        text.set_fontweight("bold" if "lattice" in row["model"].lower() else "normal")
    axes.tick_params(axis="y", length=0, labelsize=9)
    axes.spines["left"].set_visible(False)
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.margins(x=0.1)
    axes.grid(axis="x")
    figure.suptitle(f"{label[0].upper()}{label[1:]}", x=0.01, ha="left", fontsize=11, fontweight="bold")
    axes.set_xlabel(f"{better} is better; lines are 95 % intervals over the rows held out", loc="left", color=GREY)
    return figure


@styled
def gate_usage(gates: Mapping[str, Sequence[float]], along: str = "step") -> Figure:
    """Draw how the gate shares its weight among the experts, stacked, over steps.

    Args:
        gates: Tier name → mean gate weight at each step, in 0…1; the tiers of a step add up to 1.
        along: What the steps are, the label of the horizontal axis.

    Raises:
        ValueError: When there is no tier, tiers have different numbers of steps, or weights are not shares of 1.
    """
    lengths = {name: len(weights) for name, weights in gates.items()}
    if not lengths or len(set(lengths.values())) > 1 or 0 in lengths.values():
        raise ValueError(
            f"Gate usage needs as many weights of each tier, at least one; received {lengths or 'no tier'}. "
            "Record every tier at every step."
        )
    for step, shares in enumerate(zip(*gates.values(), strict=True)):
        if not math.isclose(sum(shares), 1, abs_tol=1e-3) or min(shares) < 0:
            raise ValueError(
                f"A gate's weights are shares of 1; step {step} has {', '.join(f'{w:.4g}' for w in shares)}. "
                "Give the mean of LatticeCell.gates over samples and cells."
            )
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.add_subplot()
    steps = range(next(iter(lengths.values())))
    spare = iter(OTHERS * len(gates))
    colours = [TIERS.get(name) or next(spare) for name in gates]
    # White seams, and the names beside the areas, keep them apart where colours do not print.
    areas = [[float(weight) for weight in weights] for weights in gates.values()]
    axes.stackplot(steps, areas, labels=list(gates), colors=colours, alpha=0.85, edgecolor="white", linewidth=1.2)
    below = 0.0
    for name, weights in gates.items():
        axes.annotate(
            f"{name}  {weights[-1]:.0%}", (1, below + weights[-1] / 2), (8, 0), xycoords="axes fraction",
            textcoords="offset points", va="center",
        )  # fmt: skip
        below += weights[-1]
    _frame(axes, along)
    return figure


def _frame(axes: Axes, along: str) -> None:
    axes.set_title("Which tier the gate listens to")
    axes.set_xlabel(along)
    axes.set_ylabel("mean gate weight")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(0)
    axes.set_ylim(0, 1)


@styled
def retention_curve(rows: Sequence[Mapping[str, Any]], trained: Sequence[int]) -> Figure:
    """Draw what a cell keeps of its quality on lattices of other sizes, before and after a short training there.

    Args:
        rows: As `latticegnn.analysis.retention` gives them.
        trained: Shape of the lattice that the cell was trained on; a dotted line marks it.

    Raises:
        ValueError: When there is no row.
    """
    if not rows:
        raise ValueError("A retention curve needs the row of at least one size; received none. Evaluate a size first.")
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    looks: dict[str, dict[str, Any]] = {
        "cells": {"color": BLUE, "marker": "o"},
        "ratios": {"color": VERMILLION, "marker": "s"},
    }
    for keep in dict.fromkeys(row["keep"] for row in rows):
        own = [row for row in rows if row["keep"] == keep]
        sides = [math.prod(row["shape"]) ** (1 / 3) for row in own]
        label = f"radii kept in {keep}"
        kept = [row["retention"] for row in own]
        axes.plot(sides, kept, linestyle="--", label=f"{label}, zero-shot", **looks[keep])
        if all("tuned_retention" in row for row in own):
            tuned = [row["tuned_retention"] for row in own]
            axes.plot(sides, tuned, label=f"{label}, fine-tuned", **looks[keep])
    axes.axhline(1, color=GREY, linewidth=0.8)
    axes.axvline(math.prod(trained) ** (1 / 3), color=GREY, linewidth=0.8, linestyle=":")
    axes.set_ylim(bottom=min(0, max(-0.5, axes.get_ylim()[0])), top=max(1.1, min(1.5, axes.get_ylim()[1])))
    axes.set_title("What a trained cell keeps at other sizes")
    axes.set_xlabel("cells along a side (cube root of their number)")
    axes.set_ylabel("retention of explained variance")
    axes.grid(axis="y")
    axes.legend(loc="best")
    return figure


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure as PNG at 150 dpi; the file appears whole or not at all, equal for equal figures.

    Args:
        figure: What to write.
        path: The file, ending in ``.png``; its folder is created.

    Raises:
        ValueError: When the path ends otherwise.
    """
    file = Path(path)
    if file.suffix != ".png":
        raise ValueError(f"A figure is saved as PNG, under a name ending in .png; received {str(path)!r}. Rename it.")
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        # The version of matplotlib, which it would note, makes equal pictures unequal files.
        figure.savefig(part, format="png", dpi=150, metadata={"Software": None})
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)
