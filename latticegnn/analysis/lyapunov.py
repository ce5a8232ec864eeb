"""How fast two nearly equal states part: the largest Lyapunov exponent."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from latticegnn.analysis.trajectory import checked


@torch.no_grad()
def largest_lyapunov(
    step: Callable[[Tensor], Tensor],
    state: Tensor,
    steps: int = 1000,
    size: float | None = None,
    every: int = 1,
    transient: int = 100,
    seed: int = 0,
) -> Tensor:
    r"""Compute each sample's largest Lyapunov exponent by Benettin's method (Benettin et al., 1980).

    A twin starts at a distance d₀; both go on, and after each ``every`` steps the distance d is noted and the twin
    pulled back to d₀ along the line between them:

    .. math::
        \lambda = \frac{1}{\text{steps}} \sum_m \ln \frac{d_m}{d_0}

    in nats a step: above 0 the twins part (chaos), 0 they keep their distance (quasi-periodic, drift), below 0 they
    meet (fixed points and cycles); −∞ where they meet exactly.

    Args:
        step: [B, N, F] -> [B, N, F], one step; the same at every call, and each sample by itself.
        state: Where to start, float32 or float64 (an exponent near 0 needs float64).
        steps: Steps that are counted, at least ``every``, a multiple of it. The error falls about as 1/steps.
        size: d₀, the L2 distance over all cells and channels, in the state's units. Left out: the square root of the
            rounding unit times the state's norm (of a zero state: times 1), halfway between rounding and non-linearity.
        every: Steps between two renormalisations; few enough that d stays small.
        transient: Steps before the count, in which the state reaches its attractor and the twin the fastest direction.
        seed: Of the twin's first direction, one for all samples.

    Shapes:
        state [B, N, F] → [B], float64.

    Raises:
        ValueError: A number is out of range, the step changes the shape, or a state stops being finite.
    """
    if every < 1 or steps < every or steps % every or transient < 0 or transient % every:
        raise ValueError(
            "steps and transient are multiples of every, which is at least 1, and steps is not 0. Received "
            f"steps={steps}, transient={transient}, every={every}. Write steps=1000, transient=100, every=1."
        )
    if state.dim() != 3 or state.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            "The state is [B, N, F] in float32 or float64. Received "
            f"{state.dtype} of shape {tuple(state.shape)}. Give one state of the rollout, cast by .double()."
        )
    rounding = torch.finfo(state.dtype).eps
    norm = _norm(state)
    if size is not None and not size > 8 * rounding * float(norm.max()):
        raise ValueError(
            f"The size of the perturbation must stand out from rounding, about {rounding * float(norm.max()):.1e} at "
            f"these states. Received {size!r}. Leave it out, or use float64 states."
        )
    distance = rounding**0.5 * torch.where(norm == 0, 1.0, norm) if size is None else torch.full_like(norm, size)
    direction = torch.randn(state.shape[1:], generator=torch.Generator().manual_seed(seed), dtype=state.dtype)
    direction = (direction / direction.norm()).to(state.device).expand_as(state)
    total = torch.zeros(len(state), dtype=torch.float64, device=state.device)
    for done in range(0, transient + steps, every):
        twin = state + distance * direction
        distance_before = _norm(twin - state)  # what is left of it after rounding
        for _ in range(every):
            state, twin = _advance(step, state), _advance(step, twin)
        gap = twin - state
        length = _norm(gap)
        if done >= transient:
            total += (length.double() / distance_before.double()).log()[:, 0, 0]
        direction = torch.where(length == 0, direction, gap / length)
    return total / steps


def _norm(state: Tensor) -> Tensor:
    return state.flatten(1).norm(dim=1)[:, None, None]


def _advance(step: Callable[[Tensor], Tensor], state: Tensor) -> Tensor:
    after = step(state)
    if after.shape != state.shape:
        raise ValueError(
            f"A step keeps the state's shape, {tuple(state.shape)}. Received {tuple(after.shape)} from it. Give a "
            "function of one state that returns the next, such as model.cell."
        )
    checked(after[None])
    return after
