"""Update order: which cells take part in a step."""

from __future__ import annotations

from dataclasses import replace
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from latticegnn.nn.dynamics import Cell, Dynamics, Linear, Memory, number


class Synchronous(Dynamics):
    r"""Every cell fires in every step: :math:`x^{k+1} = \mathrm{inner}(x^k)`, the order of a classical automaton.

    Args:
        inner: The mode whose steps fire; `Plain` by default.
    """

    def __init__(self, inner: Dynamics | None = None) -> None:
        super().__init__(inner)
        self.linear = self.inner.linear

    def forward(self, cell: Cell, x: Tensor, memory: Memory, at: int) -> tuple[Tensor, Memory]:
        """Take a step of the inner mode."""
        out: tuple[Tensor, Memory] = self.inner(cell, x, memory, at)
        return out


class Stochastic(Dynamics):
    r"""Each cell fires with probability p, and otherwise keeps its state (Mordvintsev et al., 2020).

    .. math::
        x_i^{k+1} = \begin{cases} \mathrm{inner}(x^k)_i & \text{if } u_i^k < p \\ x_i^k & \text{otherwise}
                    \end{cases}, \qquad u^k \sim U[0, 1)^N

    u comes from Philox, a counter-based generator (Salmon et al., 2011), with the seed as its key and the step's number
    as its counter: a step draws the same numbers whenever and wherever it is taken, as recomputing it for the backward
    pass needs. All samples of a batch share them, so a sample's result never depends on its batch. Other draws are
    other numbers ``at``: training may count on from one rollout to the next.

    **Stability**: the bounds of `Diffusion` and `Directional` hold for whatever cells fire, see there. The sum over the
    cells is conserved no longer. Around a `Wave` it is refused: cells that pause at random pump energy into an
    undamped wave at any speed, and into a damped one near its bound. Let it hold `Plain` inside of the wave instead.

    Args:
        probability: p, in (0, 1]; at 1 it is `Synchronous`.
        seed: Of the draws, ≥ 0.
        inner: The mode whose steps fire; `Plain` by default.

    Raises:
        ValueError: A setting is out of range, or a wave is inside; from a step: its number is not whole and ≥ 0.
    """

    def __init__(self, probability: float, seed: int = 0, inner: Dynamics | None = None) -> None:
        super().__init__(inner)
        self.probability = number("probability", probability)
        if not 0 < self.probability <= 1:
            raise ValueError(
                f"probability must lie above 0 and not above 1; got {probability}; 0.5 is the usual choice."
            )
        self.seed = _whole("seed", seed, "write seed=0.")
        if self.inner.linear.momentum:
            raise ValueError(
                "random firing pumps energy into waves; got Stochastic around a Wave; put it inside, around Plain: "
                "Wave(…, inner=Stochastic(…))."
            )
        self.linear = replace(self.inner.linear, steady=self.inner.linear == Linear())

    def fires(self, cells: int, at: int) -> Tensor:
        """Return which of the cells fire in step ``at``, bool [N]."""
        counter = _whole("at", at, "count the steps from 0.")
        # The counter's lowest word runs within a step; the step's number is the next, so that no two steps overlap.
        generator = np.random.Generator(np.random.Philox(key=self.seed, counter=[0, counter, 0, 0]))
        return torch.from_numpy(generator.random(cells) < self.probability)

    def forward(self, cell: Cell, x: Tensor, memory: Memory, at: int) -> tuple[Tensor, Memory]:
        """Take a step of the inner mode where a cell fires."""
        out, memory = self.inner(cell, x, memory, at)
        fires = self.fires(x.shape[1], at).to(x.device).unsqueeze(1)
        return torch.where(fires, out, x), memory


def _whole(name: str, value: int, remedy: str) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool) or not 0 <= value < 2**64:
        raise ValueError(f"{name} must be a whole number, at least 0 and below 2**64; got {value!r}; {remedy}")
    return int(value)
