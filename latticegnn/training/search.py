"""A search over a configuration's settings by Optuna: judged by the validation split, never by the test split."""

from __future__ import annotations

import json
import logging
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from latticegnn.lattice.storage import write_atomically
from latticegnn.training.configuration import RunCLI
from latticegnn.training.errors import read_mapping
from latticegnn.training.fingerprint import fingerprint
from latticegnn.training.fit import Run

logger = logging.getLogger("latticegnn")

BEST_FILE = "best.yaml"


@dataclass(frozen=True)
class Search:
    """The space of a search, and how long it takes.

    Args:
        space: Dotted key of a setting to its range, ``{low: …, high: …}`` (whole numbers where both are; with
            ``log: true`` drawn on a logarithmic scale), or to its ``{choices: […]}``.
        trials: Configurations to train, those of earlier calls counted in, ≥ 1.
        seed: Of the sampler, and of the runs.

    Raises:
        ValueError: For an empty space, a range that is none, or no trials.
    """

    space: dict[str, dict]
    trials: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the space."""
        if not self.space or self.trials < 1:
            raise ValueError(
                f"a search needs settings to vary and at least one trial; got {len(self.space)} settings and "
                f"{self.trials} trials; list them under search.space."
            )
        for key, given in self.space.items():
            if set(given) == {"choices"} and isinstance(given["choices"], list) and given["choices"]:
                continue
            ends = [given.get("low", math.nan), given.get("high", math.nan)]
            numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in ends)
            if not numbers or set(given) - {"low", "high", "log"} or not ends[0] < ends[1]:
                raise ValueError(
                    f"search.space.{key} must be {{low: …, high: …}} with low < high and perhaps log: true, or "
                    f"{{choices: […]}}; got {given}; write one of these."
                )
            if given.get("log") and ends[0] <= 0:
                raise ValueError(
                    f"search.space.{key} on a logarithmic scale must be above 0; got low {ends[0]}; raise it."
                )


def run_search(search: Search, base: Path, settings: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Train the trials that are missing, by Optuna's tree-structured Parzen estimator (Bergstra et al., 2011).

    What was tried stands in ``optuna.log`` in the folder, so that another call goes on. A trial that is refused or
    diverges counts as failed, with its reason. The best configuration is written to ``best.yaml``, for
    ``latticegnn fit --config BASE --config best.yaml``, and all trials to ``search.json``.

    Args:
        search: The space.
        base: Configuration that every trial starts from.
        settings: Settings that replace the base's in all trials.
        folder: Where everything is kept.

    Returns:
        A row a trial, the best first: ``trial``, ``loss`` (on the validation split; None where it failed), ``reason``
        and the settings by their keys.

    Raises:
        ModuleNotFoundError: Without Optuna.
        ValueError: When the space names a setting that does not exist, or every trial failed.
    """
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "a search needs Optuna; it is not installed; pip install 'latticegnn[sweep]'."
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as scratch:
        for end in ("low", "high"):
            first = {
                key: given["choices"][0] if "choices" in given else given[end] for key, given in search.space.items()
            }
            RunCLI(_arguments(base, settings, first, search.seed, Path(scratch)), Path(scratch) / "run")
    folder.mkdir(parents=True, exist_ok=True)
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "optuna.log"))
    study = optuna.create_study(
        study_name="search", storage=optuna.storages.JournalStorage(backend), direction="minimize", load_if_exists=True
    )
    digest = fingerprint([read_mapping(base), settings, search.seed, sorted(search.space)])
    if study.user_attrs.setdefault("settings", digest) != digest:
        raise ValueError(
            f"a search goes on with the settings it began with; those of {folder} are others; rename the experiment's "
            "file, or delete that folder, to begin anew."
        )
    study.set_user_attr("settings", digest)
    state = optuna.trial.TrialState
    for left in study.get_trials(states=(state.RUNNING,)):
        study.tell(left.number, state=state.FAIL)
    done = len(study.trials)
    # Another number than the call before had, or the same configurations would be drawn again.
    study.sampler = optuna.samplers.TPESampler(seed=search.seed + done)
    distributions = {key: _distribution(optuna, given) for key, given in search.space.items()}
    for _ in range(done, search.trials):
        trial = study.ask(distributions)
        place = folder / f"trial-{trial.number}"
        place.mkdir(exist_ok=True)
        logger.info("trial %d: %s", trial.number, trial.params)
        try:
            run = Run(_arguments(base, settings, trial.params, search.seed, place), place)
            study.tell(trial, run.execute()["validation"]["loss"])
        except (ValueError, FloatingPointError) as error:
            logger.warning("trial %d failed: %s", trial.number, error)
            trial.set_user_attr("reason", str(error))
            study.tell(trial, state=state.FAIL)
    rows = [
        {"trial": t.number, "loss": t.value, "reason": t.user_attrs.get("reason"), **t.params} for t in study.trials
    ]
    rows.sort(key=lambda row: math.inf if row["loss"] is None else row["loss"])
    write_atomically(folder / "search.json", json.dumps({"table": rows}, indent=2).encode())
    if rows[0]["loss"] is None:
        raise ValueError(
            f"a trial of a search must end; all {len(rows)} failed, the last: {rows[-1]['reason']}; narrow the space."
        )
    best = _nested(study.best_params, settings)
    write_atomically(folder / BEST_FILE, yaml.safe_dump(best).encode())
    return rows


def _distribution(optuna: Any, given: dict[str, Any]) -> Any:
    if "choices" in given:
        return optuna.distributions.CategoricalDistribution(given["choices"])
    low, high, log = given["low"], given["high"], bool(given.get("log", False))
    whole = isinstance(low, int) and isinstance(high, int)
    make = optuna.distributions.IntDistribution if whole else optuna.distributions.FloatDistribution
    return make(low, high, log=log)


def _arguments(base: Path, settings: dict[str, Any], params: dict[str, Any], seed: int, folder: Path) -> list[str]:
    file = folder / "settings.yaml"
    file.write_text(yaml.safe_dump(_nested(params, settings)), encoding="utf-8")
    return ["--config", str(base), "--config", str(file), "--seed_everything", str(seed), "--baselines", "[]"]


def _nested(params: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Put dotted keys into a copy of nested settings."""
    content: dict[str, Any] = json.loads(json.dumps(settings))
    for key, value in params.items():
        *above, last = key.split(".")
        part = content
        for name in above:
            part = part.setdefault(name, {})
            if not isinstance(part, dict):
                raise ValueError(
                    f"a key of search.space must lead through mappings; got {key!r}, where {name!r} holds {part!r}; "
                    "vary another setting."
                )
        part[last] = value
    return content
