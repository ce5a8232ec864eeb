"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

METRICS = (
    "token_accuracy", "exact_match", "token_f1", "bleu", "reembedded_cosine",
    "mrr@10", "recall@1", "recall@10", "fvu", "cosine", "neighbour_recall@10",
)  # fmt: skip
MAIN = {"token_accuracy": 1, "mrr@10": 1, "fvu": -1}
"""The figure that decides is the first of these that a row has; 1 where more is better."""


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Lay out a run's table: a row a model, each figure with its 95 % bootstrap interval."""
    metrics = [m for m in METRICS if m in rows[0]]
    head = ["model", "parameters", *metrics, "seconds", "ms/update"]
    lines = [head]
    for row in rows:
        figures = [
            f"{row[m]:.3f} [{row[f'{m}_low']:.3f}, {row[f'{m}_high']:.3f}]" if m in row else "–" for m in metrics
        ]
        lines.append([row["model"], f"{row['parameters']:,}", *figures, *_cost(row)])
    return columns(lines)


def format_verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say for each baseline whether the lattice wins: the paired difference on the same test rows, 95 % interval."""
    metric = main_metric(rows[0])
    sign = MAIN[metric]
    lines = []
    for row in rows[1:]:
        if "lattice_minus" not in row:
            continue
        low, high = row["lattice_minus_low"], row["lattice_minus_high"]
        better = low * sign > 0 and high * sign > 0
        worse = low * sign < 0 and high * sign < 0
        verdict = "the lattice wins" if better else "the lattice loses" if worse else "no clear difference"
        gap = f"{row['lattice_minus']:+.3f} [{low:+.3f}, {high:+.3f}]"
        lines.append(f"lattice − {row['model']}: {metric} {gap}, {verdict}")
    return "\n".join(lines)


def main_metric(row: Mapping[str, Any]) -> str:
    """Name the figure of a row that decides."""
    return next(metric for metric in MAIN if metric in row)


def format_variants(rows: Sequence[Mapping[str, Any]]) -> str:
    """Lay out an experiment's table: a row a model of each variant, mean ± deviation over its seeds, and cost."""
    metrics = [m for m in METRICS if any(m in row for row in rows)]
    lines = [["variant", "seeds", "parameters", *metrics, "seconds", "ms/update"]]
    for row in rows:
        figures = [f"{row[m]:.3f} ± {row[f'{m}_sd']:.3f}" if m in row else "–" for m in metrics]
        lines.append([named(row), str(row["seeds"]), f"{row['parameters']:,}", *figures, *_cost(row)])
    return columns(lines)


def format_differences(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say of each comparison in an experiment how it ends, by both 95 % intervals: over seeds and over test rows.

    A side wins where every interval there is lies on its side of zero.
    """
    lines = []
    for row in rows:
        if "difference" not in row:
            continue
        metric = row.get("metric") or main_metric(row)
        sign = MAIN[metric]
        spans = {
            kind: (row.get(f"difference_{kind}_low"), row.get(f"difference_{kind}_high")) for kind in ("seeds", "rows")
        }
        found = {kind: (low, high) for kind, (low, high) in spans.items() if low is not None and high is not None}
        if row["model"] == "lattice":
            sides, title = (row["variant"], row["compared"]), f"{row['variant']} − {row['compared']}"
        else:
            sides, title = ("the lattice", row["model"]), f"{row['variant']}: lattice − {row['model']}"
        wins = bool(found) and all(low * sign > 0 and high * sign > 0 for low, high in found.values())
        loses = bool(found) and all(low * sign < 0 and high * sign < 0 for low, high in found.values())
        verdict = f"{sides[0]} wins" if wins else f"{sides[1]} wins" if loses else "no clear difference"
        ends = "".join(f", {kind} [{low:+.4f}, {high:+.4f}]" for kind, (low, high) in found.items())
        lines.append(f"{title}: {metric} {row['difference']:+.4f}{ends}: {verdict}")
    return "\n".join(lines)


def format_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """Lay out rows that all have the same keys: a column a key."""
    head = list(rows[0])
    values = [[f"{row[key]:.4g}" if isinstance(row[key], float) else str(row[key]) for key in head] for row in rows]
    return columns([head, *values])


def format_trials(rows: Sequence[Mapping[str, Any]]) -> str:
    """Lay out a search's table: a row a trial, the best first, with its validation loss and its settings."""
    keys = [key for key in rows[0] if key not in ("trial", "loss", "reason")]
    lines = [["trial", "validation loss", *keys]]
    for row in rows:
        loss = "failed" if row["loss"] is None else f"{row['loss']:.5f}"
        settings = [f"{row[key]:.4g}" if isinstance(row[key], float) else str(row[key]) for key in keys]
        lines.append([str(row["trial"]), loss, *settings])
    return columns(lines)


def named(row: Mapping[str, Any]) -> str:
    """Name the model of an experiment's row: the variant, where it is its lattice."""
    return row["variant"] if row["model"] == "lattice" else f"{row['variant']}: {row['model']}"


def _cost(row: Mapping[str, Any]) -> list[str]:
    return [f"{row['seconds']:.0f}", f"{row['ms_per_update']:.1f}"] if "seconds" in row else ["–", "–"]


def columns(lines: Sequence[Sequence[str]]) -> str:
    """Lay out lines of cells, the header first: the first column to the left, the others to the right."""
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    made = [
        "  ".join(
            f"{cell:<{w}}" if k == 0 else f"{cell:>{w}}" for k, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    return "\n".join([made[0], "─" * len(made[0]), *made[1:]])
