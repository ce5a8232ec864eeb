"""LatticeCell's step, restructured for speed: the same numbers from fewer and larger operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from latticegnn.aggregate import Aggregator
from latticegnn.aggregate.product import linear
from latticegnn.nn import kernels
from latticegnn.nn.cell import LatticeCell
from latticegnn.nn.experts import MeanFieldExpert, MLPExpert
from latticegnn.nn.kernels import Branch, Kept, Kernels, Small
from latticegnn.nn.soft_tiers import SoftTiers

ROWS = 2048  # pairs of cell and sample that are worked on at a time


class FusedStep:
    r"""A `LatticeCell`'s step with its algebra folded and its backward pass written out.

    The same parameters, the same function and the same gradients as the cell's own ``advance``, to rounding:

    - every tier is aggregated once, and bypass, experts and gate read it in one product a tier;
    - the step size is folded into the bypass and the second layers, the gate's LayerNorm into its product;
    - a perceptron's gate is applied *before* its second layer, so that all second layers are one product;
    - the elementwise remainder is two functions, see `latticegnn.nn.kernels`, which inductor can compile;
    - rows are worked on in chunks; the backward pass keeps the states and the first layers, and aggregates again.

    Under ``torch.autocast`` the products run in its number format, but for the gate's; everything else stays in the
    state's own. It is differentiable once: for gradients of gradients, and for `torch.func`, take the cell itself
    (``execution="reference"``) on the backend "edge".

    Args:
        cell: The cell; its experts must be `MLPExpert` or `MeanFieldExpert`.
        compiled: Run whole chunks through compiled functions; what is left of the rows runs through the eager ones.
        rows: Pairs of cell and sample in a chunk, ≥ 1.
        recompute: Keep the states alone and compute the first layers again in the backward pass: F numbers a cell and
            step are kept in place of F + first layers.

    Raises:
        ValueError: When `unfusable` finds an expert of another kind, a cell or layer of another class, or a hook.
    """

    def __init__(self, cell: LatticeCell, compiled: bool = False, rows: int = ROWS, recompute: bool = False) -> None:
        reason = unfusable(cell)
        if reason:
            raise ValueError(
                "the fused step takes a LatticeCell with MLPExpert or MeanFieldExpert in every tier, and tiers with "
                f"hard ends, as they come; {reason}; choose execution: reference, or leave it auto."
            )
        self.cell, self.compiled, self.rows, self.recompute = cell, compiled, rows, recompute

    def bind(self) -> Callable[[Tensor], Tensor]:
        """Fold the parameters, once for a rollout, and return the step: [N, B, F] -> [N, B, F], nodes first."""
        cell = self.cell
        branches = tuple(_branch(cell, name) for name in cell.experts)
        chosen = kernels.EAGER
        if self.compiled:
            chosen = kernels.compiled(branches, cell.channels, self.rows, cell.step.dtype)
        device = cell.step.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        plan = _Plan(cell.aggregator, len(cell.reaching), branches, chosen, self.rows, self.recompute, dtype)
        with torch.autocast(device, enabled=False):
            own, others, outer, small = fold(cell)

        def step(x: Tensor) -> Tensor:
            # Without a backward pass to come, nothing is kept for it.
            kept = plan if torch.is_grad_enabled() else plan._replace(recompute=True)
            return _Step.apply(x, kept, cell.radial, own, *others, outer, *small)

        return step


def unfusable(cell: LatticeCell) -> str | None:
    """Say what keeps the step from being fused, which would pass it over; None when nothing does."""
    if type(cell) is not LatticeCell:
        return f"the cell is a {type(cell).__name__}"
    if isinstance(cell.aggregator, SoftTiers):
        return "its tiers are soft"
    for name, expert in cell.experts.items():
        if type(expert) not in (MLPExpert, MeanFieldExpert):
            return f"the {name} tier has {type(getattr(expert, 'layer', expert)).__name__}"
    for name, module in cell.named_modules():
        if name.startswith("aggr"):  # the sums over neighbours, which both share, and PyG's own
            continue
        if type(module) not in (LatticeCell, MLPExpert, MeanFieldExpert, nn.ModuleDict, nn.Linear, nn.LayerNorm):
            return f"{name} is a {type(module).__name__}"
        if any(getattr(module, hooks) for hooks in _HOOKS):
            return f"{name or 'the cell'} has a hook"
    if cell.norm.eps != kernels.NORM_EPSILON:
        return f"its LayerNorm has an epsilon of {cell.norm.eps}"
    return None


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class _Plan(NamedTuple):
    """What a step needs besides tensors that carry gradients."""

    aggregator: Aggregator
    tiers: int
    branches: tuple[Branch, ...]
    kernels: Kernels
    rows: int
    recompute: bool
    product_dtype: torch.dtype | None

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """Multiply x [M, K] by weight [O, K], in the autocast format where there is one: [M, O] in x's own."""
        if self.product_dtype is None:
            return linear(x, weight)
        return linear(x.to(self.product_dtype), weight.to(self.product_dtype)).to(x.dtype)

    def perceive(self, x: Tensor, radial: Tensor | None) -> Callable[[slice], Tensor]:
        """Return what sums over the neighbours of some rows, each tier's moments side by side: [T, rows, 4F]."""
        moments, batch, channels = self.aggregator.by_cells(x, radial), x.shape[1], x.shape[2]

        def chunk(rows: slice) -> Tensor:
            first, last = rows.start // batch, -(-rows.stop // batch)
            here = slice(rows.start - first * batch, rows.stop - first * batch)
            found = moments(first, last).reshape(self.tiers, 4, (last - first) * batch, channels)[:, :, here]
            return found.transpose(1, 2).flatten(2)

        return chunk

    def functions(self, rows: slice) -> Kernels:
        """Choose the elementwise functions: the compiled ones know one shape, that of a whole chunk."""
        return self.kernels if rows.stop - rows.start == self.rows else kernels.EAGER

    def inner(self, x: Tensor, seen: Tensor, weights: _Weights, rows: slice) -> tuple[Tensor, Tensor, Kept]:
        """Compute the first layers and the elementwise part of some rows."""
        own = self.product(x, weights.own)
        if self.product_dtype is not None:
            # The LayerNorm folded into these columns takes the mean off afterwards: no digits may be lost before.
            gate = len(self.branches)
            own[:, -gate:] = linear(x, weights.own[-gate:])
        others = [self.product(m, w) for m, w in zip(seen, weights.others, strict=True)]
        return self.functions(rows).forward(x, own, others, seen, weights.small, self.branches)


class _Weights(NamedTuple):
    """The cell's parameters as the step's products take them.

    Args:
        radial: Weights of the distances [S], where the cell has them.
        own: W₀ [O, F], rows: bypass (F), every expert's first layer, gate (G).
        others: W_t [F + width, 4F] for every tier that reaches other cells: bypass, then its expert's first layer.
        outer: W₂ [F, sum of hidden + perceptrons]: the perceptrons' second layers, then their biases.
        small: Biases and gate, see `kernels.Small`.
    """

    radial: Tensor | None
    own: Tensor
    others: tuple[Tensor, ...]
    outer: Tensor
    small: Small

    @classmethod
    def of(cls, tensors: tuple[Any, ...], tiers: int) -> _Weights:
        radial, own, *rest = tensors[0], *(t.detach() for t in tensors[1:])
        return cls(radial, own, tuple(rest[:tiers]), rest[tiers], Small(*rest[tiers + 1 :]))


def _branch(cell: LatticeCell, name: str) -> Branch:
    reaching = [tier.name.lower() for tier in cell.reaching]
    source = reaching.index(name) if name in reaching else None
    expert = cell.experts[name]
    if isinstance(expert, MeanFieldExpert):
        return Branch(True, cell.channels, source, expert.euler_steps)
    assert isinstance(expert, MLPExpert)
    return Branch(False, expert.inner.out_features, source, 0)


def fold(cell: LatticeCell) -> tuple[Tensor, list[Tensor], Tensor, Small]:
    """Fold a cell's parameters into what the step multiplies by: W₀, the W_t, W₂ and the small weights.

    It happens within autograd, so that the folded weights' gradients find their way back.
    """
    channels, step = cell.channels, cell.step
    bypass = (step * cell.bypass.weight).split([channels, *[4 * channels] * len(cell.reaching)], dim=1)
    gate = cell.gate.weight[:, :channels]
    own, others = [bypass[0]], list(bypass[1:])
    bias: list[Tensor] = []
    outer, outer_bias, pace = [step.new_zeros(channels, 0)], [step.new_zeros(channels, 0)], []
    for name, expert in cell.experts.items():
        if isinstance(expert, MeanFieldExpert):
            first = expert.drive
            pace.append(torch.sigmoid(expert.rate) / expert.euler_steps)
        else:
            assert isinstance(expert, MLPExpert)
            first = expert.inner
            outer.append(step * expert.outer.weight)
            outer_bias.append((step * expert.outer.bias).unsqueeze(1))
        own.append(first.weight[:, :channels])
        bias.append(first.bias)
        source = _branch(cell, name).source
        if source is not None:
            others[source] = torch.cat([others[source], first.weight[:, channels:]])
    if cell.units is not None:  # the moments' factors, folded into what multiplies them
        units = cell.units.to(step).repeat_interleave(channels, dim=1)
        others = [weight * factor for weight, factor in zip(others, units, strict=True)]
    own.append(gate * cell.norm.weight)
    small = Small(
        bias=torch.cat(bias),
        gate_sum=own[-1].sum(1),
        gate_bias=cell.gate.bias + gate @ cell.norm.bias,
        gate_activity=cell.gate.weight[:, channels:],
        pace=torch.stack(pace) if pace else step.new_zeros(0, channels),
        step=step,
    )
    return torch.cat(own), others, torch.cat([*outer, *outer_bias], 1), small


class _Step(torch.autograd.Function):
    """One step over all rows, in chunks; gradients by hand."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, plan: _Plan, *tensors: Any) -> Tensor:
        x = x.detach().contiguous()
        weights = _Weights.of(tensors, plan.tiers)
        kept: list[Tensor] = []
        with torch.autocast(x.device.type, enabled=False):
            perceive = plan.perceive(x, weights.radial)
            out = torch.empty_like(x)
            for rows in _chunks(x, plan.rows):
                y, mixed, keep = plan.inner(_rows(x, rows), perceive(rows), weights, rows)
                torch.add(y, plan.product(mixed, weights.outer), out=_rows(out, rows))
                if not plan.recompute:
                    kept += [*keep.inner, keep.gates, keep.norm]
        ctx.plan, ctx.count = plan, len(tensors)
        ctx.save_for_backward(x, *tensors, *kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        plan: _Plan = ctx.plan
        x, *saved = ctx.saved_tensors
        weights, kept = _Weights.of(tuple(saved[: ctx.count]), plan.tiers), saved[ctx.count :]
        grad, channels, each = grad.contiguous(), x.shape[2], len(plan.branches) + 2
        perceive = plan.perceive(x, weights.radial)
        grad_moments, grad_x = x.new_empty(plan.tiers, 4, *x.shape), torch.empty_like(x)
        own_t, outer_t = weights.own.t().contiguous(), weights.outer.t().contiguous()
        others_t = [w.t().contiguous() for w in weights.others]
        learns = any(ctx.needs_input_grad[3:])
        totals = [torch.zeros_like(t) for t in saved[1 : ctx.count]]
        for number, rows in enumerate(_chunks(x, plan.rows)):
            here, up, seen = _rows(x, rows), _rows(grad, rows), perceive(rows)
            if plan.recompute:
                keep = plan.inner(here, seen, weights, rows)[2]
            else:
                *inner, gates, norm = kept[number * each : (number + 1) * each]
                keep = Kept(inner, gates, norm)
            into = plan.functions(rows).backward(
                here, up, plan.product(up, outer_t), keep, seen, weights.small, plan.branches
            )
            torch.add(into.x, plan.product(into.own, own_t), out=_rows(grad_x, rows))
            for tier in range(plan.tiers):
                down = plan.product(into.others[tier], others_t[tier])
                down[:, :channels] += into.means[tier]
                target = grad_moments[tier].view(4, -1, channels)[:, rows]
                target.copy_(down.unflatten(1, (4, channels)).transpose(0, 1))
            if not learns:  # a frozen cell
                continue
            parts = [
                plan.product(into.own.t(), here.t()),
                *(plan.product(g.t(), m.t()) for g, m in zip(into.others, seen, strict=True)),
                plan.product(up.t(), into.mixed.t()),
                *into.small,
            ]
            totals = [total.add_(part) for total, part in zip(totals, parts, strict=True)]
        radial = None
        if plan.tiers:
            moments = grad_moments.flatten(0, 1)
            grad_x += plan.aggregator.adjoint(moments, weights.radial)
            if ctx.needs_input_grad[2] and weights.radial is not None:
                radial = plan.aggregator.weights_gradient(x, moments)
        return grad_x, None, radial, *(totals if learns else [None] * len(totals))


def _chunks(x: Tensor, rows: int) -> list[slice]:
    total = x.shape[0] * x.shape[1]
    return [slice(start, min(start + rows, total)) for start in range(0, total, rows)]


def _rows(x: Tensor, rows: slice) -> Tensor:
    return x.view(-1, x.shape[2])[rows]
