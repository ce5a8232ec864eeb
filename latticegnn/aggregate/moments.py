"""What is summed over a tier's neighbours, before any backend decides how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch_geometric.data import Data

from latticegnn.lattice import Tier

Moment = Literal["mean", "gradient"]
COMPONENTS: dict[str, int] = {"mean": 1, "gradient": 3}


@dataclass(frozen=True)
class Moments:
    r"""R linear functionals of every cell's neighbourhood, as one sparse matrix of shape [R·N, N].

    For a tier t with neighbours :math:`\mathcal{N}_t(i)` and :math:`o_{ij} = p_j - p_i` (the source seen from the
    receiver, minimum image on periodic axes)

    .. math::
        \text{mean}_i = \frac{1}{|\mathcal{N}_t(i)|} \sum_{j} x_j, \qquad
        \text{gradient}_{i,a} = \frac{1}{|\mathcal{N}_t(i)|} \sum_{j} o_{ij,a} \, x_j, \quad a \in \{x, y, z\}.

    Row ``r·N + i`` holds functional r of cell i. A cell without neighbours in the tier gets zeros. Values are kept in
    float64, so that a backend asked for double precision is exact to rounding.

    Args:
        source: Column of every entry, a cell id. Shape [M].
        row: Row of every entry, ``r·N + i``. Shape [M].
        value: Weight of every entry, float64. Shape [M].
        count: R.
        num_nodes: N.
    """

    source: Tensor
    row: Tensor
    value: Tensor
    count: int
    num_nodes: int


def tier_moments(graph: Data, functionals: Sequence[tuple[Tier, Moment]]) -> Moments:
    """Collect the requested functionals of a lattice graph.

    Args:
        graph: A lattice graph, as `build_graph` makes it: ``edge_index``, ``edge_tier`` and ``edge_offset`` are read.
        functionals: Pairs of tier and moment; "mean" gives one row a cell, "gradient" three, in this order.

    Returns:
        The functionals, stacked.
    """
    nodes = int(graph.num_nodes)
    sources, rows, values = [], [], []
    count = 0
    for tier, moment in functionals:
        chosen = graph.edge_tier == int(tier)
        source, target = graph.edge_index[:, chosen]
        weight = 1.0 / torch.bincount(target, minlength=nodes).to(torch.float64)[target]
        if moment == "mean":
            columns = weight.unsqueeze(1)
        else:
            columns = weight.unsqueeze(1) * graph.edge_offset[chosen].to(torch.float64)
        for column in columns.unbind(1):
            kept = column != 0
            sources.append(source[kept])
            rows.append(target[kept] + count * nodes)
            values.append(column[kept])
            count += 1
    if count == 0:
        empty = torch.zeros(0, dtype=torch.long)
        return Moments(empty, empty, empty.to(torch.float64), 0, nodes)
    return Moments(torch.cat(sources), torch.cat(rows), torch.cat(values), count, nodes)
