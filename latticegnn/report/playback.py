"""A rollout packed for the page that plays it: the signal, the states and the gate of each cell after each step."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latticegnn.lattice import hops
from latticegnn.lattice.stencil import node_grid, squared_limits
from latticegnn.model import LatticeModel
from latticegnn.report.lattice import NOISE

DECADES = 4
"""Powers of ten below the strongest signal that the page tells apart; weaker ones count as none."""

BUDGET = 2_200_000
"""Bytes of packed numbers on a page; in base64, and beside plotly's 4.8 MB, it stays below 8 MB."""


@torch.no_grad()
def pack_rollout(model: LatticeModel, inputs: Tensor, reference: Tensor, budget: int = BUDGET) -> dict[str, Any]:
    r"""Roll embeddings out and pack what happens in every cell after every step, ready for JSON.

    The signal of a row is what sets its rollout apart from that of a reference input,

    .. math::
        s^k_i = \sqrt{\langle (x^k_{i,f} - \bar x^k_{i,f})^2 \rangle_f},

    so that the biases, which move every cell of any rollout, are none of it, and it is zero outside the light cone. It
    is kept as one byte on a logarithmic scale of `DECADES` powers of ten below the strongest one, ``top``: b > 0 is
    :math:`\mathrm{top} \cdot 10^{D (b - 255) / 254}`, to 2 %, and 0 is none. States are kept as one signed byte,
    channel by channel: :math:`x = \mathrm{scale}_f \cdot b / 127`; gate weights, those of the step that follows, as
    :math:`b / 255`.

    Where all cells would take more than the budget, planes of cells are left out, evenly along each axis and never the
    first or the last one; ``planes`` says which are kept.

    Args:
        model: In evaluation mode. All rows take as many steps as the longest of them does by the model's own rule.
        inputs: Embeddings of the rows [R, D].
        reference: The embedding that they are held against [D], such as the mean of the training inputs.
        budget: Bytes of packed numbers, at least those of the 2×2×2 corners.

    Returns:
        ``shape``, ``limits`` (largest squared distance of each tier), ``boundaries``, ``planes`` (kept coordinates by
        axis), ``experts`` (names), ``steps`` T, ``ended`` (the step after which each row's own rollout ends),
        ``top``, ``decades``, ``scale`` [F], ``usage`` (mean gate weight over rows and all cells, [T + 1, experts]),
        and in base64, cells in the planes' order, z fastest: ``signal`` uint8 [R, T + 1, n], ``state`` int8
        [R, T + 1, n, F], ``gate`` uint8 [R, T + 1, n, experts], ``arrival`` int16 [n] (first step at which a signal
        from an input port can be there, −1 for never) and ``ports`` uint8 [n] (1 input, 2 output, 3 both).

    Raises:
        ValueError: When a state is not finite, or no row differs from the reference.
    """
    rows = torch.cat([inputs, reference[None]])
    ended = model(rows).steps[:-1]
    steps = int(ended.max())
    trajectory = model.rollout(rows, steps=steps, trajectory=True).trajectory
    assert trajectory is not None
    states = trajectory[:, :-1]
    signal = (states - trajectory[:, -1:]).square().mean(dim=-1).sqrt()  # [T + 1, R, N]
    top = float(signal.max())
    if not (math.isfinite(top) and top > NOISE * float(states.abs().max())):
        raise ValueError(
            f"a rollout is played where its signal is finite, and more than rounding; the strongest one is {top:.1g} "
            f"over {steps} steps; choose other rows, or look for the step at which the states diverge."
        )
    gates = torch.stack([model.cell.gates(state) for state in states])  # [T + 1, R, N, experts]
    experts = list(model.cell.experts)
    each = len(inputs) * (steps + 1) * (1 + model.channels + len(experts)) + 3
    planes = kept_planes(model.spec.shape, budget // each)
    cells = node_grid(model.spec)[torch.meshgrid(*planes, indexing="ij")].flatten()
    scale = states.abs().amax(dim=(0, 1, 2)).clamp_min(1e-30)
    ports = torch.zeros(model.spec.num_nodes, dtype=torch.uint8)
    ports[model.input_nodes] += 1
    ports[model.output_nodes] += 2
    return {
        "shape": list(model.spec.shape),
        "limits": list(squared_limits(model.spec)),
        "boundaries": list(model.spec.boundaries),
        "planes": [plane.tolist() for plane in planes],
        "experts": experts,
        "steps": steps,
        "ended": ended.tolist(),
        "top": top,
        "decades": DECADES,
        "scale": scale.tolist(),
        "usage": gates.mean(dim=(1, 2)).tolist(),
        "signal": base64_of(log_bytes(signal[:, :, cells] / top).transpose(0, 1), np.uint8),
        "state": base64_of((states[:, :, cells] / scale * 127).round().transpose(0, 1), np.int8),
        "gate": base64_of((gates[:, :, cells] * 255).round().transpose(0, 1), np.uint8),
        "arrival": base64_of(hops(model.spec, model.input_nodes)[cells], np.int16),
        "ports": base64_of(ports[cells], np.uint8),
    }


def log_bytes(share: Tensor) -> Tensor:
    """Map shares of the strongest signal, in [0, 1], to 1…255 over `DECADES` powers of ten, and weaker ones to 0."""
    level = 1 + (254 * (1 + share.clamp_min(1e-30).log10() / DECADES)).round()
    return torch.where(share < 10.0**-DECADES, 0.0, level)


def kept_planes(shape: Sequence[int], most: int) -> list[Tensor]:
    """Choose coordinates along each axis so that at most so many cells are kept, both ends always among them."""
    for side in range(max(*shape, 2), 1, -1):
        kept = [min(length, side) for length in shape]
        if math.prod(kept) <= most:
            break
    return [torch.linspace(0, n - 1, count).round().long() for n, count in zip(shape, kept, strict=True)]


def base64_of(values: Tensor, kind: type[np.generic]) -> str:
    """Encode values as little-endian numbers of a kind, in base64."""
    little = np.dtype(kind).newbyteorder("<")
    return base64.b64encode(values.numpy().astype(little).tobytes()).decode("ascii")
