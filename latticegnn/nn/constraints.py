"""Constraints on the state: what holds in the cells after every step, whatever the step would have made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral

import torch
from torch import Tensor

from latticegnn.lattice import LatticeSpec, coordinates
from latticegnn.nn.dynamics import Cell, Dynamics, Linear, Memory, number


class Bounded(Dynamics):
    r"""Every number of the state stays between two bounds: :math:`x^{k+1} = \mathrm{clip}(\mathrm{inner}(x^k), -L, L)`.

    A learned update that grows from step to step then saturates instead, in roll-outs of any length. No gradient passes
    where a number is cut.

    Args:
        limit: L, > 0.
        inner: The mode whose steps are bounded; `Plain` by default.

    Raises:
        ValueError: The limit is not above 0.
    """

    constrains = True

    def __init__(self, limit: float, inner: Dynamics | None = None) -> None:
        super().__init__(inner)
        self.limit = number("limit", limit)
        if self.limit <= 0:
            raise ValueError(f"limit must be above 0; got {limit:g}; 6 leaves room for states of about unit size.")
        self.linear = self.inner.linear

    def forward(self, cell: Cell, x: Tensor, memory: Memory, at: int) -> tuple[Tensor, Memory]:
        """Take a step of the inner mode and cut what lies beyond the limit."""
        out, memory = self.inner(cell, x, memory, at)
        return out.clamp(-self.limit, self.limit), memory


class Wall(Dynamics):
    r"""A layer of dead cells, all but its holes: their states are zero after every step.

    .. math::
        x_i^{k+1} = \begin{cases} 0 & \text{if } i \text{ is in the layer and no hole} \\
                    \mathrm{inner}(x^k)_i & \text{otherwise} \end{cases}

    What crosses the layer, crosses it through the holes, F numbers a step each, as long as no neighbour lies further
    off than the next layer. The dead cells are still neighbours: means count their zeros.

    Args:
        spec: The lattice.
        axis: The axis that the wall stands across, "x", "y" or "z".
        at: The layer's index along it, from 0.
        holes: Places of the open cells in the layer, their indices along the two other axes in the order x, y, z.
        inner: The mode whose steps the wall stands in; `Plain` by default.

    Attributes:
        dead: The cells of the wall, bool [N].

    Raises:
        ValueError: There is no such layer, a hole lies outside of it, or neighbours reach across it.
    """

    constrains = True
    dead: Tensor

    def __init__(
        self,
        spec: LatticeSpec,
        axis: str,
        at: int,
        holes: Sequence[Sequence[int]] = (),
        inner: Dynamics | None = None,
    ) -> None:
        super().__init__(inner, spec)
        if axis not in ("x", "y", "z"):
            raise ValueError(f"a wall stands across one of the axes x, y and z; got {axis!r}; write axis: z.")
        across = "xyz".index(axis)
        sides = [side for place, side in enumerate(spec.shape) if place != across]
        if not _index(at, spec.shape[across]):
            raise ValueError(
                f"a wall is one of the {spec.shape[across]} layers along {axis}, counted from 0; got at: {at!r}; write "
                f"at: {spec.shape[across] // 2} for the middle."
            )
        middle = [side // 2 for side in sides]
        if not isinstance(holes, (list, tuple)):
            raise ValueError(f"holes are a list of places; got {holes!r}; write holes: [{middle}].")
        for hole in holes:
            if not isinstance(hole, (list, tuple)) or len(hole) != 2 or not all(map(_index, hole, sides)):
                raise ValueError(
                    f"a hole is two indices within the layer of {sides[0]} by {sides[1]} cells, counted from 0; got "
                    f"{hole!r}; write holes: [{middle}]."
                )
        if spec.connectivity == "full" or spec.thresholds[-1] ** 2 >= 4:
            raise ValueError(
                "a wall of one layer parts the cells on its two sides where no neighbour is 2 cells away; got "
                f"connectivity {spec.connectivity} and radii {spec.thresholds}; make the distant radius less than 2."
            )
        place = coordinates(spec)
        beside = place[:, [part for part in range(3) if part != across]]
        dead = place[:, across] == at
        for hole in holes:
            dead &= (beside != torch.tensor(hole)).any(dim=1)
        self.register_buffer("dead", dead, persistent=False)
        self.linear = replace(self.inner.linear, steady=self.inner.linear == Linear())

    def forward(self, cell: Cell, x: Tensor, memory: Memory, at: int) -> tuple[Tensor, Memory]:
        """Take a step of the inner mode and put out the wall's cells."""
        out, memory = self.inner(cell, x, memory, at)
        return out.masked_fill(self.dead.unsqueeze(1), 0), memory


def _index(value: object, count: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and 0 <= int(value) < count
