"""The engine's side: a lattice fits arrays, what it logs is what the metrics say, and a broken loss is named."""

import copy
import logging
import random

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from latticegnn.analysis.baselines import ProjectionOnly
from latticegnn.analysis.metrics import cosine, fvu, reciprocal_rank
from latticegnn.data import EmbeddingData
from latticegnn.lattice import LatticeSpec
from latticegnn.model import LatticeModel
from latticegnn.training.callbacks import GateLog, GradientWatch, SeedEachBatch
from latticegnn.training.configuration import quiet_engine
from latticegnn.training.fit import predict
from latticegnn.training.losses import LossWeights, loss_terms
from latticegnn.training.module import EmbeddingDataModule, EmbeddingModule, LatticeModule
from latticegnn.training.optim import Optimisation
from latticegnn.training.unroll import Unroll


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
    module = EmbeddingModule(model)
    module.train_mean, module.pairs = train.targets.mean(dim=0), True
    return module


def fit(module: EmbeddingModule, data: EmbeddingData, tmp_path, epochs: int, *callbacks, **settings) -> pl.Trainer:
    module.updates = epochs * len(data.dataloader("train"))
    with quiet_engine():
        trainer = pl.Trainer(
            max_epochs=epochs, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, callbacks=[GateLog(), *callbacks],
            default_root_dir=tmp_path, deterministic=True, **settings,
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


def test_soft_tiers_learn_their_thresholds_and_log_them(module, data, tmp_path) -> None:
    assert "threshold/local" not in fit(module, data, tmp_path, epochs=1).callback_metrics
    model = LatticeModel(module.model.spec, embedding_dim=12, channels=4, hidden=4, steps=5, soft_tiers=0.3)
    soft = EmbeddingModule(model)
    soft.train_mean = module.train_mean
    logged = fit(soft, data, tmp_path, epochs=2).callback_metrics
    found = [logged[f"threshold/{tier}"].item() for tier in ("local", "functional")]
    assert found == pytest.approx(model.cell.aggregator.thresholds().tolist())
    assert abs(found[0] - 0.5) > 1e-3


def test_without_pairs_no_rank_is_logged(module, data, tmp_path) -> None:
    module.pairs = False
    assert "validation/mrr@10" not in fit(module, data, tmp_path, epochs=1).callback_metrics


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("side", ["inputs", "targets"])
def test_a_row_that_is_not_finite_is_named(side, value, module, data, tmp_path, refuses) -> None:
    rows = getattr(data.splits["train"], side)
    kept = rows[7].clone()
    before = copy.deepcopy(module.model.state_dict())
    try:
        rows[7, 3] = value
        batches = [batch["index"].tolist() for batch in data.dataloader("train")]
        bad = next(k for k, batch in enumerate(batches) if 7 in batch)
        with refuses("a batch must be finite", f"at update {bad}, rows [7]", "drop these rows", FloatingPointError):
            fit(module, data, tmp_path, epochs=1)
    finally:
        rows[7] = kept
    assert all(torch.isfinite(value).all() for value in module.model.state_dict().values())
    assert (bad == 0) == all(torch.equal(before[k], v) for k, v in module.model.state_dict().items())


def test_a_loss_that_is_not_finite_names_update_and_rows(module, data, tmp_path, refuses) -> None:
    """Sound rows, whose squared error is beyond the format."""
    target = data.splits["train"].targets
    kept = target[7].clone()
    try:
        target[7] = 1e30
        batches = [batch["index"].tolist() for batch in data.dataloader("train")]
        bad = next(k for k, batch in enumerate(batches) if 7 in batch)
        with refuses("the loss must be finite", f"at update {bad}, batch rows", "lower the", FloatingPointError):
            fit(module, data, tmp_path, epochs=1)
        assert module.rows == batches[bad]
    finally:
        target[7] = kept


def test_a_gradient_that_is_not_finite_names_its_group_and_stops_before_the_update(
    module, data, tmp_path, refuses
) -> None:
    """A finite loss with an infinite slope, as of a square root at nothing."""
    module.model.decoder.weight.register_hook(lambda grad: grad / 0)
    before = copy.deepcopy(module.state_dict())
    words = ("the gradient must be finite", "gradient/decoder is not at update 0, batch rows", "lower the learning")
    with refuses(*words, FloatingPointError):
        fit(module, data, tmp_path, 1, GradientWatch(), accumulate_grad_batches=2)
    rows = [batch["index"].tolist() for batch in data.dataloader("train")]
    assert module.rows == rows[0] + rows[1]
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())


def test_the_norms_of_the_gradient_are_those_before_clipping(module, data, tmp_path) -> None:
    twin = copy.deepcopy(module.model)
    trainer = fit(module, data, tmp_path, 1, GradientWatch(), gradient_clip_val=1e-9, limit_train_batches=1)
    (batch, *_) = data.dataloader("train")
    sum(loss_terms(twin(batch["input"]).embedding, batch["target"], module.loss).values()).backward()
    parts = {"cell": twin.cell, "decoder": twin.decoder}
    expected = {n: torch.cat([p.grad.flatten() for p in part.parameters()]).norm() for n, part in parts.items()}
    for name, norm in expected.items():
        assert trainer.callback_metrics[f"gradient/{name}"].item() == pytest.approx(norm.item(), rel=1e-4)


def test_what_is_drawn_for_a_batch_hangs_on_its_place_alone(module, data, tmp_path) -> None:
    drawn: dict[int, list] = {}

    class Draw(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            numbers = (torch.rand(1).item(), np.random.rand(), random.random())  # noqa: NPY002
            drawn.setdefault(trainer.global_step, []).append(numbers)

    for disturbance in (0, 5):
        torch.manual_seed(disturbance)
        fit(copy.deepcopy(module), data, tmp_path, 2, SeedEachBatch(3), Draw())
    fit(copy.deepcopy(module), data, tmp_path, 1, SeedEachBatch(4), Draw())
    assert all(first == again for first, again, *_ in drawn.values())
    assert len({first for first, *_ in drawn.values()}) == len(drawn) == 2 * len(data.dataloader("train"))
    assert all(draws[0] != other for draws in drawn.values() for other in draws[2:])


def test_the_length_of_rollouts_follows_the_plan(data, tmp_path) -> None:
    spec, taken = LatticeSpec((5, 5, 5), radii=(0.5, 1.0, 1.5)), []
    model = LatticeModel(spec, embedding_dim=12, channels=4, hidden=4, steps=5)
    module = EmbeddingModule(model, unroll=Unroll("curriculum", 5, 7, part=1.0))
    module.train_mean = torch.zeros(12)
    roll = model.rollout

    def noted(embedding, steps=None, *rest):
        taken.append((model.training, steps))
        return roll(embedding, steps, *rest)

    model.rollout = noted
    fit(module, data, tmp_path, epochs=2)
    count = module.updates
    assert [steps for training, steps in taken if training] == [5 + 3 * update // count for update in range(count)]
    assert {steps for training, steps in taken if not training} == {None}


def test_rollouts_shorter_than_the_light_cone_are_refused(refuses) -> None:
    settings = {"spec": LatticeSpec((5, 5, 5), radii=(0.5, 1.0, 1.5)), "embedding_dim": 12, "steps": 5}
    with refuses("light cone", "3", "steps"):
        LatticeModule(unroll=Unroll("random", 3, 8), **settings)
    LatticeModule(unroll=Unroll("random", 3, 8), **settings, require_light_cone=False)


@pytest.mark.parametrize("term", ["dynamics", "spatial", "temporal", "emergence"])
def test_terms_on_the_trajectory_are_trained_for_a_lattice_and_left_out_for_a_baseline(
    term, module, data, tmp_path
) -> None:
    lattice = EmbeddingModule(module.model, LossWeights(**{term: 0.1}))
    flat = EmbeddingModule(ProjectionOnly(module.model), LossWeights(**{term: 0.1}))
    for each in (lattice, flat):
        each.train_mean = module.train_mean
    logged = fit(lattice, data, tmp_path, epochs=1).callback_metrics
    assert logged["train/loss"].item() == pytest.approx(
        sum(logged[f"train/{name}"].item() for name in ("reconstruction", "cosine", term)), rel=1e-5
    )
    assert f"train/{term}" not in fit(flat, data, tmp_path, epochs=1).callback_metrics


def test_what_the_command_line_builds() -> None:
    settings = {
        "spec": LatticeSpec((2, 2, 3), connectivity="full"),
        "embedding_dim": 5,
        "channels": 3,
        "hidden": 4,
        "steps": 3,
    }
    module = LatticeModule(LossWeights(cosine=0.0), experts={"functional": "attention"}, seed=3, **settings)
    assert module.lattice.settings["experts"] == {"functional": "attention"}
    assert (module.loss.cosine, module.optim, module.unroll) == (0.0, Optimisation(), Unroll())
    assert module.seed == module.lattice.settings["seed"] == 3
    embedding = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(module(embedding), module.lattice(embedding).embedding)


def test_the_data_module_serves_what_it_prepared(tmp_path) -> None:
    np.save(tmp_path / "v.npy", np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32))
    module = EmbeddingDataModule("vectors", None, batch_size=8, path=tmp_path / "v.npy", order_seed=3)
    module.setup("fit")
    train, content = list(module.train_dataloader()), module.content.splits["train"]
    order = torch.cat([batch["index"] for batch in train])
    assert len(set(order.tolist())) == len(order) == len(content) // 8 * 8
    assert order.tolist() != sorted(order.tolist())
    other = EmbeddingDataModule("vectors", None, batch_size=8, path=tmp_path / "v.npy", order_seed=4)
    other.setup("fit")
    assert torch.cat([batch["index"] for batch in other.train_dataloader()]).tolist() != order.tolist()
    validation = torch.cat([batch["input"] for batch in module.val_dataloader()])
    assert torch.equal(validation, module.content.splits["validation"].inputs)


def test_a_teachers_settings_are_checked(refuses) -> None:
    with refuses("`teacher` must hold settings of Teacher", "received 'sorce'", "source, pooling"):
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
