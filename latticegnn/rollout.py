"""Time: how the states of a batch go on, step by step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from latticegnn.nn import Dynamics, GradientMode, Implicit, Plain
from latticegnn.nn.dynamics import Memory

Intervention = Callable[[Tensor, int], Tensor]
"""Changes states [B, N, F] between two steps; called with the number of steps taken, 0 before the first."""


class Rollout:
    r"""The states of a batch from step 0 on: :math:`x^{k+1} = I(H(\mathrm{Mode}(x^k)), k + 1)`.

    H holds the clamped cells at their values, I is the intervention.

    Args:
        advance: The cell's step, nodes first, [N, B, F] -> [N, B, F].
        dynamics: The mode of propagation around it.
        state: What to go on from [B, N, F].
        held: Cells to clamp [P] and the states to hold them at [B, P, F].
        intervene: See `Intervention`.
        first: Number of the first step as random firing counts them.

    Attributes:
        taken: Steps so far.
    """

    def __init__(
        self,
        advance: Callable[[Tensor], Tensor],
        dynamics: Dynamics,
        state: Tensor,
        held: tuple[Tensor, Tensor] | None = None,
        intervene: Intervention | None = None,
        first: int = 0,
    ) -> None:
        self.advance, self.dynamics, self.held, self.intervene, self.first = advance, dynamics, held, intervene, first
        self.taken = 0
        # Nodes first inside: B and F are then one dense axis for the aggregation.
        self._state = self._settled(state.transpose(0, 1).contiguous())
        self._memory = dynamics.start(self.state)

    @property
    def state(self) -> Tensor:
        """The present state [B, N, F]."""
        return self._state.transpose(0, 1)

    def take(self, steps: int, gradient: GradientMode, trajectory: bool = False) -> list[Tensor]:
        """Take steps, with what their gradient needs.

        Args:
            steps: How many, ≥ 0.
            gradient: The way back through them.
            trajectory: Keep every state.

        Returns:
            The states [B, N, F] before and after each step, where kept.

        Raises:
            ValueError: For a trajectory with an implicit gradient, unless gradients are off.
        """
        fixed = gradient if isinstance(gradient, Implicit) and steps and torch.is_grad_enabled() else None
        if fixed and trajectory:
            fixed.refuse_trajectory()
        free = steps - gradient.kept(steps)
        if free:
            self._state, self._memory = self._state.detach(), tuple(past.detach() for past in self._memory)
        states = [self.state]
        for at in range(steps):
            with torch.set_grad_enabled(torch.is_grad_enabled() and at >= free):
                state = self.step()
            if trajectory:
                states.append(state)
        if fixed:
            self._state = fixed.attach(self._from_rest, self._state)
        return states

    def step(self) -> Tensor:
        """Take a step and return the state after it [B, N, F]."""
        state, self._memory = self._moved(self._state, self._memory, self.first + self.taken)
        self.taken += 1
        self._state = self._settled(state)
        return self.state

    def _moved(self, state: Tensor, memory: Memory, at: int) -> tuple[Tensor, Memory]:
        if isinstance(self.dynamics, Plain):
            return self.advance(state), memory
        after, memory = self.dynamics(self._cell, state.transpose(0, 1), memory, at)
        return after.transpose(0, 1), memory

    def _from_rest(self, state: Tensor) -> Tensor:
        """Take the last step again, from a state that has not moved: at a fixed point, the step that it is one of."""
        memory = self.dynamics.start(state.transpose(0, 1))
        return self._settled(self._moved(state, memory, self.first + self.taken - 1)[0])

    def _cell(self, x: Tensor) -> Tensor:
        return self.advance(x.transpose(0, 1).contiguous()).transpose(0, 1)

    def _settled(self, state: Tensor) -> Tensor:
        if self.held is not None:
            nodes, values = self.held
            state = state.index_copy(0, nodes, values.transpose(0, 1))
        if self.intervene is None:
            return state
        changed = self.intervene(state.transpose(0, 1), self.taken)
        if not isinstance(changed, Tensor) or changed.shape != state.transpose(0, 1).shape:
            got = list(changed.shape) if isinstance(changed, Tensor) else type(changed).__name__
            raise ValueError(
                f"an intervention must return states of the shape it was given, {list(state.transpose(0, 1).shape)}; "
                f"got {got}; return the changed copy."
            )
        return changed.transpose(0, 1)
