"""The gradient of a fixed point: one linear system in place of all the steps that led to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from scipy.sparse.linalg import LinearOperator, gmres
from torch import Tensor
from torch.autograd.function import once_differentiable

Solver = Literal["gmres", "iteration"]
Map = Callable[[Tensor], Tensor]
RESTART = 20  # vectors that GMRES keeps before it starts anew


@dataclass
class Adjoint:
    """What solving an adjoint equation took, and how well it was solved.

    Args:
        change: How far the state is from a fixed point: ‖step(x) − x‖ / ‖x‖ of the batch's worst sample.
        residual: ‖v − Jᵀv − g‖ / ‖g‖ of the whole batch; nan before the backward pass.
        products: Products with Jᵀ, each about a step's backward pass.
    """

    change: float
    residual: float = float("nan")
    products: int = 0


def solve_adjoint(
    product: Map, gradient: Tensor, solver: Solver, tolerance: float, products: int
) -> tuple[Tensor, float, int]:
    r"""Solve :math:`v = J^\top v + g`.

    Args:
        product: v to Jᵀv, both of one shape.
        gradient: g.
        solver: "gmres" (Saad & Schultz, 1986; scipy's, restarted, in the state's own precision) finds v wherever there
            is one; "iteration" repeats v ← Jᵀv + g, and needs a step that contracts near its fixed point.
        tolerance: Greatest ‖v − Jᵀv − g‖ / ‖g‖.
        products: Greatest number of products with Jᵀ, in round numbers.

    Returns:
        v, its residual ‖v − Jᵀv − g‖ / ‖g‖, and the products taken. The residual is above the tolerance, or nan, where
        the solver did not get there.
    """
    scale, taken = float(gradient.norm()), 0
    if scale == 0:
        return gradient, 0.0, 0

    def apply(v: Tensor) -> Tensor:
        nonlocal taken
        taken += 1
        return product(v)

    if solver == "iteration":
        v = gradient
        while True:
            after = apply(v) + gradient
            residual = float((after - v).norm()) / scale
            if not tolerance < residual < float("inf") or taken >= products:
                return v, residual, taken
            v = after

    def system(v: Any) -> Any:
        given = torch.from_numpy(v.reshape(gradient.shape)).to(gradient)
        return (given - apply(given)).flatten().cpu().numpy()

    wanted = gradient.flatten().cpu().numpy()
    restart = min(RESTART, products)
    # Half of the tolerance, for what it knows of its residual drifts from the true one by rounding.
    found, _ = gmres(
        LinearOperator((wanted.size, wanted.size), system, dtype=wanted.dtype), wanted,
        rtol=tolerance / 2, restart=restart, maxiter=-(-products // restart),
    )  # fmt: skip
    v = torch.from_numpy(found).to(gradient).view_as(gradient)
    return v, float((apply(v) + gradient - v).norm()) / scale, taken


def relative_change(after: Tensor, before: Tensor) -> float:
    """Return ‖after − before‖ / ‖before‖ of the worst sample, 0 of none; states [N, B, F]."""
    tiny = torch.finfo(before.dtype).tiny
    ratio = (after - before).square().sum((0, 2)) / before.square().sum((0, 2)).clamp_min(tiny)
    return float(ratio.max().sqrt()) if len(ratio) else 0.0


class FixedPoint(torch.autograd.Function):
    r"""A state with the gradient that it has as the fixed point of a step (Bai, Kolter & Koltun, 2019).

    With :math:`x^* = G(x^*, \theta)` the implicit function theorem gives

    .. math::
        \frac{\partial L}{\partial \theta} = v^\top \frac{\partial G}{\partial \theta}, \qquad v = J^\top v + g, \quad
        J = \frac{\partial G}{\partial x}(x^*), \; g = \frac{\partial L}{\partial x^*}

    It returns the state as it is, and hands v to the graph of one step from it, which takes it to all that the step
    depends on. Differentiable once.
    """

    @staticmethod
    def forward(
        ctx: Any, after: Tensor, start: Tensor, state: Tensor, solve: Callable[[Map, Tensor], Tensor]
    ) -> Tensor:
        """Return the state.

        Args:
            ctx: Carries the step's graph to the backward pass.
            after: G(start), with its graph.
            start: The state as a leaf of that graph.
            state: The state, without a graph.
            solve: ``(product with Jᵀ, g) -> v``.
        """
        # Not by save_for_backward: hooks on what is saved may hand out copies, which are no part of this graph.
        ctx.after, ctx.start, ctx.solve = after, start, solve
        return state.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        """Solve the adjoint equation."""

        def product(v: Tensor) -> Tensor:
            (found,) = torch.autograd.grad(ctx.after, ctx.start, v, retain_graph=True)
            return found

        return ctx.solve(product, gradient), None, None, None
