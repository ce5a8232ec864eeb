"""The figures of a run, drawn from what its folder holds."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from pathlib import Path

from latticegnn.report.plots import gate_usage, honest_table, loss_curves, retention_curve, save

CURVES = ("loss", "fvu", "cosine", "mrr@10", "token_accuracy")


def draw_run(folder: Path) -> None:
    """Draw loss curves, honest table, gate usage and retention of a run as PNG files in its folder ``figures``.

    Args:
        folder: A run folder with ``metrics.json`` and, where the run logged to CSV, ``logs/metrics.csv``; a run that
            went on after update u logged into ``logs-from-u`` from there on. Where the run's model was evaluated at
            other sizes, also ``sizes.json``.
    """
    figures = folder / "figures"
    figures.mkdir(exist_ok=True)
    rows = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["table"]
    for metric in ("token_accuracy", "mrr@10", "fvu"):
        if metric in rows[0]:
            save(
                honest_table([row for row in rows if metric in row], metric),
                figures / f"table_{metric.partition('@')[0]}.png",
            )
    if (folder / "sizes.json").is_file():
        sizes = json.loads((folder / "sizes.json").read_text(encoding="utf-8"))
        save(retention_curve(sizes["sizes"], sizes["trained"]), figures / "retention.png")
    history = read_history(folder)
    if not history:
        return
    curves = {name: series for name, series in history.items() if name.rpartition("/")[2] in CURVES}
    save(loss_curves(curves), figures / "curves.png")
    gates = {
        name.removeprefix("gate/"): [value for _, value in series]
        for name, series in history.items()
        if name.startswith("gate/") and name != "gate/entropy"
    }
    if gates:
        save(gate_usage(gates, along="epoch"), figures / "gates.png")


def read_history(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Read what a run logged to CSV: (update, value) by name, as if it had never been interrupted.

    Updates are counted from 0: what a run that went on after update u logged takes the place of all that was logged
    for u and later before.
    """
    parts = [(int(part.name.rpartition("-")[2]), part) for part in folder.glob("logs-from-*")]
    history: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for start, part in [(0, folder / "logs"), *sorted(parts)]:
        for name in history:
            history[name] = [(step, value) for step, value in history[name] if step < start]
        file = part / "metrics.csv"
        if not file.is_file():
            continue
        with file.open(newline="", encoding="utf-8") as content:
            for row in csv.DictReader(content):
                for name, value in row.items():
                    if value and name not in ("step", "epoch"):
                        history[name].append((int(row["step"]), float(value)))
    return dict(history)
