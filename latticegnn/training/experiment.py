"""Variants of a configuration × seeds: one table, and a second call goes on where the first stopped."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from scipy.special import stdtrit

from latticegnn.lattice.storage import write_atomically
from latticegnn.training.analyses import Analyses, analyse
from latticegnn.training.checkpoints import saved
from latticegnn.training.configuration import CHECKPOINTS, RunCLI
from latticegnn.training.errors import OneLineParser, read_mapping, refuse_nulls
from latticegnn.training.fingerprint import fingerprint
from latticegnn.training.fit import Run
from latticegnn.training.search import Search

logger = logging.getLogger("latticegnn")


@dataclass(frozen=True)
class Experiment:
    """What an experiment's YAML file holds.

    Args:
        base: Configuration every variant starts from; relative to the experiment's file.
        variants: Name to settings that replace the base's, as a nested mapping; an empty one is the base itself.
        search: In place of variants, a space to search, see `latticegnn.training.search.Search`.
        seeds: Each variant is trained once with each of them.
        settings: Settings that replace the base's for all variants.
        analyse: What to look at in each run's saved model, see `latticegnn.training.analyses.Analyses`.
        run_dir: Folder that holds the experiments' folders.

    Raises:
        ValueError: When there is no variant or no seed, or a search beside variants.
    """

    base: Path
    # Plain dicts: the parser would build a class path below `Any` at once.
    variants: dict[str, dict] = field(default_factory=dict)
    search: Search | None = None
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    settings: dict = field(default_factory=dict)
    analyse: Analyses | None = None
    run_dir: Path = Path("runs")

    def __post_init__(self) -> None:
        """Check the lists."""
        if self.search is not None:
            if self.analyse is not None:
                raise ValueError(
                    f"analyses look at the saved models of variants; got a search beside analyse {self.analyse}; leave "
                    "out one of them."
                )
            if self.variants:
                raise ValueError(
                    f"an experiment has variants or a search; got both, {len(self.variants)} variants and a search; "
                    "leave out one of them."
                )
        elif not self.variants or not self.seeds:
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
    refuse_nulls(parser, content)
    read = Experiment(**vars(parser.instantiate(parser.parse_object(content))))
    base = path.parent / read.base
    if not base.is_file():
        raise FileNotFoundError(f"base must be an existing configuration; {base} does not exist; check the path.")
    return replace(read, base=base)


def run_experiment(path: Path, workers: int = 1) -> tuple[Path, list[dict[str, Any]]]:
    """Train what is missing, and gather a row for each model of each variant.

    A run counts as done when its folder, named by variant, seed and a hash of all settings and of the files they name,
    holds ``metrics.json``. One that was broken off goes on from its last checkpoint. All missing variants are built
    once before the first is trained. The rows, see `gather`, are also written to ``experiment.json``, and beside them
    what was analysed: the rows of each analysis and variant, by seed.

    Args:
        path: The experiment's file.
        workers: Runs that are trained at a time, ≥ 1; more than one are processes of their own, which share the cores,
            and log into ``<run>.log`` in the experiment's folder.

    Returns:
        The experiment's folder and the rows.

    Raises:
        ValueError: When settings are wrong, or, once all others are done, when a worker's run has failed.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1; got {workers}; leave it out to train one run after the other.")
    experiment = load_experiment(path)
    folder = experiment.run_dir / path.stem
    runs = places(path)
    missing = {run: place for run, place in runs.items() if not (place / "metrics.json").is_file()}
    logger.info("%d of %d runs are done already", len(runs) - len(missing), len(runs))
    with tempfile.TemporaryDirectory() as scratch:
        # A mistake in the last variant should not wait for the first to be trained.
        for name in dict.fromkeys(name for name, _ in missing):
            cli = RunCLI(_arguments(experiment, name, 0, Path(scratch)), Path(scratch) / "run")
            if experiment.analyse is not None:
                experiment.analyse.check(cli.model.lattice)
    folder.mkdir(parents=True, exist_ok=True)
    words = {
        place: _going_on(place) or _arguments(experiment, name, seed, folder) for (name, seed), place in missing.items()
    }
    if workers > 1:
        train_apart(words, workers)
    else:
        for place, arguments in words.items():
            logger.info("%s", place.name)
            Run(arguments, None if "--resume" in arguments else place).execute()
    results = {run: json.loads((place / "metrics.json").read_text(encoding="utf-8")) for run, place in runs.items()}
    rows = gather(results)
    content: dict[str, Any] = {"table": rows}
    if experiment.analyse is not None:
        content["analysis"] = {}
        for (name, _), place in runs.items():
            for kind, found in analyse(place, experiment.analyse).items():
                content["analysis"].setdefault(kind, {}).setdefault(name, []).append(found)
    write_atomically(folder / "experiment.json", json.dumps(content, indent=2).encode())
    return folder, rows


def places(path: Path) -> dict[tuple[str, int], Path]:
    """Return the folder of each run of an experiment's file by variant and seed, whether it is there or not."""
    experiment = load_experiment(path)
    folder = experiment.run_dir / path.stem
    return {
        (name, seed): _place(experiment, folder, name, seed)
        for name in experiment.variants
        for seed in experiment.seeds
    }


def train_apart(words: Mapping[Path, list[str]], workers: int) -> None:
    """Train runs in processes of their own, several at a time.

    Args:
        words: Arguments of each run, by its folder.
        workers: Processes at a time; each computes with its share of the cores.

    Raises:
        ValueError: When runs have failed, once all others are done; it names them and where they logged.
    """
    threads = str(max(1, len(os.sched_getaffinity(0)) // workers))
    environment = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    running: list[subprocess.Popen] = []

    def train(place: Path) -> str | None:
        logger.info("%s", place.name)
        where = [] if "--resume" in words[place] else ["--run_dir", str(place.parent), "--run_name", place.name]
        command = [sys.executable, "-m", "latticegnn", "fit", *words[place], *where]
        command += ["--trainer.enable_progress_bar", "false"]
        log = place.with_name(f"{place.name}.log")
        with log.open("w", encoding="utf-8") as file:
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
            running.append(process)
            status = process.wait()
        if status == 0:
            return None
        last = log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
        return f"{place.name} (status {status}: {last})"

    with ThreadPoolExecutor(workers) as pool, _terminable():
        try:
            failed = [text for text in pool.map(train, words) if text]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in running:
                process.terminate()  # it saves where it stands
            raise
    if failed:
        raise ValueError(
            f"every run of an experiment must end; {len(failed)} of {len(words)} failed: {'; '.join(failed)}; see "
            "their logs beside their folders, and call again: runs that are done stay done."
        )


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM interrupt as Ctrl-C does, so that processes that were started are ended, too."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def gather(results: Mapping[tuple[str, int], dict[str, Any]]) -> list[dict[str, Any]]:
    r"""Make a row of each model of each variant: mean and deviation of every figure over the seeds, and what it cost.

    A row's ``difference`` compares the main figure (`main_metric`) on the same test rows and by seed: the variant's
    lattice less the row's model; of a lattice, less the first variant's lattice where task and data (of token accuracy
    also tokenizer and length of a row) are the same. It
    has two 95 % intervals: over seeds (Student's t with n - 1 degrees of freedom; none for one seed), for what starts
    and orders of rows change; and over test rows (the bootstrap intervals of the runs, averaged; for a baseline), for
    what another sample of rows would.

    Args:
        results: What ``metrics.json`` holds, by variant and seed.
    """
    rows: list[dict[str, Any]] = []
    names = list(dict.fromkeys(name for name, _ in results))
    first = {seed: result for (name, seed), result in results.items() if name == names[0]}
    for name in names:
        own = {seed: result for (variant, seed), result in results.items() if variant == name}
        lattices = [result["table"][0] for result in (*own.values(), *first.values())]
        main = main_metric(*lattices)
        # A run's table starts with the lattice; the baselines it was asked for follow.
        for models in zip(*(result["table"] for result in own.values()), strict=True):
            row = _row(name, list(models))
            if "lattice_minus" in models[0]:
                gaps = [model["lattice_minus"] for model in models]
                row |= _difference(gaps, "lattice", main_metric(*(result["table"][0] for result in own.values())))
                for end in ("low", "high"):
                    row[f"difference_rows_{end}"] = statistics.fmean(m[f"lattice_minus_{end}"] for m in models)
            elif models[0]["model"] == "lattice" and name != names[0] and main and _same_data(own, first, main):
                gaps = [result["table"][0][main] - first[seed]["table"][0][main] for seed, result in own.items()]
                row |= _difference(gaps, names[0], main)
            rows.append(row)
    return rows


def main_metric(*rows: Mapping[str, Any]) -> str | None:
    """Name the figure that decides, of those that all rows have: token accuracy, else MRR@10, else FVU."""
    return next((name for name in ("token_accuracy", "mrr@10", "fvu") if all(name in row for row in rows)), None)


def _difference(gaps: list[float], to: str, metric: str | None) -> dict[str, Any]:
    mean = statistics.fmean(gaps)
    found: dict[str, Any] = {"difference": mean, "compared": to, "metric": metric}
    if len(gaps) > 1:
        reach = float(stdtrit(len(gaps) - 1, 0.975)) * statistics.stdev(gaps) / len(gaps) ** 0.5
        found |= {"difference_seeds_low": mean - reach, "difference_seeds_high": mean + reach}
    return found


def _same_data(results: dict[int, dict[str, Any]], others: dict[int, dict[str, Any]], metric: str) -> bool:
    """Tell whether two variants' figures are of the same rows; those of tokens also of the same tokens."""
    known: dict[str, tuple[str, ...]] = {"data": ("task", "rows", "teacher", "source_sha256")}
    if metric == "token_accuracy":
        known["text"] = ("tokenizer", "length")  # a smaller vocabulary or a shorter row is an easier task
    pairs = [
        (result.get(part, {}), others[seed].get(part, {}), keys)
        for seed, result in results.items()
        for part, keys in known.items()
    ]
    return all(own.get(key) == other.get(key) for own, other, keys in pairs for key in keys)


def _going_on(place: Path) -> list[str] | None:
    """Return the arguments for a run that was broken off; one that has no checkpoint yet starts anew."""
    if saved(place / CHECKPOINTS):
        return ["--resume", str(place)]
    if place.is_dir():
        shutil.rmtree(place)
    return None


def _arguments(experiment: Experiment, name: str, seed: int, folder: Path) -> list[str]:
    words = ["--config", str(experiment.base)]
    contents = {"settings": experiment.settings, f"variant-{name}": experiment.variants[name]}
    for part, content in contents.items():
        if content:
            file = folder / f"{part}.yaml"
            file.write_text(yaml.safe_dump(content), encoding="utf-8")
            words += ["--config", str(file)]
    return [*words, "--seed_everything", str(seed)]


def _place(experiment: Experiment, folder: Path, name: str, seed: int) -> Path:
    base = yaml.safe_load(experiment.base.read_text(encoding="utf-8"))
    digest = fingerprint([base, experiment.settings, experiment.variants[name], seed])
    return folder / f"{name}-seed{seed}-{digest[:10]}"


def _row(name: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    same = {key: results[0][key] for key in ("model", "parameters")}
    row: dict[str, Any] = {"variant": name, "seeds": len(results), **same}
    for metric in results[0]:
        if metric not in (*same, "readout_penalty") and not metric.startswith("lattice_minus"):
            if metric.endswith(("_low", "_high")):
                continue
            values = [result[metric] for result in results]
            row[metric] = statistics.fmean(values)
            row[f"{metric}_sd"] = statistics.stdev(values) if len(values) > 1 else 0.0
    return row
