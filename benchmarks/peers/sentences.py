"""Sentence embeddings through 64 numbers, as measured processes: this library, and what sentence-transformers offers.

Every round is a training from scratch, its number the seed; all are judged on the same held-out rows.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.peers.child import Round, serve
from benchmarks.peers.process import ROOT
from latticegnn.analysis.metrics import figures
from latticegnn.data.datamodule import EmbeddingData
from latticegnn.training.fit import Run

CODE, BATCH = 64, 32
LATTICE, PCA, STUDENT, LONG_STUDENT = (
    "ours",
    "PCA in a Dense layer",
    "Dense student, MSELoss",
    "the same, ten times as long",
)
VARIANTS = (LATTICE, PCA, STUDENT, LONG_STUDENT)
RATES = (1e-3, 3e-3, 1e-2)


@dataclass(frozen=True)
class Trained:
    """A map from embeddings to embeddings, through 64 numbers.

    Args:
        parameters: Numbers that were fitted.
        seconds: CPU time that it took.
        answer: The map, [n, D] -> [n, D].
    """

    parameters: int
    seconds: float
    answer: Callable[[Tensor], Tensor]


def prepare(variant: str, limit: int, epochs: int) -> tuple[dict[str, Any], Round]:
    """Get a variant ready to be trained, see `benchmarks.peers.child.serve`.

    Args:
        variant: One of `VARIANTS`.
        limit: Sentences of all splits together.
        epochs: Passes over the training rows.
    """
    torch.set_num_threads(1)
    data = EmbeddingData("sentences", limit=limit, batch_size=BATCH, progress=False)
    data.prepare()
    train, validation, test = (data.splits[name].tensors()[0] for name in ("train", "validation", "test"))
    updates = {PCA: 0, LONG_STUDENT: 10}.get(variant, 1) * epochs * (len(train) // BATCH)

    def make_round(number: int) -> dict[str, Any]:
        if variant == LATTICE:
            with TemporaryDirectory() as scratch:
                trained = lattice(limit, epochs, number, Path(scratch), test)
        elif variant == PCA:
            trained = principal_components(train)
        else:
            trained = student(train, validation, updates, number)
        found = figures(trained.answer(test), test, train.mean(dim=0), pairs=False)
        return {"parameters": trained.parameters, "seconds": trained.seconds} | found

    return {"rows": len(train), "held_out": len(test), "epochs": epochs, "updates": updates}, make_round


def lattice(limit: int, epochs: int, seed: int, folder: Path, test: Tensor) -> Trained:
    """Train this library's lattice by its own configuration, as a whole run: the table of test rows included.

    Raises:
        ValueError: When the run holds out other rows than those that all are judged on.
    """
    settings = {
        "--config": ROOT / "configs" / "autoencode.yaml", "--seed_everything": seed, "--data.limit": limit,
        "--trainer.max_epochs": epochs, "--baselines": [], "--run_dir": folder,
        "--log_level": "error",
    }  # fmt: skip
    run = Run([str(part) for pair in settings.items() for part in pair])
    run.data.prepare()
    start = time.process_time()
    run.execute()
    seconds = time.process_time() - start
    if not run.data.splits["test"].tensors()[0].equal(test):
        raise ValueError(
            f"peers must be judged on rows that none has trained on; the run of seed {seed} holds out others than the "
            f"{len(test)} test rows; give both the same data."
        )
    model = run.model.eval()

    @torch.no_grad()
    def answer(embeddings: Tensor) -> Tensor:
        return model(embeddings).embedding

    return Trained(model.parameter_counts()["total"], seconds, answer)


def principal_components(train: Tensor) -> Trained:
    """Reduce as sentence-transformers' documentation does: PCA's axes as the weights of a `Dense` without bias.

    The way back, which the recipe leaves out, is PCA's own inverse, as a second `Dense`.
    """
    from sklearn.decomposition import PCA as Decomposition

    start = time.process_time()
    fitted = Decomposition(CODE, random_state=0).fit(train.numpy())
    axes, mean = (torch.from_numpy(part.astype(np.float32)) for part in (fitted.components_, fitted.mean_))
    there, back = dense(train.shape[1], CODE, bias=False), dense(CODE, train.shape[1])
    there.linear.weight = nn.Parameter(axes)
    back.linear.weight = nn.Parameter(axes.t().contiguous())
    back.linear.bias = nn.Parameter(mean - axes.t() @ (axes @ mean))
    return trained(joined(there, back), time.process_time() - start)


def student(train: Tensor, validation: Tensor, updates: int, seed: int) -> Trained:
    """Train a `Dense` student of 64 numbers by sentence-transformers' `MSELoss`, the teacher's embedding its label.

    AdamW, one cycle, at the rate of `RATES` that the validation rows prefer; the seconds are those of this one.
    """
    from sentence_transformers.sentence_transformer.losses import MSELoss

    found: list[tuple[float, Trained]] = []
    for rate in RATES:
        start = time.process_time()
        torch.manual_seed(seed)
        model = joined(dense(train.shape[1], CODE), dense(CODE, train.shape[1]))
        criterion = MSELoss(model)
        optimizer = torch.optim.AdamW(model.parameters(), rate, betas=(0.9, 0.98))
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=updates, pct_start=0.1)
        whole = len(train) // BATCH * BATCH
        rows: list[Tensor] = []
        for _ in range(updates):
            rows = rows or list(torch.randperm(len(train))[:whole].split(BATCH))
            batch = train[rows.pop()]
            optimizer.zero_grad()
            criterion([{"sentence_embedding": batch}], batch).backward()
            optimizer.step()
            schedule.step()
        made = trained(model, time.process_time() - start)
        found.append((float((made.answer(validation) - validation).square().mean()), made))
    return min(found, key=lambda one: one[0])[1]


def dense(inputs: int, outputs: int, bias: bool = True) -> Any:
    """Return sentence-transformers' linear map."""
    from sentence_transformers.sentence_transformer.modules import Dense

    return Dense(inputs, outputs, bias, nn.Identity())


def joined(*modules: nn.Module) -> Any:
    """Return a SentenceTransformer that starts from embeddings, the packaged teacher's."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(modules=list(modules), device="cpu")


def trained(model: Any, seconds: float) -> Trained:
    """Tell what a SentenceTransformer of `joined` is, and took."""

    @torch.no_grad()
    def answer(embeddings: Tensor) -> Tensor:
        return model({"sentence_embedding": embeddings})["sentence_embedding"]

    return Trained(sum(p.numel() for p in model.parameters()), seconds, answer)


if __name__ == "__main__":
    serve(prepare)
