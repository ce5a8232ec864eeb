"""The halting head: its distribution over the steps, its divergence from the prior, and where it stops."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from latticegnn.nn import Halting, Stopping


def head(first: int = 1, prior: float = 0.1, spread: float = 1.0) -> Halting:
    made = Halting(channels=2, ports=torch.tensor([0, 2]), first=first, prior=prior).double()
    torch.nn.init.normal_(made.score.weight, std=spread, generator=torch.Generator().manual_seed(0))
    return made


def trajectory(steps: int = 6, rows: int = 4) -> Tensor:
    return torch.randn(steps + 1, rows, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_the_probabilities_are_those_of_coins_thrown_one_after_the_other() -> None:
    given, states = head(first=2), trajectory()
    p = given.log_probabilities(states).exp()
    assert p.shape == (5, 4), "steps 2 … 6"
    torch.testing.assert_close(p.sum(dim=0), torch.ones(4, dtype=torch.float64))
    for b in range(4):
        stayed = 1.0
        for row, k in enumerate(range(2, 7)):
            ports = states[k, b, [0, 2]]
            pooled = torch.cat([ports.mean(0), ports.square().mean(0)])
            weight, bias = given.score.weight[0], given.score.bias[0]
            coin = 1.0 if k == 6 else 1 / (1 + math.exp(-float(weight @ pooled + bias)))
            assert float(p[row, b]) == pytest.approx(stayed * coin, rel=1e-12)
            stayed *= 1 - coin


@torch.no_grad()
def test_hand_values() -> None:
    """Coins of 1/2 for three steps: 1/2, 1/4, and the rest, 1/4; the prior 1/2 truncated: 4/7, 2/7, 1/7."""
    given = head(prior=0.5, spread=0.0)
    log_p = given.log_probabilities(trajectory(steps=3, rows=1))
    assert log_p.exp()[:, 0].tolist() == pytest.approx([0.5, 0.25, 0.25])
    expected = 0.5 * math.log(7 / 8) + 0.25 * math.log(7 / 8) + 0.25 * math.log(7 / 4)
    assert float(given.divergence(log_p)) == pytest.approx(expected, rel=1e-12)


@torch.no_grad()
def test_one_step_alone_takes_all() -> None:
    log_p = head(first=3).log_probabilities(trajectory(steps=3))
    assert log_p.tolist() == [[0.0] * 4]
    assert float(head(first=3).divergence(log_p)) == 0.0


@torch.no_grad()
@pytest.mark.parametrize("prior", [0.05, 0.3, 0.9])
def test_the_divergence_is_that_of_torch_s_distributions(prior) -> None:
    given = head(first=2, prior=prior)
    log_p = given.log_probabilities(trajectory())
    geometric = torch.tensor([(1 - prior) ** k for k in range(5)], dtype=torch.float64)
    expected = kl_divergence(Categorical(log_p.exp().T), Categorical(geometric / geometric.sum())).mean()
    torch.testing.assert_close(given.divergence(log_p), expected, rtol=1e-12, atol=1e-12)
    assert float(expected) > 0


def test_gradients() -> None:
    given = head(first=2)
    losses = torch.rand(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def objective(states: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        parameters = {"score.weight": weight, "score.bias": bias}
        log_p = torch.func.functional_call(_Log(given), {f"head.{k}": v for k, v in parameters.items()}, (states,))
        return (log_p.exp() * losses).sum() + 0.3 * given.divergence(log_p)

    arguments = (trajectory(), given.score.weight.detach(), given.score.bias.detach())
    assert torch.autograd.gradcheck(objective, tuple(a.requires_grad_() for a in arguments))


class _Log(torch.nn.Module):
    """Lets torch.func replace the head's parameters."""

    def __init__(self, given: Halting) -> None:
        super().__init__()
        self.head = given

    def forward(self, states: Tensor) -> Tensor:
        return self.head.log_probabilities(states)


def test_certain_coins_keep_gradients_finite() -> None:
    given = head(spread=0.0)
    for bias in (-200.0, 200.0):
        given.score.bias.data.fill_(bias)
        log_p = given.log_probabilities(trajectory())
        loss = given.divergence(log_p) + (log_p.exp() * torch.arange(6).unsqueeze(1)).sum()
        (slope,) = torch.autograd.grad(loss, given.score.bias)
        assert torch.isfinite(loss)
        assert torch.isfinite(slope).all()


def test_it_stops_at_the_median_and_never_before_its_first_step() -> None:
    states = trajectory(steps=12, rows=40)
    for first in (1, 4):
        given = head(first=first, prior=0.3, spread=2.0)
        rule = Stopping(given, first, 12)
        reached = given.log_probabilities(states).exp().cumsum(dim=0) >= 0.5
        expected = reached.double().argmax(dim=0) + first
        memory, ends = rule.start(states[0]), []
        for taken in range(1, 13):
            done, memory = rule(states[taken], memory, taken)
            ends.append(done)
        settled = torch.stack(ends)
        found = torch.where(settled.any(dim=0), settled.double().argmax(dim=0) + 1, 12)
        assert torch.equal(found, expected)
        assert int(found.min()) == first
        assert len(set(found.tolist())) > 3


def test_it_starts_at_its_prior() -> None:
    made = Halting(2, torch.tensor([1]), first=1, prior=0.2).double()
    coins = torch.sigmoid(made.logits(trajectory()))
    torch.testing.assert_close(coins, torch.full_like(coins, 0.2))


def test_too_short_a_rollout_is_refused(refuses) -> None:
    with refuses("rollouts of at least its first step, 7", "got 6 steps", "raise model.steps"):
        head(first=7).log_probabilities(trajectory())
