"""One training run from data to honest table."""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import signal
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from latticegnn.analysis import baselines
from latticegnn.analysis.ladder import RUNGS
from latticegnn.analysis.metrics import reciprocal_rank
from latticegnn.data.mixture import ranked
from latticegnn.data.split import SAMPLE, EmbeddingSplit
from latticegnn.lattice.storage import write_atomically
from latticegnn.model import LatticeModel
from latticegnn.predictor import save_companions
from latticegnn.text_model import TextModel
from latticegnn.training.checkpoints import ENTRY, differences, read, saved
from latticegnn.training.configuration import CHECKPOINTS, RunCLI, quiet_engine
from latticegnn.training.decoding import TEXT_BASELINES, Decoding
from latticegnn.training.losses import LossWeights, loss_terms
from latticegnn.training.module import EmbeddingModule
from latticegnn.training.readout import refit_readout
from latticegnn.training.start import start_weights
from latticegnn.training.table import HonestTable
from latticegnn.training.text_run import ON_FIXED_CODES, TextRun

logger = logging.getLogger("latticegnn")

FEWEST_TEST_ROWS = 11
"""What `latticegnn.analysis.metrics.evaluate` needs."""


class Run:
    """A training run: builds everything in the constructor, trains and compares in `execute`.

    Args:
        arguments: As for the command line, see `RunCLI`.
        folder: Where the run is kept; a new one below ``run_dir`` by default.

    Raises:
        ValueError: For settings that contradict each other or the data, or a run that goes on with other settings.
    """

    def __init__(self, arguments: list[str], folder: Path | None = None) -> None:
        self.cli = RunCLI(arguments, folder)
        self.folder: Path = self.cli.folder
        self.trainer: pl.Trainer = self.cli.trainer
        self.module: EmbeddingModule = self.cli.model
        self.model: LatticeModel = self.cli.model.lattice
        self.data = self.cli.datamodule.content
        self.text: TextRun | None = None
        begun = self.cli.config.model_from
        self._start = None if begun is None else start_weights(self.model, begun)
        self._settings = self.cli.settings()
        if self.cli.resume is not None:
            self._check_settings(self.cli.resume)

    def execute(self) -> dict[str, Any]:
        """Train, evaluate on the test split, write the run folder, and return what ``metrics.json`` holds.

        Where several processes share the run, all of them return the same, and the first one writes.

        Raises:
            ConnectionError: When another of the processes that share the run is gone.
            FloatingPointError: When a batch, the loss or the gradient is not finite.
            OSError: When a checkpoint cannot be written.
            Stopped: When training was asked to stop, and has saved.
        """
        try:
            return self._execute()
        except (FloatingPointError, OSError) as error:
            raise self._with_remedy(error) from error
        except RuntimeError as error:
            if not _is_of_the_network(error):
                raise
            rule = f"all {self.trainer.world_size} processes of a run must live to its end; one is gone, or its network"
            raise self._with_remedy(ConnectionError(f"{rule} ({' '.join(str(error).split())[:160]})")) from error

    def _execute(self) -> dict[str, Any]:
        if self.trainer.is_global_zero and self.cli.resume is None:
            self.cli.save()
        self.data.prepare()
        tested = len(self.data.splits["test"])
        if tested < FEWEST_TEST_ROWS:
            raise ValueError(
                f"the test split must keep at least {FEWEST_TEST_ROWS} rows, as metrics look at 10 neighbours of each; "
                f"got {tested}; raise data.limit or add rows."
            )
        model = self.model
        if self.cli.decoding is not None:
            self.text = TextRun(self.cli.decoding, self.data, model)
        model.fit_maps(*self._sample())
        self._introduce(self.module)
        counts = model.parameter_counts()
        logger.info("parameters: %s", ", ".join(f"{part} {count}" for part, count in counts.items()))
        known: dict[str, Callable[[LatticeModel], nn.Module]] = {**baselines.TRAINED, **RUNGS}
        untrained = {name: make(model) for name, make in known.items() if name in self.cli.config.baselines}
        if self._start is not None:
            model.load_state_dict(self._start)
        if self.text is not None:
            self.text.attach(self.module)
        cost = self._fit(self.trainer, self.module, self.cli.resume)
        self.table = HonestTable(self.data, self.module.train_mean, None if self.text is None else self.text.rows)
        self._add("lattice", self.module, cost)
        sides = {"inputs": model.entry.soft, "outputs": model.exit.soft}
        learned = {side: soft.places().tolist() for side, soft in sides.items() if soft is not None}
        for side, places in learned.items():
            logger.info("learned %s ended at %s", side, [[round(x, 2) for x in place] for place in places])
        if self.trainer.is_global_zero:
            self.whole.save_pretrained(self.folder / "model")
            save_companions(self.folder / "model", self.data, answers=self.module.loss.embeds)
        for name, reference in self._references():
            self.table.add(name, reference.fitted, predict(reference, self.data.splits["test"]))
        for name, baseline in untrained.items():
            self._train_baseline(name, baseline)
        if self.text is not None:
            self._text_baselines()
        result = {
            "table": self.table.rows,
            "task": self.data.task,
            "seed": self.cli.config.seed_everything,
            "validation": self._validation(),
            "parameters": counts,
            "backend": model.cell.backend,
            "learned_ports": learned,
            "data": self.data.card(),
            "machine": self._machine(),
        }
        if self.text is not None:
            result["text"] = self.text.card() | {"examples": self.table.examples}
        if self.trainer.is_global_zero:
            write_atomically(self.folder / "metrics.json", json.dumps(result, indent=2).encode())
            _point_latest(self.folder)
        return result

    @property
    def whole(self) -> LatticeModel | TextModel:
        """The lattice, with its text decoder where it has one; once the run was executed."""
        return self.model if self.text is None else self.text.joined(self.module)

    def _introduce(self, module: EmbeddingModule) -> None:
        """Tell a module what it must know of the data."""
        trainer = self.trainer
        module.pairs = self.data.pairs and any(map(ranked, self.data.sources))
        module.train_mean = self._sample()[1].mean(dim=0)
        # From the settings, not from the engine, whose own count would make the loader forget its position.
        assert trainer.max_epochs is not None
        batches = self.data.epoch_rows // self.data.batch_size
        module.updates = trainer.max_epochs * math.ceil(batches / trainer.accumulate_grad_batches)
        card = self.data.card()
        identity = {
            "settings": self._settings,
            "data": {key: card[key] for key in ("rows", "teacher", "source_sha256")},
            "machine": self._machine(),
        }
        if self.text is not None:
            identity["data"]["tokenizer"] = self.text.card()["tokenizer"]
        if self.cli.resume is not None and module is self.module:
            _check_same("the data", read(self.cli.resume)[ENTRY]["data"], identity["data"])
        module.identity = identity

    def _check_settings(self, file: Path) -> None:
        content = read(file)
        _check_same("the settings", content[ENTRY]["settings"], self._settings)
        logger.info("going on after update %d, from %s", content["global_step"], file)
        others = list(differences(content[ENTRY]["machine"], self._machine()))
        if others:
            logger.warning("%s: the weights will be the same to rounding only, not to the bit", "; ".join(others))

    def _machine(self) -> dict[str, Any]:
        """Tell what the last bits of a result hang on."""
        return {
            "processes": self.trainer.world_size,
            "threads": torch.get_num_threads(),
            "processor": platform.processor() or platform.machine(),
            "torch": str(torch.__version__),
        }

    def _text_baselines(self) -> None:
        assert self.text is not None
        for name in self.cli.config.baselines:
            if name in ON_FIXED_CODES:
                self._train_baseline(name, *self.text.fixed(name, self._sample()[0]))
            elif name in TEXT_BASELINES:
                parameters, rows = self.text.counted(name)
                self.table.add(name, parameters, generated=rows)

    def _train_baseline(self, name: str, model: nn.Module, decoding: Decoding | None = None) -> None:
        """Train a baseline as the lattice is; one with a `decoding` of its own gives text and no embedding."""
        logger.info("training the baseline %s", name)
        own = self.module
        loss = own.loss if decoding is None else LossWeights(reconstruction=0.0, cosine=0.0, tokens=own.loss.tokens)
        module = EmbeddingModule(model, loss, own.optim, own.unroll, own.seed, own.damage, own.pool)
        if self.text is not None:
            self.text.attach(module, decoding)
        self._introduce(module)
        with tempfile.TemporaryDirectory() as scratch:
            try:
                cost = self._fit(self.cli.baseline_trainer(Path(scratch)), module)
            except FloatingPointError as error:
                raise FloatingPointError(f"the baseline {name}: {error}") from error
        self._add(name, module, cost)

    def _fit(self, trainer: pl.Trainer, module: EmbeddingModule, resume: Path | None = None) -> dict[str, float]:
        """Train, put the best validated weights back, and say what it cost."""
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
        if not best.best_model_path:
            raise ValueError(
                f"a run must make at least one update and keep its best checkpoint; got {trainer.global_step} updates "
                f"in {trainer.max_epochs} epochs; leave the trainer's limits and checkpoint.save_top_k at their "
                "defaults."
            )
        chosen = torch.load(best.best_model_path, weights_only=True)
        module.load_state_dict(chosen["state_dict"])
        trainer.strategy.barrier()  # the file may go as soon as one process has gone on
        each = statistics.median(module.milliseconds) * trainer.accumulate_grad_batches
        cost: dict[str, float] = {"updates": trainer.global_step, "ms_per_update": round(each, 3)}
        cost["best_epoch"] = chosen["epoch"] + 1
        cost["spike"] = spike(module.losses, start=math.ceil(module.optim.warmup * len(module.losses)))
        if self.cli.config.refit_readout and module.loss.embeds:
            splits = self.data.splits
            span = module.unroll.span if isinstance(module.model, LatticeModel) else None
            cost["readout_penalty"] = refit_readout(
                module.model, splits["train"], splits["validation"], module.loss, span
            )
        return cost | {"seconds": round(module.seconds(), 2)}

    def _with_remedy(self, error: FloatingPointError | OSError) -> Exception:
        found = saved(self.folder / CHECKPOINTS)
        text = str(error).rstrip(".")
        if not found:
            return type(error)(f"{text}; no checkpoint was saved before.")
        return type(error)(f"{text}; the last good checkpoint is {found[0]}; go on with --resume {self.folder}.")

    def _validation(self) -> dict[str, float]:
        """Compute the loss of the weights that were chosen, on the validation split."""
        split = self.data.splits["validation"]
        loss = 0.0
        if self.module.loss.embeds:
            terms = loss_terms(predict(self.model, split), split.tensors()[1], self.module.loss)
            loss = float(torch.stack(list(terms.values())).sum())
        if self.text is not None:
            loss += self.text.validation_loss(self.module)
        return {"loss": loss}

    def _references(self) -> Iterator[tuple[str, baselines.AffineMap]]:
        (inputs, targets), wanted = self._sample(), self.cli.config.baselines
        code = baselines.code_encoder(self.model).out_features if "pca" in wanted else 0
        if "mean" in wanted:
            yield "mean", baselines.mean_vector(targets)
        if self.data.pairs:
            if "raw_teacher" in wanted:
                yield "raw_teacher", baselines.raw_teacher(self.data.dim)
            if "pca" in wanted:
                yield f"pca_{code}_ridge", baselines.residual_ridge(inputs, targets, self._score, code)
            if "ridge" in wanted:
                yield "ridge", baselines.residual_ridge(inputs, targets, self._score)
        elif "pca" in wanted:
            yield f"pca_{code}", baselines.principal_components(inputs, code)

    def _score(self, model: nn.Module) -> float:
        split = self.data.splits["validation"]
        return float(reciprocal_rank(predict(model, split), split.tensors()[1]).mean())

    def _sample(self) -> tuple[Tensor, Tensor]:
        """Give the training rows in memory, or so many of them that more would not move what is fitted to them."""
        return self.data.splits["train"].tensors(SAMPLE)

    def _add(self, name: str, module: EmbeddingModule, cost: dict[str, float]) -> None:
        model, text = module.model, module.text
        parameters = getattr(model, "fitted", sum(p.numel() for p in model.parameters() if p.requires_grad))
        if text is not None:
            parameters += sum(p.numel() for p in text.parameters())
        prediction = predict(model, self.data.splits["test"]) if module.loss.embeds else None
        generated = None if self.text is None else self.text.generated(module)
        self.table.add(name, parameters, prediction, generated, cost)


def spike(losses: Sequence[float], start: int, window: int = 25) -> float:
    """Return the largest ratio of a batch's loss to the median of those before it; 2 and less is a smooth curve.

    Args:
        losses: Of every batch, in order, ≥ 0.
        start: First batch that is looked at, such as the end of the warm-up.
        window: Batches in a median.
    """
    ratios = [losses[k] / statistics.median(losses[max(0, k - window) : k]) for k in range(max(1, start), len(losses))]
    return max(ratios, default=1.0)


def _is_of_the_network(error: RuntimeError) -> bool:
    """Tell an error of the collectives from others; gloo has no class of its own for them."""
    return isinstance(error, torch.distributed.DistError) or "gloo/transport" in str(error)


def _check_same(what: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    found = list(differences(before, now))
    if found:
        raise ValueError(
            f"a run goes on with {what} it began with; {'; '.join(found[:3])}{' …' if len(found) > 3 else ''}; restore "
            "them, or start a new run."
        )


@torch.no_grad()
def predict(model: nn.Module, split: EmbeddingSplit, batch_size: int = 256) -> Tensor:
    """Predict the targets of a whole split: [n, D]."""
    model.eval()
    return torch.cat([model(batch).embedding for batch in split.tensors()[0].split(batch_size)])


def _point_latest(folder: Path) -> None:
    link = folder.parent / "latest"
    part = folder.parent / f".latest-{os.getpid()}"
    part.unlink(missing_ok=True)
    part.symlink_to(folder.name, target_is_directory=True)
    os.replace(part, link)
