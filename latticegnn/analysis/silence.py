"""Stand-ins that can fall silent: parts of a lattice that lesions take away for some steps."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from latticegnn.aggregate import COMPONENTS, Aggregator
from latticegnn.model import LatticeModel
from latticegnn.nn import SoftTiers
from latticegnn.nn.cell import MOMENTS
from latticegnn.nn.experts import EdgeExpert
from latticegnn.rollout import Intervention

ROWS = sum(COMPONENTS[moment] for moment in MOMENTS)
"""Functionals a cell takes of each tier."""

logger = logging.getLogger("latticegnn")


@dataclass(frozen=True)
class When:
    """The steps at which a lesion acts.

    Args:
        first: The first step, ≥ 0. Cells are silent in state number ``first``, tiers and experts in the step from it.
        once: Only there (a blow), or from there on.

    Raises:
        ValueError: When first is not a whole number from 0.
    """

    first: int = 0
    once: bool = False

    def __post_init__(self) -> None:
        """Check the step."""
        if not isinstance(self.first, int) or isinstance(self.first, bool) or self.first < 0:
            raise ValueError(f"first must be a whole number of steps, at least 0; got {self.first!r}; write first=0.")

    def __contains__(self, step: int) -> bool:
        """Tell whether the lesion acts at a step."""
        return step == self.first if self.once else step >= self.first


class Switch:
    """Whether a stand-in is silent in the next step; as an intervention it follows a rollout's steps.

    Args:
        when: The steps in which it is, counted from 0.
    """

    def __init__(self, when: When) -> None:
        self.when, self.silent = when, False

    def __call__(self, state: Tensor, taken: int) -> Tensor:
        """Set the switch for the step that follows, and leave the state as it is."""
        self.silent = taken in self.when
        return state


class SilentTier(Aggregator):
    """An aggregator whose functionals of one tier are zero while a switch is on.

    Args:
        inner: The aggregator; its functionals come in blocks of `ROWS`, one a tier.
        place: The tier's place among those that it aggregates.
        switch: The switch.
    """

    def __init__(self, inner: Aggregator, place: int, switch: Switch) -> None:
        super().__init__(inner)
        self.inner, self.switch, self.backend = inner, switch, inner.backend
        self.place = place

    def _product(self, x: Tensor, weights: Tensor | None) -> Tensor:
        return _without(self.inner._product(x, weights), self.place, self.switch)

    def _transposed(self, g: Tensor, weights: Tensor | None) -> Tensor:
        return self.inner._transposed(_without(g, self.place, self.switch), weights)

    def _slopes(self, x: Tensor, g: Tensor) -> Tensor:
        return self.inner._slopes(x, _without(g, self.place, self.switch))


def _without(rows: Tensor, place: int, switch: Switch) -> Tensor:
    """Zero a tier's functionals [R, …] while the switch is on."""
    if not switch.silent:
        return rows
    kept = rows.clone()
    kept[place * ROWS : (place + 1) * ROWS] = 0
    return kept


class SilentExpert(nn.Module):
    """An expert whose proposal is zero while a switch is on.

    Args:
        inner: The expert.
        switch: The switch.
    """

    def __init__(self, inner: nn.Module, switch: Switch) -> None:
        super().__init__()
        self.inner, self.switch = inner, switch

    def forward(self, x: Tensor, moments: Tensor) -> Tensor:
        """Propose a change of state, or none."""
        return torch.zeros_like(x) if self.switch.silent else self.inner(x, moments)


class SeveredExpert(nn.Module):
    """An expert that works edge by edge, without any edge while a switch is on.

    Args:
        inner: The expert.
        switch: The switch.
    """

    def __init__(self, inner: EdgeExpert, switch: Switch) -> None:
        super().__init__()
        self.inner, self.switch = inner, switch

    def forward(self, x: Tensor, moments: Tensor) -> Tensor:
        """Propose a change of state."""
        if not self.switch.silent:
            return self.inner(x, moments)
        edges, distances = self.inner.edge_index, self.inner.edge_attr
        self.inner.edge_index, self.inner.edge_attr = edges[:, :0], distances[:0]
        try:
            return self.inner(x, moments)
        finally:
            self.inner.edge_index, self.inner.edge_attr = edges, distances


@contextmanager
def silent_tier(model: LatticeModel, tier: str, when: When) -> Iterator[Intervention]:
    """Zero what a model's cells hear from a tier in some steps, while the context lasts.

    Raises:
        ValueError: The tier holds the cell itself alone.
    """
    cell, switch = model.cell, Switch(when)
    reaching, expert = [reached.name.lower() for reached in cell.reaching], cell.experts[tier]
    if tier not in reaching and not isinstance(expert, EdgeExpert):
        raise ValueError(
            f"a tier whose edges are cut must reach other cells, as {' and '.join(reaching) or 'none'} here do; got "
            f"{tier}, which holds the cell itself alone; cut another, or silence its expert."
        )
    aggregator, hook = cell.aggregator, None
    if tier in reaching:
        place = reaching.index(tier)
        if isinstance(aggregator, SoftTiers):  # which no execution looks into
            hook = aggregator.register_forward_hook(lambda module, args, out: _without(out, place, switch))
        else:
            cell.aggregator = SilentTier(aggregator, place, switch)
    if isinstance(expert, EdgeExpert):
        cell.experts[tier] = SeveredExpert(expert, switch)
    try:
        yield switch
    finally:
        cell.aggregator = aggregator
        cell.experts[tier] = expert
        if hook is not None:
            hook.remove()


@contextmanager
def silent_expert(model: LatticeModel, tier: str, when: When) -> Iterator[Intervention]:
    """Zero the proposals of a tier's expert in some steps, while the context lasts."""
    switch, expert, execution = Switch(when), model.cell.experts[tier], model.execution
    model.cell.experts[tier] = SilentExpert(expert, switch)
    if execution in ("fused", "compiled"):
        logger.info("execution: auto in place of %s, as a silenced expert cannot be fused", execution)
        model.execution = "auto"
    try:
        yield switch
    finally:
        model.cell.experts[tier] = expert
        model.execution = execution


@contextmanager
def silent_ports(model: LatticeModel, side: str, lost: Tensor) -> Iterator[None]:
    """Lay nothing on some input ports, or read zero from some output ports, while the context lasts.

    Args:
        model: The model.
        side: "inputs" or "outputs".
        lost: Which ports, BoolTensor [P].
    """

    def without(module: nn.Module, args: Any, states: Tensor) -> Tensor:
        return states.masked_fill(lost.to(states.device).unsqueeze(1), 0)

    # What follows the mapper, and what goes before the surface, are cells or numbers of a code, not ports.
    handle = (model.mapper if side == "inputs" else model.exit).register_forward_hook(without)
    try:
        yield
    finally:
        handle.remove()
