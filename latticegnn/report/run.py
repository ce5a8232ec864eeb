"""The figures of a run, drawn from what its folder holds."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor

from latticegnn.analysis.effective import gate_course
from latticegnn.lattice import edge_count
from latticegnn.model import LatticeModel
from latticegnn.nn import silence
from latticegnn.report.gates import gate_maps
from latticegnn.report.lattice import lattice_3d, signal_crossing, tier_degrees
from latticegnn.report.plots import gate_usage, honest_table, loss_curves, retention_curve, save

CURVES = ("loss", "fvu", "cosine", "mrr@10", "token_accuracy")

ROWS = 16
"""Rows whose rollouts are drawn."""

MOST_EDGES = 1_000_000
"""Edges above which a lattice is drawn by its degrees alone."""

MOST_COUNTED = 1_000_000_000
"""Edges above which these are not counted either: cells × distances would take a gigabyte."""


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


@torch.no_grad()
def draw_model(model: LatticeModel, inputs: Tensor, folder: Path) -> None:
    """Draw a lattice and what it does with a few rows as PNG files in the folder ``figures`` of its run.

    Neighbours by distance, up to `MOST_COUNTED` edges; and for a lattice of at most `MOST_EDGES` its cells and ports in
    space, the gate's weights by layer and step, and the signal by layer and step, what the rows bring about beside one
    that tells nothing. States that are not finite, or in which nothing moves, have no picture of the last two.

    Args:
        model: In evaluation mode.
        inputs: Embeddings [B, D], or token ids [B, L].
        folder: The run's.
    """
    figures = folder / "figures"
    figures.mkdir(exist_ok=True)
    edges = sum(edge_count(model.spec).values())
    if edges <= MOST_COUNTED:
        save(tier_degrees(model.spec), figures / "tiers.png")
    if edges > MOST_EDGES:
        return
    save(lattice_3d(model.graph), figures / "lattice.png")
    rows = torch.cat([inputs, silence(inputs, model.tokens)])
    trajectory = model.rollout(rows, model.steps, trajectory=True).trajectory
    assert trajectory is not None
    signal = (trajectory[:, :-1] - trajectory[:, -1:]).square().mean(dim=1).sqrt()
    if bool(trajectory.isfinite().all()) and bool(signal.any()):
        save(gate_maps(gate_course(model, trajectory[:, :-1]), model.graph), figures / "gate_maps.png")
        save(signal_crossing(signal, model.graph), figures / "signal.png")


def read_history(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Read what a run logged to CSV: (update, value) by name, as if it had never been interrupted.

    Updates are counted from 0: what a run that went on after update u logged takes the place of all that was logged
    for u and later before, and what was logged twice for an update counts once.
    """
    parts = [(int(part.name.rpartition("-")[2]), part) for part in folder.glob("logs-from-*")]
    history: dict[str, dict[int, float]] = defaultdict(dict)
    for start, part in [(0, folder / "logs"), *sorted(parts)]:
        for name in history:
            history[name] = {step: value for step, value in history[name].items() if step < start}
        file = part / "metrics.csv"
        if not file.is_file():
            continue
        with file.open(newline="", encoding="utf-8") as content:
            for row in csv.DictReader(content):
                for name, value in row.items():
                    if value and name not in ("step", "epoch"):
                        history[name][int(row["step"])] = float(value)
    return {name: list(values.items()) for name, values in history.items()}
