"""The graph that a trained lattice makes of its own: its edges weighted by what the gate listens to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from latticegnn.analysis.trajectory import checked
from latticegnn.lattice import Tier, divisors_by_distance, to_networkx
from latticegnn.lattice.stencil import tiers_of
from latticegnn.model import LatticeModel
from latticegnn.nn import SoftTiers, silence

if TYPE_CHECKING:
    import networkx as nx

NOISE = 1e-6
"""Part of the strongest signal below which float32's rounding is all there is."""


@torch.no_grad()
def gate_course(model: LatticeModel, trajectory: Tensor) -> Tensor:
    r"""Compute the gate's weights at every step, averaged over rows: :math:`\langle g^k_{i,t} \rangle_b`.

    Args:
        model: The model.
        trajectory: Of its rollout; the gate of step k + 1 sees the state after step k, and none sees the last one.

    Shapes:
        trajectory [T + 1, B, N, F] → [T, N, 3], the tiers in their order, 0 for one without an expert; the three of a
        cell add up to 1.

    Raises:
        ValueError: The trajectory is not sound or has no step.
    """
    checked(trajectory, model.spec, states=2)
    columns = [int(Tier[name.upper()]) for name in model.cell.experts]
    course = trajectory.new_zeros(len(trajectory) - 1, model.spec.num_nodes, len(Tier))
    for step, state in enumerate(trajectory[:-1]):
        course[step][:, columns] = model.cell.gates(state).mean(dim=0)
    return course


def cell_statistics(trajectory: Tensor, reference: Tensor) -> dict[str, Tensor]:
    r"""Compute what the signal does in each cell: how strong it is, when it arrives, how much still moves at the end.

    With :math:`\delta^k_b = x^k_b - r^k`, what the inputs alone bring about, over T + 1 states, B rows and F channels,

    .. math::
        \text{activity}_i = \sqrt{\langle (\delta^k_{b,i,f})^2 \rangle_{k,b,f}}, \qquad
        \text{change}_i = \sqrt{\langle (x^T_{b,i,f} - x^{T-1}_{b,i,f})^2 \rangle_{b,f}},

    and ``arrival`` is the first step k at which :math:`\sqrt{\langle (\delta^k_{b,i,f})^2 \rangle_{b,f}}` exceeds a
    part `NOISE` of the largest in the trajectory, −1 where it never does.

    Args:
        trajectory: Of the rows.
        reference: Of a rollout that is told nothing, a zero embedding.

    Shapes:
        trajectory [T + 1, B, N, F], reference [T + 1, 1, N, F] → ``activity`` and ``change`` float64 [N], ``arrival``
        int64 [N].

    Raises:
        ValueError: A trajectory is not sound or has no step, or the reference has another shape.
    """
    x, r = checked(trajectory, states=2), checked(reference)
    if r.shape != (len(x), 1, *x.shape[2:]):
        raise ValueError(
            f"The reference is one row's rollout, {[len(x), 1, *x.shape[2:]]}. Received {list(r.shape)}. Roll a zero "
            "embedding out for as many steps."
        )
    power = (x - r).square().mean(dim=(1, 3))
    heard = power > NOISE**2 * power.max()
    return {
        "activity": power.mean(dim=0).sqrt(),
        "arrival": torch.where(heard.any(dim=0), heard.to(torch.uint8).argmax(dim=0), -1),
        "change": (x[-1] - x[-2]).square().mean(dim=(0, 2)).sqrt(),
    }


@torch.no_grad()
def effective_weights(model: LatticeModel, gates: Tensor) -> Tensor:
    r"""Compute how much of what cell i takes in comes from each neighbour j.

    .. math::
        w_{j \to i} = \sum_t g_{i,t} \, |a^t_{ij}|, \qquad \text{mean}^t_i = \sum_j a^t_{ij} x_j

    g is the weight that the receiving cell's gate gives tier t, a the part that the neighbour has in that tier's mean:
    one over the number of neighbours; with ``radial`` times the learned weight of the distance; with soft tiers the
    distance's membership over the memberships of all neighbours, and then an edge has a part in each tier. With hard
    tiers the sum has one term. Without ``radial`` the weights that arrive at a cell add up to the gates of the tiers it
    has neighbours in (the cell itself is one, in its local tier), less what an absorbing boundary takes: to 1 for most,
    so that they are a random walk's, against the signal.

    This says whom the gate listens to. It does not say what moves the state: the bypass carries signals past the gate,
    experts weigh what they hear, and an expert that works edge by edge need not take the mean at all.

    Args:
        model: The model.
        gates: Weights of the gate, such as the mean of `gate_course` over its steps [N, 3].

    Returns:
        Weights in the order of ``model.graph.edge_index`` [E].
    """
    distances, counts = divisors_by_distance(model.spec)
    squared = distances.square().round().long()
    tier = tiers_of(model.spec, squared)
    soft = model.cell.aggregator
    member = soft.membership().double() if isinstance(soft, SoftTiers) else one_hot(tier, len(Tier)).T.double()
    radial = torch.ones_like(distances)
    if model.cell.radial is not None:
        radial[torch.isin(tier, torch.tensor([int(t) for t in model.cell.reaching]))] = model.cell.radial.double().abs()
    total = counts.double() @ member.T
    share = torch.where(total > 0, gates.double() / total, 0.0)
    of_distance = share @ (member * radial)
    shell = torch.searchsorted(squared, model.graph.edge_offset.square().sum(dim=1))
    return of_distance[model.graph.edge_index[1], shell].to(gates.dtype)


@torch.no_grad()
def effective_graph(model: LatticeModel, inputs: Tensor, steps: int | None = None) -> nx.DiGraph:
    """Return the lattice as a networkx graph with what a rollout of some rows does in it.

    Edges carry ``weight``, see `effective_weights`, for the gate's mean over rows and steps. Nodes carry that mean as
    ``gate`` (three numbers: local, functional, distant), ``state``, the last one averaged over rows, and ``activity``,
    ``arrival`` and ``change``, see `cell_statistics`; beside what `to_networkx` gives.

    Args:
        model: The model, in evaluation mode.
        inputs: Embeddings [B, D], or token ids [B, L]; all states of all of them are held at once.
        steps: Of the rollout, the model's own by default, at least 1.

    Raises:
        ValueError: For embeddings of another dimension, no step, or states that are not finite.
    """
    count = model.steps if steps is None else steps
    rows = torch.cat([inputs, silence(inputs, model.tokens)])
    trajectory = model.rollout(rows, count, trajectory=True).trajectory
    assert trajectory is not None
    told, reference = trajectory[:, :-1], trajectory[:, -1:]
    gates = gate_course(model, told).mean(dim=0)
    return to_networkx(
        model.graph,
        told[-1].mean(dim=0),
        {"gate": gates} | cell_statistics(told, reference),
        {"weight": effective_weights(model, gates)},
    )
