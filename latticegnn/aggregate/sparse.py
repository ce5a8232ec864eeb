"""CSR products with a hand-written backward: the same numbers as the edge list, without a tensor of messages."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latticegnn.aggregate.aggregator import Aggregator
from latticegnn.aggregate.memory import require
from latticegnn.aggregate.moments import Moments

#: Bytes for one entry while the tables are made: column, two values and the parts they are joined from.
_BYTES = 24
#: Ranges of cells whose tables stay sliced.
_KEPT = 1024
#: From this many entries a row on, states of more numbers than these are worked on in slices of at least so many
#: channels.
_DENSE_ROWS, _CACHED, _COLUMNS = 24, 1 << 17, 32


@dataclass(frozen=True)
class _Pattern:
    """Where the entries of one functional stand, or those of one distance in it."""

    row: int
    group: int
    bounds: Tensor
    columns: Tensor

    @classmethod
    def of(cls, row: int, group: int, lengths: Tensor, columns: list[Tensor], device: torch.device) -> _Pattern:
        bounds = torch.cat([lengths.new_zeros(1), lengths.cumsum(0, dtype=torch.int32)])
        return cls(row, group, bounds.to(device), torch.cat(columns).to(device))


class SparseAggregator(Aggregator):
    r"""Neighbourhood functionals as sparse matrix products, forward and backward.

    Each functional is one CSR matrix [N, N] with 32-bit indices (PyTorch copies longer ones on every product), built
    in row order from the stencil; a cell seen at several offsets of a row, as beside a reflecting boundary, has as many
    entries there, which add up. The lattice is symmetric, so the transposed matrix has the same pattern: forward and
    backward share their indices and differ in the values alone, those of the transpose being made when a gradient is
    first asked for. Accumulating one product a functional is also faster than one product with the stacked transpose.
    With distance weights there is a matrix for each functional and distance, and one pass over them in the backward
    gives both gradients.

    Tables are made once for each dtype and device the state arrives in.

    Args:
        moments: The functionals.

    Shapes:
        - input: state, nodes first, [N, B, F]; with distance weights also [S]
        - output: [R, N, B, F]

    Raises:
        ValueError: When the tables do not fit in memory.
    """

    backend = "sparse"

    def __init__(self, moments: Moments) -> None:
        super().__init__(moments)
        entries = int(moments.entry_counts().sum())
        require(table_bytes(moments), self.backend, moments, f"{entries:,} entries")
        self._moments = moments
        self._density = entries / max(1, self.count * self.num_nodes)
        self._patterns: dict[torch.device, list[_Pattern]] = {}
        self._matrices: dict[tuple[bool, torch.dtype, torch.device], list[Tensor]] = {}
        self._slices: dict[tuple[torch.dtype, torch.device, int, int], list[Tensor]] = {}

    def _product(self, x: Tensor, weights: Tensor | None) -> Tensor:
        chunks, parts = self._chunks(x.shape[1]), list(self.parts(False, x, weights))
        out = x.new_empty(self.count, self.num_nodes, x.shape[1])
        for chunk in chunks:
            columns = x[:, chunk].contiguous()
            found = out if len(chunks) == 1 else out.new_empty(self.count, *columns.shape)
            _multiply(found, columns, parts)
            if found is not out:
                out[:, :, chunk] = found
        return out

    @torch.no_grad()
    def by_cells(self, x: Tensor, weights: Tensor | None = None) -> Callable[[int, int], Tensor]:
        """Return what gives the functionals of some cells, see `Aggregator.by_cells`, holding nothing for others."""
        if len(self._chunks(x.shape[1] * x.shape[2])) > 1:
            return super().by_cells(x, weights)
        columns, parts = x.detach().flatten(1), list(self.parts(False, x, self._checked(weights, x)))

        def some(first: int, last: int) -> Tensor:
            key = (x.dtype, x.device, first, last)
            if key not in self._slices:
                if len(self._slices) >= _KEPT:
                    self._slices.clear()
                self._slices[key] = [_rows(matrix, first, last) for _, _, matrix in parts]
            out = x.new_empty(self.count, last - first, columns.shape[1])
            sliced = zip(parts, self._slices[key], strict=True)
            _multiply(out, columns, [(part, scale, matrix) for (part, scale, _), matrix in sliced])
            return out.unflatten(2, x.shape[1:])

        return some

    def _transposed(self, g: Tensor, weights: Tensor | None) -> Tensor:
        chunks = self._chunks(g.shape[2])
        out = g.new_empty(g.shape[1:])
        for chunk in chunks:
            columns = g[:, :, chunk].contiguous().unbind(0)
            total = out.zero_() if len(chunks) == 1 else out.new_zeros(out[:, chunk].shape)
            for part, scale, matrix in self.parts(True, g, weights):
                torch.addmm(total, matrix, columns[part.row], alpha=scale, out=total)
            if total is not out:
                out[:, chunk] = total
        return out

    def _slopes(self, x: Tensor, g: Tensor) -> Tensor:
        return self._gradients(x, g, x.new_ones(self.shells))[1]

    def _gradients(self, x: Tensor, g: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        out, slopes = torch.zeros_like(x), x.new_zeros(self.shells)
        for chunk in self._chunks(x.shape[1]):
            state, columns, total = x[:, chunk].contiguous(), g[:, :, chunk].contiguous().unbind(0), out[:, chunk]
            for shell, matrices in itertools.groupby(self.parts(True, g, weights), lambda item: item[0].group):
                back = torch.zeros_like(state)
                for part, _, matrix in matrices:
                    torch.addmm(back, matrix, columns[part.row], out=back)
                slopes[shell] += torch.dot(back.view(-1), state.view(-1))
                total.addcmul_(back, weights[shell])
        return out, slopes

    def _chunks(self, width: int) -> list[slice]:
        """Cut the channels where a cell has so many neighbours that reading them from afar costs more than copies do.

        A product of few entries a row is best done on all channels at once.
        """
        step = max(_COLUMNS, _CACHED // self.num_nodes) if self._density >= _DENSE_ROWS else max(1, width)
        return [slice(start, min(width, start + step)) for start in range(0, max(1, width), step)]

    def parts(self, transposed: bool, like: Tensor, weights: Tensor | None) -> Iterator[tuple[_Pattern, float, Tensor]]:
        """Yield each matrix with the functional it belongs to and its distance weight, in the order of distances."""
        key = (transposed, like.dtype, like.device)
        if key not in self._matrices:
            self._matrices[key] = self._build(*key)
        scales = None if weights is None else weights.tolist()
        for part, matrix in zip(self._patterns[like.device], self._matrices[key], strict=True):
            yield part, 1.0 if scales is None else scales[part.group], matrix

    def __getstate__(self) -> dict[str, Any]:
        """Leave the products' matrices out of copies and pickles: CSR tensors have no storage to copy."""
        return self.__dict__ | {"_patterns": {}, "_matrices": {}, "_slices": {}}

    def _build(self, transposed: bool, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        """Make the matrices of one direction, and on first use the pattern that both directions share."""
        moments, kernel = self._moments, self._moments.kernel
        reciprocals, key = moments.reciprocals(), kernel.shell if moments.radial else kernel.tier
        groups = [(g, r) for r, (tier, _) in enumerate(moments.rows) for g in key[kernel.tier == int(tier)].unique()]
        names = [(r, g) for g, r in sorted((int(g), r) for g, r in groups)]
        values: dict[tuple[int, int], list[Tensor]] = {name: [] for name in names}
        columns: dict[tuple[int, int], list[Tensor]] = {name: [] for name in names}
        lengths = {name: torch.zeros(self.num_nodes, dtype=torch.int32) for name in names}
        known = device in self._patterns
        for target, source, there, back in moments.blocks():
            if len(target) == 0:
                continue
            first, group, which = int(target[0]), key[there], back if transposed else there
            for g, members in itertools.groupby(names, lambda name: name[1]):
                alike = (group == g).nonzero().squeeze(1)
                for r, _ in members:
                    weight = kernel.weight[r][which[alike]]
                    chosen, weight = alike[weight != 0], weight[weight != 0]
                    degree_of = source[chosen] if transposed else target[chosen]
                    values[r, g].append((weight * reciprocals[moments.rows[r][0]][degree_of]).to(dtype))
                    if not known:
                        columns[r, g].append(source[chosen].int())
                        counts = torch.bincount(target[chosen] - first).int()
                        lengths[r, g][first : first + len(counts)] += counts
        if not known:
            self._patterns[device] = [_Pattern.of(*name, lengths[name], columns.pop(name), device) for name in names]
        return [
            _matrix(part.bounds, part.columns, torch.cat(values.pop(name)).to(device), self.num_nodes)
            for name, part in zip(names, self._patterns[device], strict=True)
        ]


def _matrix(bounds: Tensor, columns: Tensor, values: Tensor, width: int) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
        size = (len(bounds) - 1, width)
        return torch.sparse_csr_tensor(bounds, columns, values, size, check_invariants=False)


def _rows(matrix: Tensor, first: int, last: int) -> Tensor:
    """Return some rows of a matrix; columns and values are its own."""
    bounds = matrix.crow_indices()[first : last + 1]
    start, end = int(bounds[0]), int(bounds[-1])
    return _matrix(bounds - start, matrix.col_indices()[start:end], matrix.values()[start:end], matrix.shape[1])


def _multiply(out: Tensor, x: Tensor, parts: Sequence[tuple[_Pattern, float, Tensor]]) -> None:
    """Write each functional's product into its row of out [R, cells, C]."""
    rows, begun = out.unbind(0), set()
    for part, scale, matrix in parts:
        row = rows[part.row]
        torch.addmm(row, matrix, x, beta=int(part.row in begun), alpha=scale, out=row)
        begun.add(part.row)
    for r in set(range(len(out))) - begun:
        rows[r].zero_()


def table_bytes(moments: Moments) -> int:
    """Estimate the bytes that the tables of both directions take at most while they are made."""
    return _BYTES * int(moments.entry_counts().sum()) + 12 * max(1, moments.shells) * moments.count * moments.num_nodes
