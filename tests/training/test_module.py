"""The engine's side: a lattice fits arrays, what it logs is what the metrics say, and a broken loss is named."""

import logging

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from latticegnn.analysis.metrics import cosine, fvu, reciprocal_rank
from latticegnn.data import EmbeddingData
from latticegnn.lattice import LatticeSpec
from latticegnn.model import LatticeModel
from latticegnn.training.callbacks import GateLog
from latticegnn.training.configuration import quiet_engine
from latticegnn.training.fit import predict
from latticegnn.training.losses import LossWeights, loss_terms
from latticegnn.training.module import EmbeddingDataModule, EmbeddingModule, LatticeModule
from latticegnn.training.optim import Optimisation


@pytest.fixture(scope="module")
def data() -> EmbeddingData:
    """Pairs: the answer to a vector is the vector turned by a fixed map."""
    draw = np.random.default_rng(0).normal
    inputs = draw(size=(120, 12)).astype(np.float32)
    turn = np.linalg.qr(draw(size=(12, 12)))[0].astype(np.float32)
    return EmbeddingData.from_arrays(inputs, inputs @ turn, batch_size=24)


@pytest.fixture
def module(data) -> EmbeddingModule:
    spec = LatticeSpec((5, 5, 5), radii=(0.5, 1.0, 1.5))
    model = LatticeModel(spec, embedding_dim=12, channels=4, hidden=4, steps=5)
    train = data.splits["train"]
    model.fit_maps(train.inputs, train.targets)
    return EmbeddingModule(model, LossWeights(), Optimisation(), train.targets.mean(dim=0), pairs=True)


def fit(module: EmbeddingModule, data: EmbeddingData, tmp_path, epochs: int) -> pl.Trainer:
    with quiet_engine():
        trainer = pl.Trainer(
            max_epochs=epochs, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, callbacks=[GateLog()], default_root_dir=tmp_path,
            deterministic=True,
        )  # fmt: skip
        trainer.fit(module, data.dataloader("train"), data.dataloader("validation"))
    return trainer


def test_a_lattice_learns_and_logs_what_the_metrics_say(module, data, tmp_path) -> None:
    split = data.splits["validation"]
    before = fvu(predict(module.model, split), split.targets, module.train_mean)
    module.train()
    trainer = fit(module, data, tmp_path, epochs=8)
    prediction = predict(module.model, split)
    after = fvu(prediction, split.targets, module.train_mean)
    assert after < 0.8 * before
    logged = trainer.callback_metrics
    assert logged["validation/fvu"].item() == pytest.approx(after, rel=1e-5)
    assert logged["validation/cosine"].item() == pytest.approx(cosine(prediction, split.targets), rel=1e-5)
    rank = reciprocal_rank(prediction, split.targets).mean().item()
    assert logged["validation/mrr@10"].item() == pytest.approx(rank, rel=1e-5)
    loss = sum(loss_terms(prediction, split.targets, module.loss).values())
    assert logged["validation/loss"].item() == pytest.approx(loss.item(), rel=1e-5)
    gates = [logged[f"gate/{name}"].item() for name in module.model.cell.experts]
    assert sum(gates) == pytest.approx(1, abs=1e-5)
    assert 0 <= logged["gate/entropy"].item() <= np.log(3) + 1e-6
    assert len(module.milliseconds) == trainer.global_step == 8 * len(data.dataloader("train"))
    assert min(module.milliseconds) > 0


def test_without_pairs_no_rank_is_logged(module, data, tmp_path) -> None:
    module.pairs = False
    assert "validation/mrr@10" not in fit(module, data, tmp_path, epochs=1).callback_metrics


def test_a_loss_that_is_not_finite_names_update_and_rows(module, data, tmp_path, refuses) -> None:
    target = data.splits["train"].targets
    kept = target[7].clone()
    try:
        target[7] = torch.inf
        rows = [batch["index"].tolist() for batch in data.dataloader("train")]
        bad = next(k for k, row in enumerate(rows) if 7 in row)
        with refuses("the loss must be finite", f"at update {bad}", "lower the learning rates", FloatingPointError):
            fit(module, data, tmp_path, epochs=1)
    finally:
        target[7] = kept


def test_what_the_command_line_builds() -> None:
    settings = {
        "spec": LatticeSpec((2, 2, 3), connectivity="full"),
        "embedding_dim": 5,
        "channels": 3,
        "hidden": 4,
        "steps": 3,
    }
    module = LatticeModule(LossWeights(cosine=0.0), None, experts={"functional": "attention"}, **settings)
    assert module.lattice.settings["experts"] == {"functional": "attention"}
    assert (module.loss.cosine, module.optim) == (0.0, Optimisation())
    embedding = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(module(embedding), module.lattice(embedding).embedding)


def test_the_data_module_serves_what_it_prepared(tmp_path) -> None:
    np.save(tmp_path / "v.npy", np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32))
    module = EmbeddingDataModule("vectors", None, batch_size=8, path=tmp_path / "v.npy", order_seed=3)
    module.setup("fit")
    train, content = list(module.train_dataloader()), module.content.splits["train"]
    order = torch.cat([batch["index"] for batch in train])
    assert sorted(order.tolist()) == list(range(len(content)))
    assert order.tolist() != list(range(len(content)))
    other = EmbeddingDataModule("vectors", None, batch_size=8, path=tmp_path / "v.npy", order_seed=4)
    other.setup("fit")
    assert torch.cat([batch["index"] for batch in other.train_dataloader()]).tolist() != order.tolist()
    validation = torch.cat([batch["input"] for batch in module.val_dataloader()])
    assert torch.equal(validation, module.content.splits["validation"].inputs)


def test_a_teachers_settings_are_checked(refuses) -> None:
    with refuses("data.teacher must hold settings of a Teacher", "got 'sorce'", "source, pooling"):
        EmbeddingDataModule(teacher={"sorce": "packaged:minilm"})


def test_the_engine_gets_its_voice_back() -> None:
    engine = logging.getLogger("lightning.pytorch")
    before = engine.level
    levels = []

    def break_off() -> None:
        with quiet_engine():
            levels.append(engine.level)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        break_off()
    assert levels == [logging.WARNING] != [before]
    assert engine.level == before
