"""Figures of an experiment: variants over their seeds while they trained, and what each change is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from latticegnn.report.plots import BLUE, GREEN, GREY, METRICS, OTHERS, VERMILLION, band, save, spanned, styled
from latticegnn.report.run import CURVES, read_history
from latticegnn.report.tables import MAIN, main_metric, named

History = Mapping[str, Sequence[tuple[int, float]]]
LOOKS = [(colour, dash) for dash, colour in product(("-", "--", ":", "-."), (VERMILLION, BLUE, GREEN, *OTHERS))]
"""Colour and dash of a variant; from the next one on they repeat."""


@styled
def seed_curves(variants: Mapping[str, Sequence[History]]) -> Figure:
    """Draw recorded numbers over updates, a panel a quantity, for each variant the median of its seeds and their range.

    A band ends with the shortest of a variant's seeds: beyond it the rest would be another set.

    Args:
        variants: Name → histories, one a seed: quantity → (update, value) pairs in the order of updates. A variant may
            lack a quantity, in all of its seeds.

    Raises:
        ValueError: When there is no variant or no quantity, or the seeds of a variant have other quantities or no
            update in common.
    """
    quantities = list(dict.fromkeys(name for several in variants.values() for own in several for name in own))
    if not quantities:
        raise ValueError(
            f"Curves need at least one recorded quantity; received none for {', '.join(variants) or 'no variant'}. "
            "Train for at least one epoch."
        )
    columns = min(2, len(quantities))
    lines = math.ceil(len(quantities) / columns)
    figure = Figure(figsize=(4.8 * columns, 3.2 * lines + 0.22 * len(variants) / 3), layout="constrained")
    for place, quantity in enumerate(quantities, start=1):
        axes = figure.add_subplot(lines, columns, place)
        for number, (name, several) in enumerate(variants.items()):
            found = [own[quantity] for own in several if quantity in own]
            if not found:
                continue
            shared = sorted(set.intersection(*({step for step, _ in series} for series in found)))
            if len(found) != len(several) or not shared:
                raise ValueError(
                    f"The seeds of a variant record the same quantities at the same updates; received "
                    f"{len(found)} of {len(several)} seeds of {name!r} with {quantity!r}, {len(shared)} updates in "
                    "common. Train all seeds with the same settings."
                )
            values = [[dict(series)[step] for step in shared] for series in found]
            colour, dash = LOOKS[number % len(LOOKS)]
            mark = "o" if len(shared) == 1 else None  # a lone point draws no line
            band(axes, shared, *spanned(values), color=colour, linestyle=dash, label=name, marker=mark)
        label, better = METRICS.get(quantity, (quantity, None))
        axes.set_title(label)
        axes.set_xlabel("update")
        if better is not None:
            axes.set_ylabel(f"{better} is better", color=GREY)
        axes.grid(axis="y")
    handles = {text: line for axes in figure.axes for line, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=3)
    return figure


@styled
def ablation_table(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw an experiment's table: a row a model of each variant, a panel a metric, and what the row differs by.

    Dots are means over the seeds, lines one standard deviation. The last panel is the main metric's difference from
    what is named at its right, the row less the other, with its 95 % intervals: thick over seeds, thin over test rows.
    Blue is better, orange worse by all intervals there are, grey open.

    Args:
        rows: Of `latticegnn.training.experiment.gather`, all with the same main metric.

    Raises:
        ValueError: When there is no row, or one lacks the main metric.
    """
    main = main_metric(rows[0]) if rows else "fvu"
    if not rows or any(main not in row or main_metric(row) != main for row in rows):
        raise ValueError(
            f"An ablation's rows share their main metric, {main}; received {len(rows)} rows, of which "
            f"{sum(main in row for row in rows)} have it. Draw the variants of each task by themselves."
        )
    others = ("fvu", "cosine", "neighbour_recall@10", "recall@10")
    shown = [main, *(name for name in others if name != main and all(name in row for row in rows))][:3]
    compared = [row for row in rows if "difference" in row and row.get("metric", main) == main]
    widths = [1.0] * len(shown) + [1.6] * bool(compared)
    figure = Figure(figsize=(2.4 + 2.4 * sum(widths), 1.7 + 0.36 * len(rows)), layout="constrained")
    panels = figure.subplots(1, len(widths), sharey=True, width_ratios=widths, squeeze=False)[0]
    places = range(len(rows))
    for axes, metric in zip(panels, shown, strict=False):
        label, better = METRICS[metric]
        for place, row in zip(places, rows, strict=True):
            ours = row["model"] == "lattice"
            axes.errorbar(
                row[metric], place, xerr=row[f"{metric}_sd"], fmt="o" if ours else "s", markersize=5, capsize=2,
                elinewidth=1.2, color=VERMILLION if ours else GREY,
            )  # fmt: skip
        axes.set_title(label.partition(" (")[2].rstrip(")") or label, fontsize=10)
        axes.set_xlabel(f"{better} is better", color=GREY)
    if compared:
        sign = 1 if METRICS[main][1] == "higher" else -1
        panels[-1].axvline(0, color=GREY, linewidth=0.8)
        for row in compared:
            _difference(panels[-1], rows.index(row), row, sign)
        panels[-1].set_title(f"difference in {panels[0].get_title(loc='left')}", fontsize=10)
        panels[-1].set_xlabel("95 %: thick over seeds, thin over rows", color=GREY)
    figure.suptitle("Variants: mean and standard deviation over seeds", x=0.01, ha="left", weight="bold", size=11)
    panels[0].set_yticks(places, [named(row) for row in rows])
    panels[0].invert_yaxis()
    for axes in panels:
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        axes.locator_params(axis="x", nbins=4)
    return figure


def _difference(axes: Any, place: int, row: Mapping[str, Any], sign: int) -> None:
    """Draw a row's difference from what it is compared with; the table has that of a baseline the other way round."""
    turn = 1 if row["model"] == "lattice" else -1
    spans = []
    for kind, width in (("seeds", 3.2), ("rows", 1.0)):
        if row.get(f"difference_{kind}_low") is not None:
            spans.append((sorted(turn * row[f"difference_{kind}_{end}"] for end in ("low", "high")), width))
    better = bool(spans) and all(low * sign > 0 and high * sign > 0 for (low, high), _ in spans)
    worse = bool(spans) and all(low * sign < 0 and high * sign < 0 for (low, high), _ in spans)
    colour = BLUE if better else VERMILLION if worse else GREY
    for (low, high), width in spans:
        axes.plot([low, high], [place, place], color=colour, linewidth=width)
    axes.plot(turn * row["difference"], place, "o", color=colour, markersize=5)
    other = row["compared"] if row["model"] == "lattice" else f"{row['variant']}: lattice"
    axes.annotate(
        f"− {other}", (1.02, place), xycoords=("axes fraction", "data"), va="center", fontsize=8, color=GREY
    )  # fmt: skip


def draw_experiment(
    folder: Path, rows: Sequence[Mapping[str, Any]], runs: Mapping[tuple[str, int], Path]
) -> list[Path]:
    """Draw an experiment's table and the validation curves of its runs into its folder ``figures``; return the files.

    Args:
        folder: The experiment's.
        rows: Its table.
        runs: The runs' folders by variant and seed, see `latticegnn.training.experiment.places`.
    """
    drawn = {}
    decides = {row["variant"]: main_metric(row) for row in rows if row["model"] == "lattice"}
    for metric in MAIN:
        # Beside a text decoder some baselines give embeddings alone, and have no part in its figure.
        own = [row for row in rows if decides[row["variant"]] == metric and metric in row]
        if own:
            drawn[f"ablation_{metric.partition('@')[0]}"] = ablation_table(own)
    histories: dict[str, list[History]] = {}
    for (name, _), place in runs.items():
        found = {key.partition("/")[2]: series for key, series in read_history(place).items()
                 if key.startswith("validation/") and key.rpartition("/")[2] in CURVES}  # fmt: skip
        histories.setdefault(name, []).append(found)
    if any(any(several) for several in histories.values()):
        drawn["curves"] = seed_curves(histories)
    files = {name: folder / "figures" / f"{name}.png" for name in drawn}
    for name, file in files.items():
        save(drawn[name], file)
    return list(files.values())
