"""Blows and the pool: who is struck, what goes on, and a resumed run that is the same to the bit."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from latticegnn.lattice import LatticeSpec
from latticegnn.model import LatticeModel
from latticegnn.training import callbacks
from latticegnn.training.checkpoints import ENTRY, saved
from latticegnn.training.damage import Damage, Pool, Rehearsal
from latticegnn.training.fit import Run
from latticegnn.training.module import EmbeddingModule
from latticegnn.training.unroll import Unroll

SPEC = LatticeSpec((3, 3, 5), radii=(0.5, 1.0, 1.5))


def build(**settings) -> LatticeModel:
    return LatticeModel(SPEC, embedding_dim=6, channels=4, hidden=4, steps=5, **settings).double()


def batch(rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    first, second = torch.randn(2, rows, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return first, second


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_blows_fall_as_often_as_large_and_as_late_as_set() -> None:
    damage = Damage(probability=0.5, part=0.25, shape="any", low=2, high=4)
    steps, struck = set(), 0
    for _ in range(60):
        strike = damage.intervention(SPEC, rows=20)
        assert strike is not None
        ones = torch.ones(20, SPEC.num_nodes, 3)
        changed = [k for k in range(7) if not torch.equal(strike(ones, k), ones)]
        (at,) = changed
        lost = (strike(ones, at) == 0).all(dim=2).sum(dim=1)
        assert set(lost.tolist()) <= {0, round(0.25 * SPEC.num_nodes)}
        steps.add(at)
        struck += int((lost > 0).sum())
    assert steps == {2, 3, 4}
    assert abs(struck - 600) < 4 * 300**0.5, "four standard deviations"
    assert Damage().intervention(SPEC, 20) is None


def test_rows_are_struck_in_different_places_and_fresh_ones_are_spared() -> None:
    strike = Damage(probability=1.0).intervention(SPEC, rows=8, spared=3)
    assert strike is not None
    left = strike(torch.ones(8, SPEC.num_nodes, 1), 0)
    assert (left[:3] == 1).all()
    assert (left[3:] == 0).any(dim=1).all()
    assert len({row.numpy().tobytes() for row in left[3:]}) > 1


def test_gradients_pass_a_blow() -> None:
    model, (inputs, targets) = build(), batch(4)
    rehearsal = Rehearsal(model, Damage(1.0, low=2, high=2), Pool(), 5)
    out, _, same = rehearsal.roll_out(inputs, targets, None, trajectory=True)
    assert same is targets
    assert out.trajectory is not None
    assert ((out.trajectory[2] == 0).all(dim=2).sum(dim=1) == round(0.25 * SPEC.num_nodes)).all()
    out.embedding.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.cell.parameters())
    plain = model.rollout(inputs).embedding
    assert not torch.allclose(out.embedding, plain)


def test_without_damage_and_pool_a_rollout_is_the_plain_one() -> None:
    model, (inputs, targets) = build(), batch(4)
    before = torch.get_rng_state()
    out, *_ = Rehearsal(model, Damage(), Pool(), 5).roll_out(inputs, targets, 6, trajectory=False)
    assert torch.equal(out.state, model.rollout(inputs, 6).state)
    assert torch.equal(torch.get_rng_state(), before), "nothing is drawn"


@pytest.mark.parametrize("clamp", [False, True])
def test_rows_go_on_from_the_pool_with_their_own_inputs_and_targets(clamp) -> None:
    model = build(clamp=clamp)
    rehearsal = Rehearsal(model, Damage(), Pool(size=10, fresh=0.5), 5)
    known: dict[bytes, tuple[Tensor, Tensor]] = {}
    for update in range(8):
        inputs, targets = batch(4, seed=update)
        held = {name: values.clone() for name, values in rehearsal.held.items()}
        out, _, wanted = rehearsal.roll_out(inputs, targets, 5, trajectory=False)
        goes_on = min(4, len(held["states"])) if held else 0
        assert len(out.embedding) == len(wanted) == 4 + goes_on
        torch.testing.assert_close(out.state[:4], model.rollout(inputs, 5).state)
        torch.testing.assert_close(wanted[:4], targets)
        known |= {row.numpy().tobytes(): (x, t) for row, x, t in zip(targets, inputs, targets, strict=True)}
        for state, target in zip(out.state[4:], wanted[4:], strict=True):
            source, _ = known[target.numpy().tobytes()]
            (place,) = (held["targets"] == target).all(dim=1).nonzero()
            again = model.rollout(source[None], 5, start=held["states"][place]).state[0]
            torch.testing.assert_close(state, again)
            torch.testing.assert_close(rehearsal.held["states"][place[0]], state.detach())
        assert len(rehearsal.held["states"]) == min(10, 4 * (update + 1))
        assert not rehearsal.held["states"].requires_grad
        found = {row.numpy().tobytes() for row in rehearsal.held["targets"]}
        assert {row.numpy().tobytes() for row in targets} <= found, "fresh rows are taken in"
        assert len(found) == len(rehearsal.held["targets"]), "no row is held twice"


@pytest.mark.parametrize(("fresh", "beside"), [(0.99, 0), (0.5, 16), (0.25, 48), (0.8, 4), (0.01, 100)])
def test_the_share_of_fresh_rows(fresh, beside) -> None:
    assert Pool(size=100, fresh=fresh).beside(16) == beside


def test_a_pool_smaller_than_a_batch() -> None:
    model, rehearsal = build(), Rehearsal(build(), Damage(1.0), Pool(size=3), 5)
    for update in range(3):
        inputs, targets = batch(8, seed=update)
        out, *_ = rehearsal.roll_out(inputs, targets, 5, trajectory=False)
        assert len(out.embedding) == (8 if update == 0 else 11)
        assert len(rehearsal.held["states"]) == 3
    torch.testing.assert_close(out.state[:8], model.rollout(inputs, 5).state)


WORDS = (
    "--damage.probability 0.5 --damage.shape any --damage.low 1 --damage.high 3 --pool.size 24 "
    "--unroll.mode random --unroll.low 5 --unroll.high 8 --trainer.max_epochs 2 --save_every 0 --model.clamp {clamp}"
)


def weights(folder: Path) -> dict[str, bytes]:
    file = folder / "model" / "model.safetensors"
    return {name: value.numpy().tobytes() for name, value in load_file(file).items()}


@pytest.mark.parametrize("clamp", ["false", pytest.param("true", marks=pytest.mark.slow)])
def test_a_run_with_damage_and_pool_goes_on_bitwise(clamp, start, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(callbacks, "KEPT", 1000)
    run = start(tmp_path / "runs", *WORDS.format(clamp=clamp).split())
    run.execute()
    files = sorted(saved(run.folder / "checkpoints"), key=lambda file: int(file.stem.rpartition("-")[2]))
    pools = [torch.load(file, weights_only=True)[ENTRY]["pool"] for file in files]
    assert [len(pool["states"]) for pool in pools[:3]] == [16, 24, 24]
    for file in files[1::5]:
        copy = tmp_path / file.stem
        shutil.copytree(run.folder, copy)
        shutil.rmtree(copy / "model")
        resumed = Run(["--resume", str(copy / "checkpoints" / file.name)])
        resumed.execute()
        assert weights(copy) == weights(run.folder), f"from {file.name}"
        assert resumed.module.losses == run.module.losses
    plain = start(tmp_path / "plain", *WORDS.format(clamp=clamp).split(), "--damage.probability", "0")
    plain.execute()
    assert weights(plain.folder) != weights(run.folder)


def test_baselines_without_a_state_train_without(start, tmp_path) -> None:
    words = [*WORDS.format(clamp="false").split(), "--refit_readout", "false", "--trainer.max_epochs", "1"]
    table = start(tmp_path / "a", *words, baselines="[mlp_equal_parameters]").execute()["table"]
    plain = start(tmp_path / "b", *words, "--pool.size", "0", baselines="[mlp_equal_parameters]").execute()["table"]
    assert [row["fvu"] for row in table][1:] == [row["fvu"] for row in plain][1:]
    assert table[0]["fvu"] != plain[0]["fvu"]


def test_a_pool_is_refused_to_several_processes(start, tmp_path, refuses, monkeypatch) -> None:
    module = EmbeddingModule(build(), pool=Pool(size=8))
    module.trainer = start(tmp_path).trainer
    monkeypatch.setattr(type(module.trainer), "world_size", 2)
    with refuses("lives in one process", "pool.size 8 with 2 processes", "pool.size to 0"):
        module.on_fit_start()


def test_wrong_settings_are_refused(refuses) -> None:
    with refuses("damage.probability must be from 0 to 1", "1.5", "0.5"):
        Damage(probability=1.5)
    with refuses("above 0 and below 1", "0", "0.25"):
        Damage(part=0.0)
    with refuses("one of sphere, box, half", "'cube'", "Choose one"):
        Damage(shape="cube")
    with refuses("0 ≤ low ≤ high", "4 and 3", "raise the smaller"):
        Damage(low=4, high=3)
    with refuses("pool.size must be a whole number", "-1", "256"):
        Pool(size=-1)
    for fresh in (0.0, 1.0):
        with refuses("above 0 and below 1", str(fresh), "pool.size 0"):
            Pool(fresh=fresh)
    with refuses("must leave a step to heal in", "damage.high 5 with rollouts of 5", "lower damage.high"):
        EmbeddingModule(build(), damage=Damage(0.5, high=5))
    EmbeddingModule(build(), unroll=Unroll("random", 6, 8), damage=Damage(0.5, high=5))
