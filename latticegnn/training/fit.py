"""One training run from data to honest table."""

from __future__ import annotations

import json
import logging
import os
import pickle
import platform
import shutil
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from latticegnn.analysis import baselines
from latticegnn.analysis.metrics import evaluate, paired_difference, reciprocal_rank, row_statistics
from latticegnn.data import EmbeddingSplit
from latticegnn.lattice.storage import write_atomically
from latticegnn.model import LatticeModel
from latticegnn.training.configuration import RunCLI, quiet_engine
from latticegnn.training.module import EmbeddingModule
from latticegnn.training.readout import refit_readout

logger = logging.getLogger("latticegnn")

FEWEST_TEST_ROWS = 11
"""What `latticegnn.analysis.metrics.evaluate` needs."""


class Run:
    """A training run: builds everything in the constructor, trains and compares in `execute`.

    Args:
        arguments: As for the command line, see `RunCLI`.
        folder: Where the run is kept; a new one below ``run_dir`` by default.

    Raises:
        ValueError: For settings that contradict each other or the data.
    """

    def __init__(self, arguments: list[str], folder: Path | None = None) -> None:
        self.cli = RunCLI(arguments, folder)
        self.folder: Path = self.cli.folder
        self.module: EmbeddingModule = self.cli.model
        self.model: LatticeModel = self.cli.model.lattice
        self.data = self.cli.datamodule.content
        self._lattice: Tensor | None = None  # the lattice's figures row by row, which the baselines are paired with
        if self.cli.config.ckpt_path is not None:
            check_checkpoint(self.cli.config.ckpt_path, self.module)

    def execute(self) -> dict[str, Any]:
        """Train, evaluate on the test split, write the run folder, and return what ``metrics.json`` holds."""
        self.cli.save()
        self.data.prepare()
        train, tested = self.data.splits["train"], len(self.data.splits["test"])
        if tested < FEWEST_TEST_ROWS:
            raise ValueError(
                f"the test split must keep at least {FEWEST_TEST_ROWS} rows, as metrics look at 10 neighbours of each; "
                f"got {tested}; raise data.limit or add rows."
            )
        model = self.model
        model.fit_maps(train.inputs, train.targets)
        self.module.pairs = self.data.pairs
        self.module.train_mean = train.targets.mean(dim=0)
        counts = model.parameter_counts()
        logger.info("parameters: %s", ", ".join(f"{part} {count}" for part, count in counts.items()))
        untrained = {name: make(model) for name, make in baselines.TRAINED.items() if name in self.cli.config.baselines}
        rows = [self._train_lattice()]
        model.save_pretrained(self.folder / "model")
        rows += [self._row(name, reference) for name, reference in self._references()]
        rows += [self._train_baseline(name, baseline) for name, baseline in untrained.items()]
        result = {
            "table": rows,
            "task": self.data.task,
            "seed": self.cli.config.seed_everything,
            "parameters": counts,
            "backend": model.cell.backend,
            "data": self.data.card(),
            "machine": {
                "threads": torch.get_num_threads(),
                "processor": platform.processor() or platform.machine(),
                "torch": torch.__version__,
            },
        }
        write_atomically(self.folder / "metrics.json", json.dumps(result, indent=2).encode())
        _point_latest(self.folder)
        return result

    def _train_lattice(self) -> dict[str, Any]:
        cost = self._fit(self.cli.trainer, self.module, self.cli.config.ckpt_path)
        return self._row("lattice", self.model, cost)

    def _train_baseline(self, name: str, model: nn.Module) -> dict[str, Any]:
        logger.info("training the baseline %s", name)
        module = EmbeddingModule(model, self.module.loss, self.module.optim, self.module.train_mean, self.module.pairs)
        with tempfile.TemporaryDirectory() as scratch:
            trainer = self.cli.baseline_trainer(Path(scratch))
            cost = self._fit(trainer, module)
        return self._row(name, model, cost)

    def _fit(self, trainer: pl.Trainer, module: EmbeddingModule, resume: Path | None = None) -> dict[str, float]:
        """Train, put the best validated weights back, and say what it cost."""
        start = time.perf_counter()
        with quiet_engine():
            pl.seed_everything(self.cli.config.seed_everything, verbose=False)
            handler = signal.getsignal(signal.SIGINT)
            try:
                trainer.fit(module, datamodule=self.cli.datamodule, ckpt_path=resume, weights_only=True)
            except SystemExit as ended:  # how the engine ends on Ctrl-C, which it then ignores for good
                signal.signal(signal.SIGINT, handler)
                raise KeyboardInterrupt from ended
        best = trainer.checkpoint_callback
        assert isinstance(best, pl.callbacks.ModelCheckpoint)
        if not module.milliseconds or not best.best_model_path:
            raise ValueError(
                f"a run must make at least one update and keep its best checkpoint; got {len(module.milliseconds)} "
                f"updates in {trainer.max_epochs} epochs; raise trainer.max_epochs (above the epochs a resumed "
                "checkpoint has behind it), and leave the trainer's limits and checkpoint.save_top_k at their defaults."
            )
        module.load_state_dict(torch.load(_best(best, resume), weights_only=True)["state_dict"])
        cost: dict[str, float] = {
            "updates": trainer.global_step,
            "ms_per_update": round(statistics.median(module.milliseconds), 3),
        }
        if self.cli.config.refit_readout:
            splits = self.data.splits
            cost["readout_penalty"] = refit_readout(module.model, splits["train"], splits["validation"], module.loss)
        return cost | {"seconds": round(time.perf_counter() - start, 2)}

    def _references(self) -> Iterator[tuple[str, nn.Module]]:
        train, wanted = self.data.splits["train"], self.cli.config.baselines
        code = len(self.model.input_nodes)
        if "mean" in wanted:
            yield "mean", baselines.mean_vector(train.targets)
        if self.data.pairs:
            if "raw_teacher" in wanted:
                yield "raw_teacher", baselines.raw_teacher(self.data.dim)
            if "pca" in wanted:
                yield f"pca_{code}_ridge", baselines.residual_ridge(train.inputs, train.targets, self._score, code)
            if "ridge" in wanted:
                yield "ridge", baselines.residual_ridge(train.inputs, train.targets, self._score)
        elif "pca" in wanted:
            yield f"pca_{code}", baselines.principal_components(train.inputs, code)

    def _score(self, model: nn.Module) -> float:
        split = self.data.splits["validation"]
        return float(reciprocal_rank(predict(model, split), split.targets).mean())

    def _row(self, name: str, model: nn.Module, cost: dict[str, float] | None = None) -> dict[str, Any]:
        split = self.data.splits["test"]
        prediction = predict(model, split)
        given = (split.targets, self.module.train_mean, self.data.pairs)
        figures = evaluate(prediction, *given)
        row: dict[str, Any] = {
            "model": name,
            "parameters": getattr(model, "fitted", sum(p.numel() for p in model.parameters() if p.requires_grad)),
        }
        for metric, figure in figures.items():
            row |= {metric: figure["value"], f"{metric}_low": figure["low"], f"{metric}_high": figure["high"]}
        shares = row_statistics(prediction, *given)["mrr@10" if self.data.pairs else "fvu"]
        if self._lattice is None:
            self._lattice = shares
        else:
            gap = paired_difference(self._lattice, shares)
            row |= {"lattice_minus": gap["value"], "lattice_minus_low": gap["low"], "lattice_minus_high": gap["high"]}
        return row | (cost or {})


def check_checkpoint(file: Path, module: nn.Module) -> None:
    """Check, before anything is embedded or trained, that a run can go on from a checkpoint.

    Args:
        file: The checkpoint.
        module: What the run trains.

    Raises:
        ValueError: When the file is damaged or was written by another kind of run.
    """
    rule = "ckpt_path must be a checkpoint that a run of this model wrote"
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        weights = {name: tuple(tensor.shape) for name, tensor in content["state_dict"].items()}
        epochs = content["epoch"]
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{rule}; {file} cannot be read ({type(error).__name__}); pass another file of the run's folder "
            "checkpoints, or leave ckpt_path out to start anew."
        ) from error
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    other = sorted(name for name in weights.keys() | wanted.keys() if weights.get(name) != wanted.get(name))
    if other:
        raise ValueError(
            f"{rule}; {file} has other weights: {', '.join(other[:3])}{' …' if len(other) > 3 else ''}; "
            "pass the configuration of the run that wrote it (config.yaml in its folder)."
        )
    logger.info("going on after epoch %d of %s", epochs + 1, file)


def _best(kept: pl.callbacks.ModelCheckpoint, resume: Path | None) -> Path:
    """Find the best checkpoint, also among those of the run that was resumed; it is then copied."""
    best = Path(kept.best_model_path)
    state = torch.load(resume, weights_only=True)["callbacks"].get(kept.state_key) if resume else None
    if state is None or state["best_model_score"] is None or kept.best_model_score is None:
        return best
    sign = 1 if kept.mode == "min" else -1
    if sign * float(state["best_model_score"]) >= sign * float(kept.best_model_score):
        return best
    earlier = Path(state["best_model_path"])
    if not earlier.is_file():
        logger.warning("the best checkpoint before %s was %s, which is gone; taking the best after it", resume, earlier)
        return best
    return Path(shutil.copy2(earlier, best.parent))


@torch.no_grad()
def predict(model: nn.Module, split: EmbeddingSplit, batch_size: int = 256) -> Tensor:
    """Predict the targets of a whole split: [n, D]."""
    model.eval()
    return torch.cat([model(batch).embedding for batch in split.inputs.split(batch_size)])


def _point_latest(folder: Path) -> None:
    link = folder.parent / "latest"
    part = folder.parent / f".latest-{os.getpid()}"
    part.unlink(missing_ok=True)
    part.symlink_to(folder.name, target_is_directory=True)
    os.replace(part, link)
