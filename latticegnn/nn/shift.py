"""The start that carries: a cell whose bypass moves its state from the input to the output ports."""

from __future__ import annotations

import torch
from torch import Tensor

from latticegnn.lattice import LatticeSpec, Ports, Tier, steps_needed
from latticegnn.nn.cell import LatticeCell


def step_size(spec: LatticeSpec, inputs: Ports, outputs: Ports, steps: int) -> float:
    r"""Return where a cell's step size starts, :math:`\varepsilon = \min(1, (n + 1) / T)`.

    n is the number of light-cone steps between the ports; the lattice's longest side where they are out of reach.
    """
    try:
        distance = steps_needed(spec, inputs, outputs)
    except ValueError:
        distance = max(spec.shape) - 1
    return min(1.0, (distance + 1) / steps)


def start_shift(cell: LatticeCell, spec: LatticeSpec, inputs: Tensor, outputs: Tensor, time: float) -> None:
    """Start a cell's bypass as a shift that takes the input ports' mean place to the output ports'.

    A cell stays as it is where the two places are one, or no tier reaches along the way.

    Args:
        cell: The cell, changed in place; see `LatticeCell.start_shift`.
        spec: Its lattice.
        inputs: Coordinates of the input ports [P, 3].
        outputs: Coordinates of the output ports [P', 3].
        time: Steps times step size in which the way is covered.
    """
    way = outputs.mean(dim=0) - inputs.mean(dim=0)
    sides = torch.tensor(spec.shape, dtype=way.dtype)
    around = (way / sides).round() * sides  # a periodic axis is crossed the short way round
    way = torch.where(torch.tensor(spec.periodic), way - around, way)
    way[way.abs() < 1e-9] = 0.0
    length = float(way.norm())
    moving = [axis for axis in range(3) if way[axis] != 0]
    # The local tier, whose mean counts the cell itself, carries where there is no other.
    able = cell.reaching if len(cell.reaching) == 1 else set(cell.reaching) - {Tier.LOCAL}
    carriers = [t for t in sorted(able) if all(cell.spread[t][axis] > 0 for axis in moving)]
    if length < 1e-9 or not carriers:
        return
    speed = length / time
    reach = dict(zip(Tier, spec.thresholds, strict=True))
    carrier = next((t for t in carriers if reach[t] >= speed), carriers[-1])
    cell.start_shift((way / length * speed).tolist(), carrier)
