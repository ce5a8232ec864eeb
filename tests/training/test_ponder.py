"""Training a halting head: expected terms, the divergence beside them, and runs from a configuration."""

import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from latticegnn.lattice import LatticeSpec
from latticegnn.model import LatticeModel
from latticegnn.nn import Halting
from latticegnn.training import callbacks
from latticegnn.training.fit import Run
from latticegnn.training.losses import Loss, LossWeights
from latticegnn.training.module import EmbeddingModule
from latticegnn.training.ponder import Pondered, ponder
from latticegnn.training.unroll import Unroll

SPEC = LatticeSpec((3, 3, 5), radii=(0.5, 1.0, 1.5))
SETTINGS = [
    "--model.stopping", "{halting: {prior: 0.2}, max_steps: 12}", "--loss.ponder", "0.1",
    "--unroll.mode", "random", "--unroll.low", "5", "--unroll.high", "8", "--trainer.max_epochs", "3",
]  # fmt: skip


def make(**more) -> LatticeModel:
    given = {"stopping": {"halting": {"prior": 0.2}}, "steps": 7} | more
    return LatticeModel(SPEC, embedding_dim=12, channels=4, hidden=4, **given).double()


def embeddings(rows: int = 3) -> torch.Tensor:
    return torch.randn(rows, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_terms_are_expected_over_the_steps() -> None:
    answers = torch.tensor([[[3.0, 4.0]], [[0.0, 5.0]]])  # errors against (3, 0): 16 and 34; cosines 3/5 and 0
    pondered = Pondered(answers, torch.tensor([[0.25], [0.75]]).log(), torch.tensor(2.0))
    weights = LossWeights(reconstruction=1.0, cosine=10.0, ponder=0.5)
    terms = Loss(weights)(torch.full((1, 2), 9.0), torch.tensor([[3.0, 0.0]]), None, pondered)
    expected = {"reconstruction": 0.25 * 16 + 0.75 * 34, "cosine": 10 * (0.25 * 0.4 + 0.75 * 1), "ponder": 1.0}
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(expected)
    learned = Loss(LossWeights(ponder=0.5, weighting="uncertainty"))
    learned.log_variance.data.fill_(1.0)
    assert float(learned(answers[0], answers[0], None, pondered)["ponder"]) == 1.0, "at its fixed weight"
    assert "ponder" not in Loss(LossWeights())(answers[0], answers[0], None, pondered)


@pytest.mark.parametrize("settings", [{"skip": True}, {"readout": "ports_full", "clamp": True}])
def test_every_step_is_read_as_a_rollout_of_that_length_is(settings) -> None:
    model, e = make(**settings), embeddings()
    found = ponder(model, model.rollout(e, trajectory=True), e)
    assert found.answers.shape == (4, 3, 12), "steps 4 … 7"
    for row, steps in enumerate(range(4, 8)):
        answer = model.rollout(e, steps=steps).embedding
        torch.testing.assert_close(found.answers[row], answer, rtol=1e-12, atol=1e-12)


def test_a_head_that_always_waits_has_the_loss_of_the_last_step() -> None:
    model, e = make(), embeddings()
    model.stopping.criterion.score.bias.data.fill_(-200.0)
    output = model.rollout(e, trajectory=True)
    criterion, target = Loss(LossWeights()), e.flip(1)
    pondered = criterion(None, target, None, ponder(model, output, e))
    plain = criterion(output.embedding, target)
    for name, value in plain.items():
        torch.testing.assert_close(pondered[name], value)


def test_the_gradient_of_every_part_is_that_of_the_written_objective() -> None:
    model, e = make(), embeddings()
    target, weights = e.flip(1), LossWeights(ponder=0.3)
    terms = Loss(weights)(None, target, None, ponder(model, model.rollout(e, trajectory=True), e))
    torch.stack(list(terms.values())).sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    head, stayed, total = model.stopping.criterion, torch.ones(3, dtype=torch.float64), 0.0
    prior = torch.tensor([0.8**k for k in range(4)], dtype=torch.float64)
    for row, steps in enumerate(range(4, 8)):
        out = model.rollout(e, steps=steps)
        coin = torch.sigmoid(head.logits(out.state)) if steps < 7 else torch.ones(3, dtype=torch.float64)
        p = stayed * coin
        error = (out.embedding - target).square().sum(1)
        error = error + 1 - torch.cosine_similarity(out.embedding, target)
        total = total + (p * error + 0.3 * p * (p / (prior[row] / prior.sum())).log()).mean()
        stayed = stayed * (1 - coin)
    total.backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-8, atol=1e-10)
    assert found["stopping.criterion.score.weight"].any()


def test_a_head_learns_where_the_loss_is_low() -> None:
    """Answers that are right at one step alone: the probabilities go there, against a weak prior."""
    generator = torch.Generator().manual_seed(0)
    head = Halting(2, torch.tensor([0]), first=1, prior=0.2)
    states = torch.randn(7, 16, 1, 2, generator=generator) * 0.1
    states[3, :, :, 0] += 2.0  # the mark by which the step is known
    losses = torch.ones(6, 1)
    losses[2] = 0.0
    optimizer = torch.optim.Adam(head.parameters(), 0.1)
    for _ in range(150):
        log_p = head.log_probabilities(states)
        loss = (log_p.exp() * losses).sum(dim=0).mean() + 0.01 * head.divergence(log_p)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert (head.log_probabilities(states).exp()[2] > 0.8).all()


def test_what_cannot_be_trained_is_refused(refuses) -> None:
    with refuses("loss.ponder is the weight of a halting head's term", "got 0.1", "set model.stopping"):
        EmbeddingModule(make(stopping=None), LossWeights(ponder=0.1))
    with refuses("weighed row by row", "loss.similarity, loss.diversity", "set them to 0"):
        EmbeddingModule(make(), LossWeights(similarity=1.0, diversity=1.0))
    with refuses("must reach the first step that may halt, 9", "got 7 steps", "raise model.steps"):
        EmbeddingModule(make(stopping={"halting": {}, "min_steps": 9, "max_steps": 12}))
    with refuses("must reach the first step that may halt, 6", "got 5 steps", "unroll.low"):
        EmbeddingModule(make(stopping={"halting": {}, "min_steps": 6}), unroll=Unroll("random", 5, 9))
    with refuses("a trajectory's gradient runs through the steps", "gradient: implicit", "leave out loss terms"):
        EmbeddingModule(make(clamp=True, gradient="implicit"))
    with refuses("loss.ponder must be 0 or more", "got -1", "set it to 0"):
        LossWeights(ponder=-1.0)


@pytest.fixture(scope="module")
def run(start, tmp_path_factory) -> Run:
    """21 updates of a lattice with a halting head, with a checkpoint after each, and an MLP beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks, "KEPT", 1000)
        folder = tmp_path_factory.mktemp("runs")
        run = start(folder, *SETTINGS, "--save_every", "0", baselines="[frozen_cell, mlp_equal_parameters]")
        run.execute()
    return run


def test_a_run_lowers_the_loss_and_moves_the_head(run) -> None:
    losses = run.module.losses
    assert len(losses) == 21
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    head = run.model.stopping.criterion
    assert head.score.weight.any()
    run.model.eval()
    out = run.model(run.data.splits["test"].tensors()[0])
    assert (out.steps >= 4).all()
    assert (out.steps <= 12).all()


@pytest.mark.parametrize("update", [1, 10])
def test_a_run_that_goes_on_ends_with_the_same_bits(update, run, tmp_path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(run.folder, copied)
    (copied / "model" / "model.safetensors").unlink()
    resumed = Run(["--resume", str(copied / "checkpoints" / f"progress-{update}.ckpt"), "--baselines", "[]"])
    resumed.execute()
    whole, again = (load_file(folder / "model" / "model.safetensors") for folder in (run.folder, copied))
    assert all(torch.equal(again[name], value) for name, value in whole.items())
    assert any(name.startswith("stopping.criterion.score") for name in whole)
    assert resumed.module.losses == pytest.approx(run.module.losses, rel=1e-6), "those before are kept in float32"


@pytest.mark.slow
def test_two_processes_do_what_one_does(tiny_config, tmp_path) -> None:
    words = [sys.executable, "-m", "latticegnn", "fit", "--config", str(tiny_config), "--baselines", "[]", *SETTINGS]
    for count in ("1", "2"):
        more = ["--run_dir", str(tmp_path), "--run_name", count, "--trainer.devices", count, "--refit_readout", "false"]
        more += ["--trainer.max_epochs", "1"]
        done = subprocess.run([*words, *more], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    one, two = (load_file(tmp_path / count / "model" / "model.safetensors") for count in ("1", "2"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5 * float(value.abs().max()))
