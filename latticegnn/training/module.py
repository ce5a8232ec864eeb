"""The engine's side of a model and of its data."""

from __future__ import annotations

import inspect
import time
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torchmetrics import CatMetric

from latticegnn.analysis.metrics import cosine, fvu, reciprocal_rank
from latticegnn.data import EmbeddingData, Teacher
from latticegnn.model import LatticeModel
from latticegnn.training.losses import LossWeights, loss_terms
from latticegnn.training.optim import Optimisation, configure

VALIDATION_METRICS = ("validation/loss", "validation/fvu", "validation/cosine", "validation/mrr@10")
"""What a run logs after each epoch, and so what may be monitored; the last one for pairs only."""


class EmbeddingModule(pl.LightningModule):
    """Trains any model whose ``model(embedding).embedding`` is a prediction: the lattice and every baseline alike.

    Logs the loss and its terms each step, and after each epoch `VALIDATION_METRICS`.

    Args:
        model: Maps embeddings [B, D] to an output with ``embedding`` [B, D].
        loss: Weights of the loss terms.
        optim: Optimiser and schedule.
        train_mean: Mean of the training targets [D], the reference of FVU.
        pairs: Whether targets are answers to be found among others.
    """

    def __init__(
        self, model: nn.Module, loss: LossWeights, optim: Optimisation, train_mean: Tensor, pairs: bool
    ) -> None:
        super().__init__()
        self.model = model
        self.loss, self.optim, self.pairs = loss, optim, pairs
        self.train_mean = train_mean
        self.milliseconds: list[float] = []
        self._started = 0.0
        # These gather over processes, too: the metrics below need all rows at once.
        self.predictions, self.targets = CatMetric(), CatMetric()

    def forward(self, embedding: Tensor) -> Tensor:
        """Predict: [B, D] -> [B, D]."""
        return self.model(embedding).embedding

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Compute the loss of a batch."""
        terms = loss_terms(self(batch["input"]), batch["target"], self.loss)
        loss = torch.stack(list(terms.values())).sum()
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss must be finite; it is {loss.item()} at update {self.global_step}, batch rows "
                f"{batch['index'].tolist()}; lower the learning rates or inspect these rows."
            )
        self.log("train/loss", loss, prog_bar=True)
        self.log_dict({f"train/{name}": value for name, value in terms.items()})
        return loss

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Start the update's clock, the batch being there already."""
        self._started = time.perf_counter()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Note what the update took: forward, backward and optimiser."""
        self.milliseconds.append(1e3 * (time.perf_counter() - self._started))

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Collect predictions; the metrics need all of them."""
        self.predictions.update(self(batch["input"]))
        self.targets.update(batch["target"])

    def on_validation_epoch_end(self) -> None:
        """Compute and log the metrics over the whole validation split."""
        prediction, target = self.predictions.compute(), self.targets.compute()
        self.predictions.reset()
        self.targets.reset()
        loss = torch.stack(list(loss_terms(prediction, target, self.loss).values())).sum()
        values = {
            "validation/loss": float(loss),
            "validation/fvu": float(fvu(prediction, target, self.train_mean.to(target))),
            "validation/cosine": float(cosine(prediction, target)),
        }
        if self.pairs:
            values["validation/mrr@10"] = float(reciprocal_rank(prediction, target).mean())
        self.log_dict(values, prog_bar=True)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the schedule's length that of this run, which may have more epochs than the one that is resumed."""
        for schedule in checkpoint["lr_schedulers"]:
            for key in ("total_steps", "_schedule_phases"):
                schedule.pop(key, None)

    def configure_optimizers(self) -> Any:
        """Make optimiser and schedule for the run's number of updates."""
        return configure(self.model, self.optim, int(self.trainer.estimated_stepping_batches))


class LatticeModule(EmbeddingModule):
    """An `EmbeddingModule` around a `LatticeModel`; what the command line builds.

    Args:
        loss: Weights of the loss terms.
        optim: Optimiser and schedule.
        experts: As for `LatticeModel`, which builds them; a plain ``dict``: the parser leaves class paths in it alone.
        kwargs: Other arguments of `LatticeModel`.
    """

    def __init__(
        self,
        loss: LossWeights | None = None,
        optim: Optimisation | None = None,
        experts: dict | None = None,
        **kwargs: Any,
    ) -> None:
        model = LatticeModel(experts=experts, **kwargs)
        super().__init__(
            model, loss or LossWeights(), optim or Optimisation(), torch.zeros(model.embedding_dim), pairs=False
        )

    @property
    def lattice(self) -> LatticeModel:
        """The lattice itself."""
        assert isinstance(self.model, LatticeModel)
        return self.model


class EmbeddingDataModule(pl.LightningDataModule):
    """`EmbeddingData` for the engine.

    Args:
        task: See `EmbeddingData`, as all others.
        limit: Greatest number of rows.
        teacher: A source, or the settings of a `Teacher`.
        batch_size: B.
        seed: Decides splits and sample.
        path: File of the tasks "file" and "vectors".
        cache_dir: Root of the embedding cache.
        expected_dim: D of the model.
        order_seed: Decides the order of training rows.
    """

    def __init__(
        self,
        task: Literal["qa", "sentences", "file", "vectors"] = "qa",
        limit: int | None = 2000,
        teacher: str | dict[str, Any] = "packaged:minilm",
        batch_size: int = 32,
        seed: int = 0,
        path: Path | None = None,
        cache_dir: Path | None = None,
        expected_dim: int | None = None,
        order_seed: int = 0,
    ) -> None:
        super().__init__()
        if isinstance(teacher, dict):
            known = inspect.signature(Teacher).parameters
            for key in teacher:
                if key not in known:
                    raise ValueError(
                        f"data.teacher must hold settings of a Teacher, {', '.join(known)}; got {key!r}; "
                        "use these names."
                    )
        self.content = EmbeddingData(task, limit, teacher, batch_size, seed, path, cache_dir, expected_dim)
        self.order_seed = order_seed

    def setup(self, stage: str) -> None:
        """Read and embed, once."""
        self.content.prepare()

    def train_dataloader(self) -> Any:
        """Return shuffled batches."""
        return self.content.dataloader("train", self.order_seed)

    def val_dataloader(self) -> Any:
        """Return the validation split in order."""
        return self.content.dataloader("validation")
