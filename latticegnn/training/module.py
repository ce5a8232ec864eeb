"""The engine's side of a model and of its data."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torchmetrics import CatMetric

from latticegnn.analysis.metrics import cosine, fvu, reciprocal_rank
from latticegnn.data import EmbeddingData, Source, Task, TextFields, VectorFields
from latticegnn.data.mixture import TEXT, VECTORS
from latticegnn.lattice import check_light_cone
from latticegnn.model import LatticeModel
from latticegnn.nn import Implicit
from latticegnn.training.checkpoints import ENTRY, FORMAT
from latticegnn.training.damage import Damage, Pool, Rehearsal
from latticegnn.training.decoding import TOKEN_METRIC
from latticegnn.training.losses import PAIRWISE_TERMS, Loss, LossWeights, loss_terms
from latticegnn.training.optim import Optimisation, configure
from latticegnn.training.ponder import Pondered, head, ponder
from latticegnn.training.text import TextSide
from latticegnn.training.unroll import Unroll

VALIDATION_METRICS = ("validation/loss", "validation/fvu", "validation/cosine", "validation/mrr@10")
"""What a run logs after each epoch, and so what may be monitored; the last one for pairs only.

A text decoder adds `TOKEN_METRIC`."""


class EmbeddingModule(pl.LightningModule):
    """Trains any model whose ``model(embedding).embedding`` is a prediction: the lattice and every baseline alike.

    Logs the loss and its terms each step, and after each epoch `VALIDATION_METRICS`. Where several processes share a
    batch, terms on embeddings see all its rows, so that loss and gradient are those of one process; terms on the
    trajectory are averaged over the processes, and so are all terms of a model with a halting head, whose answers of
    all steps are weighed. The validation loss holds the terms on embeddings and tokens alone.

    Args:
        model: Maps embeddings [B, D] to an output with ``embedding`` [B, D].
        loss: Weights of the loss terms.
        optim: Optimiser and schedule.
        unroll: Number of steps of a lattice's rollouts in training.
        seed: Of the draws of that number.
        damage: What a lattice's rollouts lose on the way in training.
        pool: What they go on from.

    Attributes:
        updates: Optimiser steps of the whole run; set before training.
        train_mean: Mean of the training targets [D], the reference of FVU; set before training.
        pairs: Whether targets are answers to be found among others; set before training.
        text: A text decoder that is trained beside the model; set before training, by `attach`.
        identity: What checkpoints say of the run that wrote them; plain numbers and texts.
        rows: Rows of the batches since the last update.
        losses: Loss of each batch.
        milliseconds: Duration of each batch.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: LossWeights | None = None,
        optim: Optimisation | None = None,
        unroll: Unroll | None = None,
        seed: int = 0,
        damage: Damage | None = None,
        pool: Pool | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.loss, self.optim, self.unroll = loss or LossWeights(), optim or Optimisation(), unroll or Unroll()
        self.seed, self.damage, self.pool = seed, damage or Damage(), pool or Pool()
        lattice = model if isinstance(model, LatticeModel) else None
        if lattice is not None and self.unroll.low is not None and lattice.settings["require_light_cone"]:
            check_light_cone(lattice.spec, lattice.inputs, lattice.outputs, self.unroll.low)
        self.rehearsal: Rehearsal | None = None
        if lattice is not None:
            if self.needs_trajectory and isinstance(lattice.gradient, Implicit):
                lattice.gradient.refuse_trajectory()
            _check_halting(lattice, self.loss, self.unroll)
            self.rehearsal = Rehearsal(lattice, self.damage, self.pool, self.unroll.low or lattice.steps)
        self.criterion = Loss(self.loss, lattice.spec if lattice else None)
        self.updates, self.pairs = 0, False
        self.train_mean = torch.zeros(())
        self.text: TextSide | None = None
        self.identity: dict[str, Any] = {}
        self.rows: list[int] = []
        self.losses: list[float] = []
        self.milliseconds: list[float] = []
        self._before = self._began = self._started = 0.0
        # These gather over processes, too: the metrics below need all rows at once.
        self.predictions, self.targets, self.texts = CatMetric(), CatMetric(), CatMetric()

    def attach(self, text: TextSide, freeze: bool = False) -> None:
        """Train a text decoder beside the model; with `freeze` it alone, on the model as it is."""
        self.text = text
        decoder = getattr(self.model, "decoder", None)
        if freeze:
            self.model.requires_grad_(False)
        elif decoder is not None and not self.loss.embeds and text.source == "code":
            decoder.requires_grad_(False)  # nothing looks at what it gives

    def given(self, batch: dict[str, Tensor], split: str) -> Tensor:
        """Give what the model takes of a batch of a split: embeddings [B, D], or token ids [B, L]."""
        return batch["input"] if self.text is None else self.text.given(batch, split)

    def forward(self, embedding: Tensor) -> Tensor:
        """Predict: [B, D] -> [B, D]."""
        return self.model(embedding).embedding

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Compute the loss of a batch."""
        rows = self._of_all_processes(batch["index"]).tolist()
        self.rows = rows if batch_idx % self.trainer.accumulate_grad_batches == 0 else self.rows + rows
        unsound = ~(torch.isfinite(batch["input"]) & torch.isfinite(batch["target"])).all(dim=1)
        if bool(unsound.any()):
            raise FloatingPointError(
                f"a batch must be finite; it is not at update {self.global_step}, rows "
                f"{batch['index'][unsound].tolist()}; drop these rows or embed their texts again"
            )
        output, inputs, target = self._roll_out(self.given(batch, "train"), batch["target"])
        prediction, pondered = output.embedding, self.ponder(output, inputs)
        if pondered is None:
            prediction, target = self._of_all_processes(prediction), self._of_all_processes(target)
        terms = self.criterion(prediction, target, getattr(output, "trajectory", None), pondered)
        if self.text is not None:
            code = self._of_all_processes(self.text.read(output))
            terms["tokens"] = self.text.term(code, self._of_all_processes(batch["index"]))
        loss = torch.stack(list(terms.values())).sum()
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss must be finite; it is {loss.item()} at update {self.global_step}, batch rows {self.rows}; "
                "lower the learning rates or inspect these rows"
            )
        self.losses.append(loss.item())
        self.log("train/loss", loss, prog_bar=True)
        self.log_dict({f"train/{name}": value for name, value in terms.items()})
        return loss

    def on_fit_start(self) -> None:
        """Start the clock; what a run took before it went on is in its checkpoint.

        Raises:
            ValueError: When several processes are to share a pool.
        """
        self.pool.check_processes(self.trainer.world_size)
        self._began = time.perf_counter() - self._before

    def seconds(self) -> float:
        """Return the time since training began, without that between a break and going on."""
        return time.perf_counter() - self._began

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Start the update's clock, the batch being there already."""
        self._started = time.perf_counter()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Note what the update took: forward, backward and optimiser."""
        self.milliseconds.append(1e3 * (time.perf_counter() - self._started))

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Collect predictions; the metrics need all of them."""
        output = self.model(self.given(batch, "validation"))
        if self.loss.embeds:
            self.predictions.update(output.embedding)
            self.targets.update(batch["target"])
        if self.text is not None:
            self.texts.update(self.text.shares(self.text.read(output), batch["index"]))

    def on_validation_epoch_end(self) -> None:
        """Compute and log the metrics over the whole validation split."""
        values, loss = {}, 0.0
        if self.loss.embeds:
            prediction, target = self.predictions.compute(), self.targets.compute()
            self.predictions.reset()
            self.targets.reset()
            loss = float(torch.stack(list(loss_terms(prediction, target, self.loss).values())).sum())
            values["validation/fvu"] = float(fvu(prediction, target, self.train_mean.to(target)))
            values["validation/cosine"] = float(cosine(prediction, target))
            if self.pairs:
                values["validation/mrr@10"] = float(reciprocal_rank(prediction, target).mean())
        if self.text is not None:
            tokens, values[TOKEN_METRIC] = self.text.figures(self.texts.compute())
            self.texts.reset()
            loss += tokens
        values["validation/loss"] = loss
        self.log_dict(values, prog_bar=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say what format this is, which run's, and what it took so far."""
        checkpoint[ENTRY] = {
            "format": FORMAT,
            **self.identity,
            "seconds": self.seconds(),
            "losses": torch.tensor(self.losses),
            "milliseconds": torch.tensor(self.milliseconds),
            "pool": self.rehearsal.held if self.rehearsal is not None else {},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over what was noted so far, and find the best checkpoint wherever the run's folder is now."""
        self._before = checkpoint[ENTRY]["seconds"]
        self.losses = checkpoint[ENTRY]["losses"].tolist()
        self.milliseconds = checkpoint[ENTRY]["milliseconds"].tolist()
        if self.rehearsal is not None:
            self.rehearsal.held = checkpoint[ENTRY]["pool"]
        best = self.trainer.checkpoint_callback
        state = checkpoint["callbacks"].get(best.state_key) if best is not None else None
        if state is not None:
            state["dirpath"] = str(best.dirpath)  # type: ignore[union-attr]
            for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
                state[key] = _moved(state[key], state["dirpath"])
            state["best_k_models"] = {_moved(k, state["dirpath"]): v for k, v in state["best_k_models"].items()}

    def configure_optimizers(self) -> Any:
        """Make optimiser and schedule for the run's number of updates."""
        return configure(self, self.optim, self.updates)

    def _roll_out(self, inputs: Tensor, targets: Tensor) -> tuple[Any, Tensor, Tensor]:
        if self.rehearsal is None:
            return self.model(inputs), inputs, targets
        steps = self.unroll.steps(self.global_step, self.updates, self.seed)
        return self.rehearsal.roll_out(inputs, targets, steps, self.needs_trajectory)

    @property
    def needs_trajectory(self) -> bool:
        """Whether the loss looks at the states of a rollout: a term of it, or a halting head."""
        return self.loss.needs_trajectory or (isinstance(self.model, LatticeModel) and head(self.model) is not None)

    def ponder(self, output: Any, embedding: Tensor) -> Pondered | None:
        """Read out every step at which a lattice with a halting head may stop; None without one."""
        return ponder(self.model, output, embedding) if isinstance(self.model, LatticeModel) else None

    def _of_all_processes(self, rows: Tensor) -> Tensor:
        """Put the parts of a batch together, each process having an equal one; gradients flow back to all."""
        if self.trainer.world_size == 1:
            return rows
        gathered = self.all_gather(rows, sync_grads=rows.is_floating_point())
        assert isinstance(gathered, Tensor)
        return gathered.flatten(0, 1)


def _check_halting(model: LatticeModel, loss: LossWeights, unroll: Unroll) -> None:
    halting = head(model)
    if halting is None:
        if loss.ponder > 0:
            raise ValueError(
                f"loss.ponder is the weight of a halting head's term; got {loss.ponder} and a model without one; set "
                "model.stopping to {halting: {prior: 0.1}}, or loss.ponder to 0."
            )
        return
    pairwise = [name for name in PAIRWISE_TERMS if getattr(loss, name) > 0]
    if pairwise:
        raise ValueError(
            "with a halting head the loss is weighed row by row, as each row halts at a step of its own; got loss."
            f"{', loss.'.join(pairwise)}, which compare rows; set them to 0."
        )
    fewest = model.steps if unroll.low is None else unroll.low
    if fewest < halting.first:
        raise ValueError(
            f"rollouts in training must reach the first step that may halt, {halting.first}; got {fewest} steps; raise "
            "model.steps or unroll.low, or lower model.stopping.min_steps."
        )


def _moved(path: str, folder: str) -> str:
    return str(Path(folder) / Path(path).name) if path else path


class LatticeModule(EmbeddingModule):
    """An `EmbeddingModule` around a `LatticeModel`; what the command line builds.

    Args:
        loss: Weights of the loss terms.
        optim: Optimiser and schedule.
        unroll: Number of steps of rollouts in training.
        experts: As for `LatticeModel`, which builds them; a plain ``dict``: the parser leaves class paths in it alone.
        seed: Of the model's start, and of the draws of `unroll`.
        damage: What rollouts lose on the way in training.
        pool: What they go on from.
        kwargs: Other arguments of `LatticeModel`.
    """

    def __init__(
        self,
        loss: LossWeights | None = None,
        optim: Optimisation | None = None,
        unroll: Unroll | None = None,
        experts: dict | None = None,
        seed: int = 0,
        damage: Damage | None = None,
        pool: Pool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(LatticeModel(experts=experts, seed=seed, **kwargs), loss, optim, unroll, seed, damage, pool)

    @property
    def lattice(self) -> LatticeModel:
        """The lattice itself."""
        assert isinstance(self.model, LatticeModel)
        return self.model


SETTINGS = {"loss": LossWeights, "optim": Optimisation, "unroll": Unroll, "damage": Damage, "pool": Pool}
"""Sections of a configuration that become arguments of `LatticeModule`."""


class EmbeddingDataModule(pl.LightningDataModule):
    """`EmbeddingData` for the engine.

    Args:
        task: See `EmbeddingData`, as all others.
        limit: Greatest number of rows.
        teacher: A source, or the settings of a `Teacher` or of `WordVectors`.
        batch_size: B, over all processes.
        seed: Decides splits and sample.
        path: File of the tasks "file" and "vectors".
        cache_dir: Root of the embedding cache.
        expected_dim: D of the model.
        max_total_samples: Rows after which reading stops.
        weight: Visits of a training row in an epoch.
        text: How a file of texts is read.
        vectors: Where prepared embeddings lie in their file.
        words: Fewest and most words of a phrase.
        more: Further sources.
        cache_max_gb: Size that the embedding cache is cut back to.
        num_workers: Processes that gather batches ahead.
        order_seed: Decides the order of training rows.
    """

    def __init__(
        self,
        task: Task = "qa",
        limit: int | None = 2000,
        teacher: str | dict[str, Any] = "packaged:minilm",
        batch_size: int = 32,
        seed: int = 0,
        path: Path | None = None,
        cache_dir: Path | None = None,
        expected_dim: int | None = None,
        max_total_samples: int | None = None,
        weight: float = 1.0,
        text: TextFields = TEXT,
        vectors: VectorFields = VECTORS,
        words: tuple[int, int] = (2, 2),
        more: list[Source] = [],  # noqa: B006  (never changed; the parser's errors name a source only so)
        cache_max_gb: float | None = None,
        num_workers: int = 0,
        order_seed: int = 0,
    ) -> None:
        super().__init__()
        self.content = EmbeddingData(
            task, limit, teacher, batch_size, seed, path, cache_dir, expected_dim,
            max_total_samples=max_total_samples, weight=weight, text=text, vectors=vectors, words=words,
            more=more or (), cache_max_gb=cache_max_gb, num_workers=num_workers,
        )  # fmt: skip
        self.order_seed = order_seed

    def setup(self, stage: str) -> None:
        """Read and embed, once."""
        self.content.prepare()

    def train_dataloader(self) -> Any:
        """Return shuffled batches, this process's part of each."""
        return self._dataloader("train")

    def val_dataloader(self) -> Any:
        """Return the validation split in order, this process's part of it."""
        return self._dataloader("validation")

    def _dataloader(self, split: Literal["train", "validation"]) -> Any:
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        return self.content.dataloader(split, self.order_seed, rank, world)
