"""A learned halting head: each sample's probability to stop after each step."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from latticegnn.nn.criteria import Criterion
from latticegnn.nn.dynamics import Memory, number


class Halting(Criterion):
    r"""PonderNet's halting (Banino, Balaguer & Blundell, 2021), read off the output ports.

    .. math::
        \lambda^k = \mathrm{sigmoid}(w \cdot [\langle x^k_p \rangle_p \,\|\, \langle (x^k_p)^2 \rangle_p] + b), \qquad
        p^k = \lambda^k \prod_{j < k} (1 - \lambda^j)

    for the steps k = ``first`` …; before them the output ports may not have been reached, and λ is 0. In training a
    rollout of T steps puts what is left on the last one, :math:`p^T = \prod_{j < T} (1 - \lambda^j)`, so that p sums
    to one, and minimises :math:`\sum_k p^k L^k + \beta\, \mathrm{KL}(p \| g)` with the loss L of each step's answer
    and the geometric distribution of probability ``prior`` over the same steps, truncated and normalised,
    :math:`g^k \propto (1 - \mathrm{prior})^{k - \text{first}}`.

    In evaluation nothing is drawn: as a criterion its number is :math:`\prod_{j \le k} (1 - \lambda^j)`, the
    probability not to have halted yet, and a sample stops at the first step where it is at most 1/2, the median of p.
    The head starts at λ = ``prior`` for every state.

    Args:
        channels: F.
        ports: Output ports [P].
        first: The first step that may halt, ≥ 1.
        prior: λ_p, in (0, 1): without other reasons about 1/λ_p steps are taken from ``first`` on.

    Raises:
        ValueError: For a prior out of range.
    """

    ports: Tensor

    def __init__(self, channels: int, ports: Tensor, first: int, prior: float = 0.1) -> None:
        super().__init__(0.5)
        self.prior, self.first = number("prior", prior), first
        if not 0 < self.prior < 1:
            raise ValueError(f"prior is a probability between 0 and 1; got {prior}; 0.1 means about 10 steps.")
        self.register_buffer("ports", ports, persistent=False)
        self.score = nn.Linear(2 * channels, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.constant_(self.score.bias, math.log(self.prior / (1 - self.prior)))

    def logits(self, states: Tensor) -> Tensor:
        """Compute the logit of λ for states [..., N, F]: [...]."""
        ports = states[..., self.ports, :]
        pooled = torch.cat([ports.mean(dim=-2), ports.square().mean(dim=-2)], dim=-1)
        return self.score(pooled).squeeze(-1).to(states.dtype)  # autocast ends here

    def log_probabilities(self, trajectory: Tensor) -> Tensor:
        """Compute log p of the steps ``first`` … T of a rollout.

        Shapes:
            trajectory [T + 1, B, N, F], T ≥ ``first`` → [T − first + 1, B].
        """
        steps = len(trajectory) - 1
        if steps < self.first:
            raise ValueError(
                f"a halting head needs rollouts of at least its first step, {self.first}; got {steps} steps; raise "
                "model.steps or unroll.low, or lower stopping.min_steps."
            )
        logits = self.logits(trajectory[self.first : -1])  # the last step halts whatever its λ
        stayed = logsigmoid(-logits).cumsum(dim=0)
        start = stayed.new_zeros(1, stayed.shape[1])
        halts = torch.cat([logsigmoid(logits), start])
        return torch.cat([start, stayed]) + halts

    def divergence(self, log_p: Tensor) -> Tensor:
        """Compute KL(p ‖ g), the mean over samples in nats, from log p [K, B]."""
        decay = math.log1p(-self.prior) * torch.arange(len(log_p), dtype=log_p.dtype, device=log_p.device)
        log_prior = decay.log_softmax(dim=0).unsqueeze(1)
        return (log_p.exp() * (log_p - log_prior)).sum(dim=0).mean()

    def begin(self, x: Tensor) -> Memory:
        """Remember that nobody has halted: log 1."""
        return (x.new_zeros(len(x)),)

    def measure(self, x: Tensor, memory: Memory, taken: int) -> tuple[Tensor, Memory]:
        """Compute the probability not to have halted yet."""
        stayed = memory[0]
        if taken >= self.first:
            stayed = stayed + logsigmoid(-self.logits(x))
        return stayed.exp(), (stayed,)
