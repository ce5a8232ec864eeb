"""Analyses of a run that is done, on its held-out rows."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from latticegnn.analysis.any_time import quality_by_steps
from latticegnn.analysis.stopping import StoppingRules, steps_against_quality
from latticegnn.analysis.surface import Surface, quality_surface
from latticegnn.data.split import SAMPLE
from latticegnn.lattice.storage import write_atomically
from latticegnn.model import LatticeModel
from latticegnn.text_model import DECODER_FOLDER, TextModel
from latticegnn.training.configuration import CONFIG_FILE, RunCLI

FOLDER = "analysis"


@dataclass(frozen=True)
class Analyses:
    """What to look at; null leaves an analysis out.

    Args:
        steps: Quality of the answer after each step up to this number, ≥ 1, see `quality_by_steps`.
        surface: Quality by output ports read and steps taken, see `quality_surface`.
        stopping: Steps used against quality under rules that end each sample by itself, see `steps_against_quality`.

    Raises:
        ValueError: When nothing is asked for, or a value is out of range.
    """

    steps: int | None = None
    surface: Surface | None = None
    stopping: StoppingRules | None = None

    def __post_init__(self) -> None:
        """Check that something is asked for."""
        if not self.asked():
            raise ValueError(
                f"an analysis must be asked for, of {', '.join(asdict(self))}; got none; set steps to 24, for example."
            )
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps to look at must be at least 1; got {self.steps}; set it to 24, for example.")

    def asked(self) -> dict[str, Any]:
        """Give the settings of each analysis that is asked for, as plain numbers and lists."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def check(self, model: LatticeModel) -> None:
        """Raise the ValueError that looking at such a model would raise, before it is trained."""
        if self.surface is not None:
            self.surface.check(model)
        if self.stopping is not None:
            self.stopping.named(model)


def analyse(folder: Path, wanted: Analyses) -> dict[str, list[dict[str, Any]]]:
    """Look at a run's saved model on the test split, and write what is found into its folder ``analysis``.

    What was found before for the same settings is read, not computed again.

    Args:
        folder: A run's folder, see `latticegnn.training.fit.Run`.
        wanted: What to look at.

    Returns:
        Rows by analysis, as in ``analysis/<name>.json``.

    Raises:
        FileNotFoundError: When the folder holds no run that is done.
        ValueError: When its data has changed since, or no embeddings were trained.
    """
    settings = wanted.asked()
    places = {name: folder / FOLDER / f"{name}.json" for name in settings}
    found = {name: _before(place, settings[name]) for name, place in places.items()}
    missing = [name for name, rows in found.items() if rows is None]
    if missing:
        opened = FinishedRun(folder)
        if not opened.loss.embeds:
            raise ValueError(
                f"an analysis judges a lattice's embeddings; that in {folder} was trained by loss.tokens alone, "
                "and its embeddings are those of its start; give loss.reconstruction a weight, and train anew."
            )
        (folder / FOLDER).mkdir(exist_ok=True)
        for name in missing:
            found[name] = getattr(opened, name)(getattr(wanted, name))
            content = {"settings": settings[name], "rows": found[name]}
            write_atomically(places[name], json.dumps(content, indent=2).encode())
    return {name: rows for name, rows in found.items() if rows is not None}


class FinishedRun:
    """A run that is done, opened again: its model and the data it was held out from.

    Args:
        folder: The run's.

    Attributes:
        folder: The same.
        model: The lattice, as saved.
        whole: With its text decoder, where it has one.
        data: All splits.
        loss: What it was trained for.
        train_mean: Mean of the training targets [D].

    Raises:
        FileNotFoundError: When the folder holds no run that is done.
        ValueError: When the data are not those of the run.
    """

    def __init__(self, folder: Path) -> None:
        for name in (CONFIG_FILE, "metrics.json", "model"):
            if not (folder / name).exists():
                raise FileNotFoundError(
                    f"an analysis needs the folder of a run that is done; {folder} has no {name}; pass for instance "
                    "runs/latest."
                )
        self.folder = folder
        with tempfile.TemporaryDirectory() as scratch:
            cli = RunCLI(["--config", str(folder / CONFIG_FILE)], Path(scratch) / "run")
        self.data, self.loss = cli.datamodule.content, cli.model.loss
        self.data.prepare()
        then, now = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["data"], self.data.card()
        for key in ("rows", "teacher", "source_sha256"):
            if then[key] != now[key]:
                raise ValueError(
                    f"an analysis looks at the data of the run; its {key} was {then[key]} and is {now[key]}; restore "
                    "the data, or train anew."
                )
        # The run's own configuration, which was just built, names the same code.
        kind = TextModel if (folder / "model" / DECODER_FOLDER).is_dir() else LatticeModel
        self.whole: LatticeModel | TextModel = kind.from_pretrained(folder / "model", trust_code=True)
        self.model = self.whole.lattice if isinstance(self.whole, TextModel) else self.whole
        self.train_mean = self.data.splits["train"].tensors(SAMPLE)[1].mean(dim=0)

    def steps(self, last: int) -> list[dict[str, Any]]:
        """Compute `quality_by_steps` on the test split."""
        inputs, targets = self.data.splits["test"].tensors()
        return quality_by_steps(self.model, inputs, targets, self.train_mean, self.data.pairs, last)

    def surface(self, asked: Surface) -> list[dict[str, Any]]:
        """Compute `quality_surface` on the test split."""
        asked.check(self.model)
        inputs, targets = self.data.splits["test"].tensors()
        return quality_surface(self.model, inputs, targets, asked.ports, asked.steps, self.train_mean, self.data.pairs)

    def stopping(self, asked: StoppingRules) -> list[dict[str, Any]]:
        """Compute `steps_against_quality` on the test split."""
        inputs, targets = self.data.splits["test"].tensors()
        rules = asked.named(self.model)
        return steps_against_quality(self.model, inputs, targets, self.train_mean, self.data.pairs, rules)


def _before(place: Path, setting: Any) -> list[dict[str, Any]] | None:
    if not place.is_file():
        return None
    content = json.loads(place.read_text(encoding="utf-8"))
    return content["rows"] if content["settings"] == setting else None
