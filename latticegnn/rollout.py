"""Time: how the states of a batch go on, step by step."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from latticegnn.nn import Dynamics, Plain

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

    def step(self) -> Tensor:
        """Take a step and return the state after it [B, N, F]."""
        if isinstance(self.dynamics, Plain):
            state = self.advance(self._state)
        else:
            at = self.first + self.taken
            after, self._memory = self.dynamics(self._cell, self.state, self._memory, at)
            state = after.transpose(0, 1)
        self.taken += 1
        self._state = self._settled(state)
        return self.state

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
