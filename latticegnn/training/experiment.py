"""Variants of a configuration × seeds: one table, and a second call goes on where the first stopped."""

from __future__ import annotations

import hashlib
import json
import logging
import statistics
import tempfile
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from latticegnn.lattice.storage import write_atomically
from latticegnn.training.configuration import RunCLI
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

    A run counts as done when its folder, named by variant, seed and a hash of all settings and of the files they name,
    holds ``metrics.json``. All missing variants are built once before the first is trained.
    The rows are also written to ``experiment.json``.

    Returns:
        The experiment's folder and the rows.
    """
    experiment = load_experiment(path)
    folder = experiment.run_dir / path.stem
    runs = [(name, seed) for name in experiment.variants for seed in experiment.seeds]
    missing = [run for run in runs if not (_place(experiment, folder, *run) / "metrics.json").is_file()]
    logger.info("%d of %d runs are done already", len(runs) - len(missing), len(runs))
    with tempfile.TemporaryDirectory() as scratch:
        # A mistake in the last variant should not wait for the first to be trained.
        for name in dict(missing):
            RunCLI(_arguments(experiment, name, 0, Path(scratch)), Path(scratch) / "run")
    for name, seed in missing:
        logger.info("variant %s, seed %d", name, seed)
        place = _place(experiment, folder, name, seed)
        place.mkdir(parents=True, exist_ok=True)
        Run(_arguments(experiment, name, seed, place), place).execute()
    rows = []
    for name in experiment.variants:
        files = [_place(experiment, folder, name, seed) / "metrics.json" for seed in experiment.seeds]
        tables = [json.loads(file.read_text(encoding="utf-8"))["table"] for file in files]
        # A run's table starts with the lattice; the baselines it was asked for follow.
        rows += [_row(name, list(results)) for results in zip(*tables, strict=True)]
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "experiment.json", json.dumps({"table": rows}, indent=2).encode())
    return folder, rows


def _arguments(experiment: Experiment, name: str, seed: int, folder: Path) -> list[str]:
    words = ["--config", str(experiment.base)]
    for part, content in (("settings", experiment.settings), ("variant", experiment.variants[name])):
        if content:
            file = folder / f"{part}.yaml"
            file.write_text(yaml.safe_dump(content), encoding="utf-8")
            words += ["--config", str(file)]
    return [*words, "--seed_everything", str(seed)]


def _place(experiment: Experiment, folder: Path, name: str, seed: int) -> Path:
    base = yaml.safe_load(experiment.base.read_text(encoding="utf-8"))
    content = [version("latticegnn"), base, experiment.settings, experiment.variants[name], seed]
    files = {file: hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in sorted(_files(content))}
    digest = hashlib.sha256(json.dumps([content, files], sort_keys=True).encode()).hexdigest()[:10]
    return folder / f"{name}-seed{seed}-{digest}"


def _files(content: Any) -> set[str]:
    """Find the files that settings name, a layer's ``file.py:Class`` or data, so that a change in one is noticed."""
    if isinstance(content, str):
        file = content.rpartition(":")[0] if ".py:" in content else content
        return {file} if "." in file and Path(file).is_file() else set()
    values = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
    return set().union(*map(_files, values))


def _row(name: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    same = {key: results[0][key] for key in ("model", "parameters")}
    row: dict[str, Any] = {"variant": name, "seeds": len(results), **same}
    for metric in results[0]:
        if metric not in (*same, "updates", "readout_penalty") and not metric.endswith(("_low", "_high")):
            values = [result[metric] for result in results]
            row[metric] = statistics.fmean(values)
            row[f"{metric}_sd"] = statistics.stdev(values) if len(values) > 1 else 0.0
    return row
