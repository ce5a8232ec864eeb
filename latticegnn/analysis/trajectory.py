"""What a rollout does, step by step: change, energy, layers, arrival, autocorrelation in time, dimension.

Every function takes states [T + 1, B, N, F], keeps no gradient, computes in float64 and treats each sample by itself.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from latticegnn.lattice import LatticeSpec, coordinates, hops

Samples = Literal["time", "cells"]


def checked(trajectory: Tensor, spec: LatticeSpec | None = None, states: int = 1) -> Tensor:
    """Return the trajectory in float64 and without a gradient, once it is sound.

    Args:
        trajectory: [T + 1, B, N, F], floating point.
        spec: The lattice that the N cells belong to, where it matters.
        states: The least number of states T + 1.

    Raises:
        ValueError: The shape, the type, the number of cells or of states is wrong, or a value is not finite.
    """
    if trajectory.dim() != 4 or not trajectory.is_floating_point() or 0 in trajectory.shape:
        raise ValueError(
            "A trajectory holds states [T + 1, B, N, F] in floating point, none of the four empty. Received "
            f"{trajectory.dtype} of shape {tuple(trajectory.shape)}. Stack the states along a first dimension, as "
            "model.rollout(..., trajectory=True).trajectory does, and cast whole numbers with .double()."
        )
    if spec is not None and trajectory.shape[2] != spec.num_nodes:
        raise ValueError(
            f"A trajectory's third dimension counts the cells of its lattice, {spec.num_nodes} for the shape "
            f"{spec.shape}. Received {trajectory.shape[2]} cells in {tuple(trajectory.shape)}. Give the spec that the "
            "states were made with."
        )
    if trajectory.shape[0] < states:
        raise ValueError(
            f"This needs a trajectory of at least {states} states. Received {trajectory.shape[0]}. Roll out further."
        )
    wide = trajectory.detach().double()
    finite = wide.isfinite().all(dim=-1).all(dim=-1)
    if not bool(finite.all()):
        step, sample = (~finite).nonzero()[0].tolist()
        raise ValueError(
            f"Every state must be finite. Received one that is not, at step {step} of sample {sample}. Analyse the "
            "steps before it, or leave that sample out."
        )
    return wide


def change(trajectory: Tensor) -> Tensor:
    r"""Compute each step's change per cell, :math:`\langle \|x^{k+1}_i - x^k_i\| \rangle_i`, in the state's units.

    Shapes:
        trajectory [T + 1, B, N, F], T ≥ 1 → [T, B].

    Raises:
        ValueError: The trajectory is not sound.
    """
    return checked(trajectory, states=2).diff(dim=0).norm(dim=-1).mean(dim=-1)


def relative_change(trajectory: Tensor) -> Tensor:
    r"""Compute :math:`\|x^{k+1} - x^k\| / \|x^k\|` over all cells and channels; 0/0 is 0, change from zero infinite.

    Shapes:
        trajectory [T + 1, B, N, F], T ≥ 1 → [T, B].

    Raises:
        ValueError: The trajectory is not sound.
    """
    flat = checked(trajectory, states=2).flatten(2)
    moved = flat.diff(dim=0).norm(dim=-1)
    return torch.where(moved == 0, 0.0, moved / flat[:-1].norm(dim=-1))


def energy(trajectory: Tensor) -> Tensor:
    """Compute the mean square of each state over cells and channels.

    Shapes:
        trajectory [T + 1, B, N, F] → [T + 1, B].

    Raises:
        ValueError: The trajectory is not sound.
    """
    return checked(trajectory).square().mean(dim=(-1, -2))


def layer_activity(trajectory: Tensor, spec: LatticeSpec, axis: int = 2, reference: Tensor | None = None) -> Tensor:
    """Compute the root mean square of each layer of cells across an axis.

    Args:
        trajectory: The states.
        spec: The lattice.
        axis: 0, 1 or 2 for x, y or z; the layers are its planes, L of them.
        reference: What is taken off first: the same rollout without the signal, so that only what the signal caused
            is left. Zero where it is left out.

    Shapes:
        trajectory [T + 1, B, N, F], reference the same → [T + 1, B, L].

    Raises:
        ValueError: The trajectory is not sound, the reference has another shape, or the axis is none.
    """
    x = checked(trajectory, spec)
    if reference is not None:
        if reference.shape != trajectory.shape:
            raise ValueError(
                f"The reference is a rollout of the same shape, {tuple(trajectory.shape)}. Received "
                f"{tuple(reference.shape)}. Roll out the same samples for as many steps."
            )
        x = x - checked(reference, spec)
    layer = layers(spec, axis).to(x.device)
    count = spec.num_nodes // spec.shape[axis]
    total = x.new_zeros(*x.shape[:2], spec.shape[axis]).index_add(2, layer, x.square().mean(dim=-1))
    return (total / count).sqrt()


def layers(spec: LatticeSpec, axis: int) -> Tensor:
    """Return each cell's coordinate along the axis 0, 1 or 2, LongTensor [N].

    Raises:
        ValueError: The axis is none of the three.
    """
    if axis not in (0, 1, 2):
        raise ValueError(f"axis is 0, 1 or 2 for x, y or z. Received {axis!r}. Write axis=2 for the layers of z.")
    return coordinates(spec)[:, axis]


def arrival_step(activity: Tensor, threshold: float = 0.0) -> Tensor:
    """Return the first step at which each layer's activity exceeds the threshold, −1 where it never does.

    Args:
        activity: From `layer_activity`, of what a signal caused.
        threshold: In the state's units, at least 0.

    Shapes:
        activity [T + 1, B, L] → LongTensor [B, L].

    Raises:
        ValueError: The threshold is below 0 or the shape is another.
    """
    if activity.dim() != 3 or not threshold >= 0:
        raise ValueError(
            "Arrival is read from activities [T + 1, B, L] with a threshold of at least 0. Received the shape "
            f"{tuple(activity.shape)} and {threshold!r}. Give layer_activity's result and a level such as 1e-6."
        )
    above = activity > threshold
    return torch.where(above.any(dim=0), above.to(torch.uint8).argmax(dim=0), -1)


def light_cone(spec: LatticeSpec, sources: Tensor, axis: int = 2) -> Tensor:
    """Return the earliest step at which a signal from the sources can be in each layer, LongTensor [L]; −1 if never.

    The least `latticegnn.lattice.hops` in each layer: no `arrival_step` of a rollout lies below it.

    Args:
        spec: The lattice.
        sources: Node ids [P], such as ``Ports(face="z-").nodes(spec)``.
        axis: 0, 1 or 2 for x, y or z.

    Raises:
        ValueError: The axis or a source does not exist.
    """
    layer, distance = layers(spec, axis), hops(spec, sources)
    far = spec.num_nodes
    earliest = torch.full((spec.shape[axis],), far).scatter_reduce(
        0, layer, torch.where(distance < 0, far, distance), "amin"
    )
    return torch.where(earliest == far, -1, earliest)


def autocorrelation(trajectory: Tensor, lags: int) -> Tensor:
    r"""Compute the autocorrelation in time, summed over cells and channels.

    .. math::
        r(\tau) = \frac{\sum_{t=0}^{T-\tau} \delta^{t+\tau} \cdot \delta^t}{\sum_{t=0}^{T} \|\delta^t\|^2},
        \qquad \delta^t = x^t - \langle x \rangle_t

    In [−1, 1] and r(0) = 1: the estimate that divides by all T + 1 states at every lag (Box and Jenkins, 1970). NaN for
    a sample that does not change, of which nothing can be said.

    Args:
        trajectory: The states.
        lags: The largest τ, in steps, 0…T.

    Shapes:
        trajectory [T + 1, B, N, F] → [lags + 1, B].

    Raises:
        ValueError: The trajectory is not sound or too short for the lags.
    """
    if lags < 0:
        raise ValueError(f"lags is the largest lag in steps, at least 0. Received {lags}. Write lags=10.")
    x = checked(trajectory, states=lags + 1).flatten(2)
    fluctuation = x - x.mean(dim=0)
    total = len(x)
    sums = [(fluctuation[lag:] * fluctuation[: total - lag]).sum(dim=(0, 2)) for lag in range(lags + 1)]
    return torch.stack(sums) / sums[0]


def participation_ratio(trajectory: Tensor, over: Samples = "time") -> Tensor:
    r"""Compute how many directions the states spread over: :math:`(\sum_j \lambda_j)^2 / \sum_j \lambda_j^2`.

    λ are the eigenvalues of a covariance. 1: all on a line; the number of directions where all weigh the same. NaN
    where nothing varies.

    Args:
        trajectory: The states.
        over: "time": the T + 1 states of a sample are the observations, its N·F numbers the variables, so the result is
            the dimension of its path, at most T. "cells": the N cells of one state are the observations, the F channels
            the variables, so the result says how many channels the cells make use of, at most F.

    Shapes:
        trajectory [T + 1, B, N, F] → [B] over time, [T + 1, B] over cells.

    Raises:
        ValueError: The trajectory is not sound, or ``over`` is neither.
    """
    if over not in get_args(Samples):
        raise ValueError(f"over is one of {', '.join(get_args(Samples))}. Received {over!r}. Write over='time'.")
    x = checked(trajectory)
    observations = x.flatten(2).transpose(0, 1) if over == "time" else x
    centred = observations - observations.mean(dim=-2, keepdim=True)
    if centred.shape[-2] < centred.shape[-1]:
        centred = centred.mT
    scatter = centred.mT @ centred  # the smaller of the two products: both have the same eigenvalues but for zeros
    return scatter.diagonal(dim1=-2, dim2=-1).sum(dim=-1).square() / scatter.square().sum(dim=(-1, -2))
