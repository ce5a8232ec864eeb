"""Damage in training, and a pool of states to go on from: what a lattice learns to heal by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from latticegnn.lattice import LatticeSpec, check_region, random_regions
from latticegnn.lattice.regions import Shape
from latticegnn.model import LatticeModel, LatticeOutput
from latticegnn.rollout import Intervention


@dataclass(frozen=True)
class Damage:
    """Cells whose states are set to zero during a rollout in training (Mordvintsev et al., 2020); evaluation has none.

    Every row is struck by itself, at most once in a rollout; where there is a pool, only rows that go on from it are,
    as the others have no answer to lose yet. Draws come from torch's generator.

    Args:
        probability: Of a row to be struck, in [0, 1]; 0 is no damage.
        part: Of the cells that it loses, in (0, 1), see `latticegnn.lattice.random_regions`.
        shape: "sphere", "box" or "half"; "any" draws one of them for every update.
        low: The blow falls after a number of steps that is drawn for every update: at least low, ≥ 0, …
        high: … and at most high, ≥ low, below the fewest steps of a rollout.

    Raises:
        ValueError: For a value out of range.
    """

    probability: float = 0.0
    part: float = 0.25
    shape: Literal["sphere", "box", "half", "any"] = "sphere"
    low: int = 0
    high: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        if not 0 <= self.probability <= 1:
            raise ValueError(
                f"damage.probability must be from 0 to 1; got {self.probability}; 0.5 strikes every other row."
            )
        if self.shape != "any":
            check_region(self.part, self.shape)
        check_region(self.part, "sphere")
        if not 0 <= self.low <= self.high:
            raise ValueError(
                f"damage.low and damage.high must be 0 ≤ low ≤ high; got {self.low} and {self.high}; raise the smaller."
            )

    def intervention(self, spec: LatticeSpec, rows: int, spared: int = 0) -> Intervention | None:
        """Draw who is struck, where and when, for one rollout; None for no damage.

        Args:
            spec: The lattice.
            rows: B.
            spared: Rows at the batch's start that are not struck.
        """
        if not self.probability:
            return None
        at = int(torch.randint(self.low, self.high + 1, ()))
        shapes = get_args(Shape)
        shape = shapes[int(torch.randint(len(shapes), ()))] if self.shape == "any" else self.shape
        struck = torch.rand(rows) < self.probability
        struck[:spared] = False
        lost = (random_regions(spec, self.part, shape, rows) & struck.unsqueeze(1)).unsqueeze(2)
        return lambda state, taken: state.masked_fill(lost.to(state.device), 0) if taken == at else state


@dataclass(frozen=True)
class Pool:
    """States of earlier rollouts that later ones go on from (Mordvintsev et al., 2020), so that answers learn to last.

    The rows of a batch start afresh, and beside them go rows from the pool, each with its own input and target, as many
    as make ``fresh`` true once the pool holds them. After an update the pool takes all of the last states in: rows that
    went on keep their places, fresh ones take free places, then drawn ones. It lives in one process, is part of every
    checkpoint, and its draws come from torch's generator.

    Args:
        size: Rows it holds; 0 is no pool.
        fresh: Share of a batch's rows that start afresh, above 0 and below 1: with 1 no row would ever go on.

    Raises:
        ValueError: For a value out of range.
    """

    size: int = 0
    fresh: float = 0.5

    def __post_init__(self) -> None:
        """Check the settings."""
        if not isinstance(self.size, int) or self.size < 0:
            raise ValueError(f"pool.size must be a whole number of rows, at least 0; got {self.size}; 256 is usual.")
        if not 0 < self.fresh < 1:
            raise ValueError(
                f"pool.fresh must be above 0 and below 1; got {self.fresh}; 0.5 is the default, and pool.size 0 leaves "
                "the pool out."
            )

    def beside(self, batch: int) -> int:
        """Return how many rows go on beside a batch of fresh ones."""
        return min(self.size, round(batch * (1 - self.fresh) / self.fresh))

    def check_processes(self, count: int) -> None:
        """Raise ValueError when several processes are to share the pool."""
        if self.size and count > 1:
            raise ValueError(
                f"a pool lives in one process, whose checkpoint holds it; got pool.size {self.size} with {count} "
                "processes; train in one, or set pool.size to 0."
            )


class Rehearsal:
    """Rolls a lattice out in training: fresh rows, rows from the pool, some of them struck.

    Args:
        model: The lattice.
        damage: See `Damage`.
        pool: See `Pool`.
        steps: Fewest steps of a rollout.

    Raises:
        ValueError: When a blow could fall at a rollout's end or after it.
    """

    def __init__(self, model: LatticeModel, damage: Damage, pool: Pool, steps: int) -> None:
        if damage.probability and damage.high >= steps:
            raise ValueError(
                f"a blow must leave a step to heal in; got damage.high {damage.high} with rollouts of {steps} steps in "
                "training; lower damage.high, or take more steps."
            )
        self.model, self.damage, self.pool = model, damage, pool
        self.held: dict[str, Tensor] = {}

    def roll_out(
        self, inputs: Tensor, targets: Tensor, steps: int | None, trajectory: bool
    ) -> tuple[LatticeOutput, Tensor, Tensor]:
        """Carry a batch, and what goes on beside it, through the lattice.

        Args:
            inputs: [B, D].
            targets: [B, D].
            steps: T, the model's own where None.
            trajectory: Keep every state.

        Returns:
            The output, the inputs and the targets of all rows, fresh ones first.
        """
        self.held = {name: values.to(inputs.device) for name, values in self.held.items()}
        fresh, known = len(inputs), len(self.held["states"]) if self.held else 0
        places = torch.randperm(known)[: self.pool.beside(fresh)]
        start = None
        if len(places):
            own = self.model.begin(inputs).state
            start = torch.cat([own, self.held["states"][places]])
            inputs = torch.cat([inputs, self.held["inputs"][places]])
            targets = torch.cat([targets, self.held["targets"][places]])
        struck = self.damage.intervention(self.model.spec, len(inputs), fresh if self.pool.size else 0)
        output = self.model.rollout(inputs, steps, trajectory, start, struck)
        if self.pool.size:
            self._take(places, {"states": output.state.detach(), "inputs": inputs, "targets": targets})
        return output, inputs, targets

    def _take(self, places: Tensor, rows: dict[str, Tensor]) -> None:
        """Put rows that went on back to their places, and fresh ones, which come first, to free or drawn places."""
        if not self.held:
            self.held = {name: values[:0] for name, values in rows.items()}
        known, fresh = len(self.held["states"]), len(rows["states"]) - len(places)
        room = min(fresh, self.pool.size - known)
        others = torch.arange(known)[~torch.isin(torch.arange(known), places)]
        drawn = others[torch.randperm(len(others))][: fresh - room]
        for name, values in rows.items():
            held = torch.cat([self.held[name], values[:room]])
            held[places] = values[fresh:]
            held[drawn] = values[room : room + len(drawn)]
            self.held[name] = held
