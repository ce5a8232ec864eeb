"""Variants of a configuration × seeds: one table, and a second call goes on where the first stopped."""

from __future__ import annotations

import hashlib
import json
import logging
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from latticegnn.training.errors import OneLineParser, read_mapping
from latticegnn.training.fit import Run

logger = logging.getLogger("latticegnn")


@dataclass(frozen=True)
class Experiment:
    """What an experiment's YAML file holds.

    Args:
        base: Configuration every variant starts from; relative to the experiment's file.
        variants: Name to settings that replace the base's, as a nested mapping; an empty one is the base itself.
        seeds: Each variant is trained once with each of them.
        settings: Settings that replace the base's for all variants.
        run_dir: Folder that holds the experiments' folders.

    Raises:
        ValueError: When there is no variant or no seed.
    """

    base: Path
    variants: dict[str, dict]  # a plain dict: the parser would build a class path below `Any` at once
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    settings: dict = field(default_factory=dict)
    run_dir: Path = Path("runs")

    def __post_init__(self) -> None:
        """Check the lists."""
        if not self.variants or not self.seeds:
            raise ValueError(
                f"an experiment needs at least one variant and one seed; got {len(self.variants)} and "
                f"{len(self.seeds)}; list them under variants: and seeds:."
            )


def load_experiment(path: Path) -> Experiment:
    """Read an experiment's file.

    Raises:
        FileNotFoundError: When the file or its base is missing.
        ValueError: When the file is no YAML mapping, or names no variant or seed; an unknown key or a wrong
            type ends the program with one line.
    """
    content = read_mapping(path)
    parser = OneLineParser(prog="latticegnn experiment")
    parser.add_class_arguments(Experiment)
    read = Experiment(**parser.parse_object(content).as_dict())
    base = path.parent / read.base
    if not base.is_file():
        raise FileNotFoundError(f"base must be an existing configuration; {base} does not exist; check the path.")
    return Experiment(base, read.variants, read.seeds, read.settings, read.run_dir)


def run_experiment(path: Path) -> tuple[Path, list[dict[str, Any]]]:
    """Train what is missing, and gather a row for each model of each variant: mean and deviation over seeds, and cost.

    A run counts as done when its folder, named by variant, seed and a hash of all settings, holds ``metrics.json``.
    The rows are also written to ``experiment.json``.

    Returns:
        The experiment's folder and the rows.
    """
    experiment = load_experiment(path)
    folder = experiment.run_dir / path.stem
    rows = []
    for name, variant in experiment.variants.items():
        results = [_result(experiment, folder, name, variant, seed) for seed in experiment.seeds]
        # A run's table starts with the lattice; the baselines it was asked for follow.
        rows += [_row(name, [result[k] for result in results]) for k in range(len(results[0]))]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "experiment.json").write_text(json.dumps({"table": rows}, indent=2), encoding="utf-8")
    return folder, rows


def _result(
    experiment: Experiment, folder: Path, name: str, variant: dict[str, Any], seed: int
) -> list[dict[str, Any]]:
    content = [experiment.base.read_text(encoding="utf-8"), experiment.settings, variant, seed]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]
    place = folder / f"{name}-seed{seed}-{digest}"
    if (place / "metrics.json").is_file():
        logger.info("already done: %s", place)
    else:
        logger.info("variant %s, seed %d", name, seed)
        place.mkdir(parents=True, exist_ok=True)
        overrides = place / "overrides.yaml"
        overrides.write_text(yaml.safe_dump(experiment.settings), encoding="utf-8")
        changes = place / "variant.yaml"
        changes.write_text(yaml.safe_dump(variant), encoding="utf-8")
        files = [experiment.base, *(f for f, c in ((overrides, experiment.settings), (changes, variant)) if c)]
        words = [word for file in files for word in ("--config", str(file))]
        Run([*words, "--seed_everything", str(seed)], place).execute()
    table: list[dict[str, Any]] = json.loads((place / "metrics.json").read_text(encoding="utf-8"))["table"]
    return table


def _row(name: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    same = {key: results[0][key] for key in ("model", "parameters")}
    row: dict[str, Any] = {"variant": name, "seeds": len(results), **same}
    for metric in results[0]:
        if metric not in (*same, "updates", "readout_penalty") and not metric.endswith(("_low", "_high")):
            values = [result[metric] for result in results]
            row[metric] = statistics.fmean(values)
            row[f"{metric}_sd"] = statistics.stdev(values) if len(values) > 1 else 0.0
    return row
