r"""The elementwise half of the fused step, forward and backward, between its matrix products.

For one row (one cell of one sample) with the products :math:`p^0 = W_0 x` and :math:`p^t = W_t m_t` (one for every tier
that reaches other cells), split into columns by their purpose,

.. math::
    y &= x + \textstyle\sum_s p^s_{\text{bypass}} + \varepsilon \sum_{k \in \text{fields}} g_k u_k(z_k), \qquad
    z_k = p^0_k + p^{t(k)}_k + b_k, \\
    q &= (p^0_{\text{gate}} - \mu\,s)\,\rho, \qquad g = \mathrm{softmax}(q + c + G_a a), \qquad
    A = [g_k\,\mathrm{SiLU}(z_k) \,\|\, g_k]_{k \in \text{perceptrons}},

and the new state is :math:`y + A W_2^\top`. μ and ρ are the mean and the reciprocal deviation of the row: a LayerNorm
folded into the gate's product. The step size is folded into bypass and W₂ beforehand.

Both functions are plain tensor code: `torch.compile` turns each into a few loops, and without a compiler they run as
they are.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import silu

NORM_EPSILON = 1e-5  # nn.LayerNorm's default
_silu_backward = torch.ops.aten.silu_backward


class Branch(NamedTuple):
    """One expert's part in the step.

    Args:
        field: A mean field (`MeanFieldExpert`); otherwise a perceptron (`MLPExpert`).
        width: Columns of its first layer: hidden units, or F for a field.
        source: Which reaching tier it reads besides the cell itself; None for the cell alone.
        euler_steps: Of a field.
    """

    field: bool
    width: int
    source: int | None
    euler_steps: int


class Small(NamedTuple):
    """The step's small weights, see the module's formulas; G experts, T reaching tiers.

    Args:
        bias: b, of the first layers [sum of widths].
        gate_sum: s, row sums of the gate's product [G].
        gate_bias: c [G].
        gate_activity: G_a [G, T].
        pace: Rate of each field divided by its Euler steps [fields, F].
        step: ε, a scalar.
    """

    bias: Tensor
    gate_sum: Tensor
    gate_bias: Tensor
    gate_activity: Tensor
    pace: Tensor
    step: Tensor


class Kept(NamedTuple):
    """What the backward pass needs of the forward one.

    Args:
        inner: z_k for every expert [rows, width].
        gates: q, then g [2G, rows].
        norm: μ and ρ [2, rows].
    """

    inner: list[Tensor]
    gates: Tensor
    norm: Tensor


def forward(
    x: Tensor, own: Tensor, others: Sequence[Tensor], seen: Tensor, small: Small, branches: Sequence[Branch]
) -> tuple[Tensor, Tensor, Kept]:
    """Compute (y, A, what to keep) from x [rows, F], p⁰, the pᵗ and the moments [T, rows, 4F]."""
    channels, experts = x.shape[1], len(branches)
    means = seen[:, :, :channels].unbind()
    mean = x.mean(1)
    deviation = torch.rsqrt((x - mean.unsqueeze(1)).square().mean(1) + NORM_EPSILON)
    gate = own[:, own.shape[1] - experts :].t()
    q = (gate - mean * small.gate_sum.unsqueeze(1)) * deviation
    logits = q + small.gate_bias.unsqueeze(1)
    if means:
        logits = logits + small.gate_activity @ activity(means)
    g = torch.softmax(logits, 0)
    y = x + own[:, :channels]
    for other in others:
        y = y + other[:, :channels]
    inner: list[Tensor] = []
    mixed: list[Tensor] = []
    weights: list[Tensor] = []
    column = channels
    field = 0
    for branch, share in zip(branches, g.unsqueeze(2).unbind(), strict=True):
        z = own[:, column : column + branch.width] + small.bias[column - channels : column - channels + branch.width]
        column += branch.width
        if branch.source is not None:
            z = z + others[branch.source][:, channels:]
        inner.append(z)
        if branch.field:
            u = _euler(z, small.pace[field], branch.euler_steps)[-1]
            y = y + small.step * share * u
            field += 1
        else:
            mixed.append(share * silu(z))
            weights.append(share)
    return y, torch.cat([x[:, :0], *mixed, *weights], 1), Kept(inner, torch.cat([q, g]), torch.stack([mean, deviation]))


class Gradients(NamedTuple):
    """What `backward` gives.

    Args:
        x: Of the state, products apart [rows, F].
        own: Of p⁰ [rows, O].
        others: Of the pᵗ [rows, F + width].
        means: Of the tiers' means, products apart [rows, F].
        mixed: A again, for W₂'s gradient.
        small: Of the small weights.
    """

    x: Tensor
    own: Tensor
    others: list[Tensor]
    means: list[Tensor]
    mixed: Tensor
    small: Small


def backward(
    x: Tensor,
    grad: Tensor,
    grad_mixed: Tensor,
    kept: Kept,
    seen: Tensor,
    small: Small,
    branches: Sequence[Branch],
) -> Gradients:
    """Compute the gradients from that of the new state, ``grad`` [rows, F], and that of A, ``grad · W₂``."""
    channels, experts = x.shape[1], len(branches)
    means = seen[:, :, :channels].unbind()
    q, g = kept.gates[:experts], kept.gates[experts:]
    mean, deviation = kept.norm
    grad_inner: list[Tensor] = []
    grad_gate: list[Tensor] = []
    mixed: list[Tensor] = []
    weights: list[Tensor] = []
    paces: list[Tensor] = []
    grad_step = torch.zeros_like(small.step)
    column = 0
    last = sum(b.width for b in branches if not b.field)
    field = 0
    for branch, share, z in zip(branches, g.unsqueeze(2).unbind(), kept.inner, strict=True):
        if branch.field:
            states = _euler(z, small.pace[field], branch.euler_steps)
            along = (grad * states[-1]).sum(1)
            grad_gate.append(small.step * along)
            grad_step = grad_step + (share.squeeze(1) * along).sum()
            into, pace = _euler_backward(small.step * share * grad, z, small.pace[field], states)
            grad_inner.append(into)
            paces.append(pace)
            field += 1
        else:
            up = grad_mixed[:, column : column + branch.width]
            active = silu(z)
            grad_gate.append((up * active).sum(1) + grad_mixed[:, last + len(weights)])
            grad_inner.append(_silu_backward(share * up, z))
            mixed.append(share * active)
            weights.append(share)
            column += branch.width
    stacked = torch.stack(grad_gate)
    grad_logits = g * (stacked - (g * stacked).sum(0))
    grad_q = grad_logits * deviation
    shift = -(grad_q * small.gate_sum.unsqueeze(1)).sum(0) / channels
    scale = -deviation.square() * (grad_logits * q).sum(0) / channels
    grad_x = grad + shift.unsqueeze(1) + scale.unsqueeze(1) * (x - mean.unsqueeze(1))
    grad_activity = small.gate_activity.t() @ grad_logits
    of_small = Small(
        bias=torch.cat([z.sum(0) for z in grad_inner]),
        gate_sum=-(grad_q * mean).sum(1),
        gate_bias=grad_logits.sum(1),
        gate_activity=grad_logits @ activity(means).t() if means else torch.zeros_like(small.gate_activity),
        pace=torch.stack(paces) if paces else torch.zeros_like(small.pace),
        step=grad_step,
    )
    return Gradients(
        x=grad_x,
        own=torch.cat([grad, *grad_inner, grad_q.t()], 1),
        others=[
            torch.cat([grad, into], 1)
            for _, into in sorted(
                ((b.source, into) for b, into in zip(branches, grad_inner, strict=True) if b.source is not None),
                key=lambda pair: pair[0],
            )
        ],
        means=[(2 / channels) * row.unsqueeze(1) * m for row, m in zip(grad_activity.unbind(), means, strict=True)],
        mixed=torch.cat([x[:, :0], *mixed, *weights], 1),
        small=of_small,
    )


def activity(means: Sequence[Tensor]) -> Tensor:
    """Return the mean square of each tier's mean state [T, rows]."""
    return torch.stack([m.square().mean(1) for m in means])


def _euler(z: Tensor, pace: Tensor, steps: int) -> list[Tensor]:
    states = [torch.zeros_like(z)]
    for _ in range(steps):
        u = states[-1]
        states.append(u + pace * (silu(z + u) - u))
    return states


def _euler_backward(grad: Tensor, z: Tensor, pace: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    grad_z, grad_pace = torch.zeros_like(z), torch.zeros_like(pace)
    for u in reversed(states[:-1]):
        drive = z + u
        grad_pace = grad_pace + (grad * (silu(drive) - u)).sum(0)
        back = _silu_backward(pace * grad, drive)
        grad_z = grad_z + back
        grad = grad - pace * grad + back
    return grad_z, grad_pace


class Kernels(NamedTuple):
    """The two functions, as they are or compiled."""

    forward: Callable[..., tuple[Tensor, Tensor, Kept]]
    backward: Callable[..., Gradients]


EAGER = Kernels(forward, backward)


@functools.cache
def compiled(branches: tuple[Branch, ...], channels: int, rows: int, dtype: torch.dtype) -> Kernels:
    """Return the functions compiled by inductor: seconds at the first call, once for each set of arguments.

    PyTorch limits the shapes that one compiled function may meet; a function for each never comes near the limit.
    """
    compile_one: Callable[..., Any] = torch.compile  # its type stubs leave isolate_recompiles out
    return Kernels(
        *(compile_one(f, dynamic=False, fullgraph=True, isolate_recompiles=True) for f in (forward, backward))
    )


def compiler(device: torch.device) -> str | None:
    """Name what inductor compiles with on a device: ``$CXX`` or g++, or Triton on a GPU; None where it does not run."""
    if device.type == "cpu":
        return _cpp_compiler(os.environ.get("CXX", "g++"))
    return "triton" if importlib.util.find_spec("triton") else None


@functools.cache
def _cpp_compiler(command: str) -> str | None:
    words = shlex.split(command)
    path = shutil.which(words[0]) if words else None
    if path is None or subprocess.run([path, *words[1:], "--version"], capture_output=True, check=False).returncode:
        return None
    return " ".join([path, *words[1:]])
