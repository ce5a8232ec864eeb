"""The measures of a trajectory while it is made, one state at a time."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from latticegnn.analysis.dynamics_class import TimeClass, TimeRules, classify_time
from latticegnn.analysis.space_class import SpaceClass, SpaceRules, classify_space
from latticegnn.analysis.spatial import morans_i
from latticegnn.analysis.trajectory import change, energy, layer_activity, relative_change
from latticegnn.lattice import LatticeSpec


@dataclass(frozen=True)
class StepMeasures:
    """What one state says, in float64.

    Args:
        change: From the state before, per cell [B]; None for the first state.
        relative_change: The same, relative [B]; None for the first state.
        energy: Mean square [B].
        activity: Root mean square of each layer [B, L], of what has come since the first state.
        moran: Moran's I over face neighbours [B].
    """

    change: Tensor | None
    relative_change: Tensor | None
    energy: Tensor
    activity: Tensor
    moran: Tensor


class TrajectoryWatch:
    """Watch a rollout: each state's measures at once, the classes of the last states, the arrival at each layer.

    The numbers are those of the functions of the same names on the whole trajectory. No state is kept but the first
    and the last ``max(window)`` ones, and no gradient: a training step may feed its states as they are.

    Args:
        spec: The lattice, of at least two cells.
        axis: 0, 1 or 2: across which the layers lie.
        threshold: Of the layers' activity, from which a signal has arrived, in the state's units.
        time_rules: Of `time_class`.
        space_rules: Of `space_class`.

    Attributes:
        arrival: The first step at which each layer's activity was above the threshold, [B, L], −1 where never yet;
            None before the first state.
    """

    def __init__(
        self,
        spec: LatticeSpec,
        axis: int = 2,
        threshold: float = 0.0,
        time_rules: TimeRules | None = None,
        space_rules: SpaceRules | None = None,
    ) -> None:
        if not threshold >= 0:
            raise ValueError(f"threshold is at least 0. Received {threshold!r}. Write threshold=1e-6.")
        self.spec, self.axis, self.threshold = spec, axis, threshold
        self.time_rules, self.space_rules = time_rules or TimeRules(), space_rules or SpaceRules()
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next state is the first of another trajectory."""
        self._window: deque[Tensor] = deque(maxlen=max(self.time_rules.window, self.space_rules.window))
        self._first: Tensor | None = None
        self._steps = 0
        self.arrival: Tensor | None = None

    @torch.no_grad()
    def update(self, state: Tensor) -> StepMeasures:
        """Take the next state [B, N, F] and return its measures.

        Raises:
            ValueError: The state is not sound, or of another shape than those before.
        """
        if self._first is not None and state.shape != self._first.shape:
            raise ValueError(
                f"The states of one trajectory have one shape, {tuple(self._first.shape)}. Received "
                f"{tuple(state.shape)} at step {self._steps}. Call reset() before another trajectory."
            )
        state = state.detach().clone()  # a step may write its next state over this one
        now = state[None]
        first = state if self._first is None else self._first
        activity = layer_activity(now, self.spec, self.axis, first[None])[0]
        pair = torch.stack([self._window[-1], state]) if self._window else None
        measures = StepMeasures(
            change=None if pair is None else change(pair)[0],
            relative_change=None if pair is None else relative_change(pair)[0],
            energy=energy(now)[0],
            activity=activity,
            moran=morans_i(now, self.spec)[0],
        )
        before = torch.full_like(activity, -1, dtype=torch.long) if self.arrival is None else self.arrival
        self.arrival = torch.where((before < 0) & (activity > self.threshold), self._steps, before)
        self._first = first
        self._window.append(state)
        self._steps += 1
        return measures

    def time_class(self, exponent: Tensor | None = None) -> list[TimeClass]:
        """Classify the states seen last, as `classify_time` does.

        Raises:
            ValueError: Too few states were seen, or the exponents are not one a sample.
        """
        return classify_time(self._states(), self.spec, exponent, self.time_rules)

    def space_class(self) -> list[SpaceClass]:
        """Classify the states seen last, as `classify_space` does.

        Raises:
            ValueError: Too few states were seen.
        """
        return classify_space(self._states(), self.spec, self.space_rules)

    def _states(self) -> Tensor:
        if not self._window:
            raise ValueError("A class is told of states seen. Received none. Call update(state) with each first.")
        return torch.stack(tuple(self._window))
