"""Time: how the states of a batch go on, step by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latticegnn.nn import Dynamics, GradientMode, Implicit, Plain, Stopping
from latticegnn.nn.dynamics import Memory
from latticegnn.nn.gradient import Truncated

Intervention = Callable[[Tensor, int], Tensor]
"""Changes states [B, N, F] between two steps; called with the number of steps taken, 0 before the first."""


@dataclass
class Course:
    """What became of a batch's states.

    Args:
        state: Where each sample ended [B, N, F].
        steps: Steps each sample took [B].
        settled: Whether each sample had settled when it ended [B]; None where no rule asked.
        trajectory: States 0 … the most steps of any sample [T + 1, B, N, F], where asked for; a sample that has ended
            repeats its last state.
    """

    state: Tensor
    steps: Tensor
    settled: Tensor | None = None
    trajectory: Tensor | None = None


@dataclass
class LatticeOutput:
    """What a rollout gives.

    Args:
        embedding: The answer in the teacher's space [B, D].
        code: What was read from the output ports and decoded [B, P], or [B, P·F] with readout "ports_full"; K in
            place of P where the code is an image.
        state: The last state [B, N, F].
        steps: Steps each sample took [B].
        trajectory: States 0 … T [T + 1, B, N, F], where asked for; a sample that has stopped repeats its last state.
        settled: Whether each sample had settled when it ended [B]; None where no rule asked.
    """

    embedding: Tensor
    code: Tensor
    state: Tensor
    steps: Tensor
    trajectory: Tensor | None = None
    settled: Tensor | None = None


class Rollout:
    r"""The states of a batch from step 0 on: :math:`x^{k+1} = I(H(\mathrm{Mode}(x^k)), k + 1)`.

    H holds the clamped cells at their values, I is the intervention. What it changes goes on at rest: no
    `Wave` remembers what was there.

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
        self._state = self._constrained(state.transpose(0, 1).contiguous())
        self._memory = dynamics.start(self.state)

    @property
    def state(self) -> Tensor:
        """The present state [B, N, F]."""
        return self._state.transpose(0, 1)

    def take(self, steps: int, gradient: GradientMode, trajectory: bool = False) -> Course:
        """Take a number of steps, the same for all samples, with what their gradient needs.

        Args:
            steps: How many, ≥ 0.
            gradient: The way back through them.
            trajectory: Keep every state.

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
        taken = torch.full((len(self.state),), steps, device=self.state.device)
        return Course(self.state, taken, trajectory=torch.stack(states) if trajectory else None)

    def step(self) -> Tensor:
        """Take a step and return the state after it [B, N, F]."""
        state, self._memory = self._moved(self._state, self._memory, self.first + self.taken)
        self.taken += 1
        self._state = self._constrained(state)
        if self.intervene is not None and self._memory:
            changed = (self._state != state).transpose(0, 1)
            self._memory = self.dynamics.rest(self._memory, self.state, changed)
        return self.state

    def _moved(self, state: Tensor, memory: Memory, at: int) -> tuple[Tensor, Memory]:
        if isinstance(self.dynamics, Plain):
            return self.advance(state), memory
        after, memory = self.dynamics(self._cell, state.transpose(0, 1), memory, at)
        return after.transpose(0, 1), memory

    def _from_rest(self, state: Tensor) -> Tensor:
        """Take the last step again, from a state that has not moved: at a fixed point, the step that it is one of."""
        memory = self.dynamics.start(state.transpose(0, 1))
        return self._constrained(self._moved(state, memory, self.first + self.taken - 1)[0])

    def settle(self, stopping: Stopping, trajectory: bool = False) -> Course:
        """Step until every sample has settled or taken ``stopping.max_steps``; who has ended is computed no more."""
        whole = self.state
        left = torch.arange(len(whole), device=whole.device)
        steps, settled = torch.zeros_like(left), torch.zeros_like(left, dtype=torch.bool)
        memory, states, ended = stopping.start(whole), [whole], [(left[:0], whole[:0])]
        while len(left):
            state = self.step()
            settled[left], memory = stopping(state, memory, self.taken)
            steps[left] = self.taken
            if trajectory:
                whole = whole.index_copy(0, left, state)
                states.append(whole)
            ends = settled[left] | (self.taken >= stopping.max_steps)
            if bool(ends.any()):
                ended.append((left[ends], state[ends]))
                rows = (~ends).nonzero().squeeze(1)
                left, memory = left[rows], tuple(part.index_select(0, rows) for part in memory)
                self.keep(rows)
        order, finals = (torch.cat(parts) for parts in zip(*ended, strict=True))
        return Course(finals[order.argsort()], steps, settled, torch.stack(states) if trajectory else None)

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the samples alone, by their places in the present batch [R]."""
        self._state = self._state.index_select(1, rows)
        self._memory = tuple(part.index_select(0, rows) for part in self._memory)
        if self.held is not None:
            self.held = (self.held[0], self.held[1].index_select(0, rows))

    def _cell(self, x: Tensor) -> Tensor:
        return self.advance(x.transpose(0, 1).contiguous()).transpose(0, 1)

    def _constrained(self, state: Tensor) -> Tensor:
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


def ending(
    own: Stopping | None,
    build: Callable[[Mapping[str, Any]], Stopping],
    steps: int | None,
    stopping: Stopping | Mapping[str, Any] | None,
    intervene: Intervention | None,
    gradient: GradientMode | None = None,
) -> Stopping | None:
    """Choose the rule that ends a rollout; None where all samples take the same number of steps.

    Args:
        own: The model's rule, where it acts.
        build: Makes a rule of settings.
        steps: As given for the rollout.
        stopping: As given for the rollout.
        intervene: As given for the rollout.
        gradient: The way back that is asked for; None where none is.

    Raises:
        ValueError: For steps beside a rule, an intervention beside a rule, settings of a learned head, or a rule in
            training whose steps the gradient would not go all the way back through.
    """
    if stopping is not None and steps is not None:
        raise ValueError(f"steps and stopping exclude each other; got steps={steps} and a rule; drop one of them.")
    if stopping is not None and isinstance(gradient, Truncated | Implicit):
        raise ValueError(
            "samples that stop by themselves have the gradient through all of their steps; got a rule in training "
            f"beside gradient: {type(gradient).__name__.lower()}; give steps, set gradient to full or checkpointed, or "
            "look under torch.no_grad()."
        )
    if isinstance(stopping, Mapping):
        if "halting" in stopping:
            raise ValueError(
                f"a halting head is learned with its model; got settings of one, {dict(stopping)}; build the model "
                "with it, or pass a Stopping around the head of model.stopping."
            )
        stopping = build(stopping)
    rule = (own if steps is None else None) if stopping is None else stopping
    if rule is not None and intervene is not None:
        raise ValueError(
            "an intervention acts on all samples, and stopping takes samples out of the batch; got both; give steps "
            "for a number of steps without stopping."
        )
    return rule
