"""Translation-invariant sums as products in a transformed space, whichever transform: no edges, no matrix of cells."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latticegnn.aggregate.aggregator import Aggregator
from latticegnn.aggregate.memory import require
from latticegnn.aggregate.moments import Moments
from latticegnn.lattice import node_grid
from latticegnn.lattice.spec import Boundary

#: Numbers of the spectrum of one chunk of channels, what a processor's own cache holds; at least so many channels.
_CHUNK, _COLUMNS = 1 << 19, 4


@dataclass(frozen=True)
class Span:
    """One lattice axis: n cells, and the offsets low … high at which a functional looks along it.

    Zero-padded to n + max(high, −low), an open or absorbing axis does not see its own far end when it is treated as a
    ring; a reflecting one is half of a ring of 2n cells.
    """

    length: int
    boundary: Boundary
    low: int
    high: int

    @property
    def whole(self) -> bool:
        """Whether the axis has as many frequencies as cells, and none to spare."""
        return self.boundary in ("periodic", "reflecting")

    @property
    def needed(self) -> int:
        """The fewest frequencies with which the convolution is exact."""
        return self.length if self.whole else self.length + max(self.high, -self.low)


@dataclass(frozen=True)
class Part:
    """A share of one functional's kernel that a transform makes diagonal: its row, and its parity along each axis."""

    row: int
    odd: tuple[bool, bool, bool] = (False, False, False)


def spans_of(moments: Moments) -> list[Span]:
    """Return the axes x, y and z with the offsets that occur along each."""
    offsets = torch.cat([moments.kernel.offsets, torch.zeros(1, 3, dtype=torch.long)])
    low, high = offsets.amin(0).tolist(), offsets.amax(0).tolist()
    return [Span(*axis) for axis in zip(moments.spec.shape, moments.spec.boundaries, low, high, strict=True)]


class Transform(ABC):
    """A pair of linear maps, states to spectra and back, between which the lattice's sums are elementwise products.

    States are [N, C] in raster order; spectra have whatever layout suits the transform. A kernel is a grid of weights,
    one for each offset of the three spans.

    Args:
        spans: The axes x, y and z.
        like: A tensor of the dtype and device to work in.
    """

    size: int
    """Numbers that a spectrum of one channel holds."""

    def __init__(self, spans: list[Span], like: Tensor) -> None:
        self.spans = spans

    @abstractmethod
    def parts(self, row: int, axis: int | None) -> list[Part]:
        """Split a functional, a mean or the moment along one axis, into what this transform makes diagonal."""

    @abstractmethod
    def response(self, part: Part, kernel: Tensor) -> Tensor:
        """Transform a kernel."""

    @abstractmethod
    def response_adjoint(self, part: Part, gradient: Tensor) -> Tensor:
        """Turn a gradient by the response into one by the kernel."""

    @abstractmethod
    def analyse(self, x: Tensor) -> Tensor:
        """Transform a state."""

    @abstractmethod
    def filtered(self, part: Part, spectrum: Tensor, response: Tensor) -> Tensor:
        """Multiply a state's spectrum by a part's response and transform back: [N, C]."""

    @abstractmethod
    def analyse_output(self, part: Part, g: Tensor) -> Tensor:
        """Apply the transpose of the way back to a part's output [N, C]."""

    @abstractmethod
    def add_filtered(self, total: Tensor | None, spectrum: Tensor, response: Tensor) -> Tensor:
        """Add an output's spectrum times its response to a sum, in place; None begins one."""

    @abstractmethod
    def response_gradient(self, spectrum: Tensor, output: Tensor) -> Tensor:
        """Differentiate by a response, given the spectra of a state and of an output's gradient."""

    @abstractmethod
    def restore(self, spectrum: Tensor) -> Tensor:
        """Apply the transpose of `analyse`: [N, C]."""


@dataclass(frozen=True)
class _Tables:
    """What one dtype and device need."""

    transform: Transform
    parts: list[Part]
    scale: list[Tensor]
    weight: Tensor
    responses: list[Tensor] | None


class SpectralAggregator(Aggregator):
    r"""Neighbourhood functionals as convolutions: transform the state once, multiply, transform each functional back.

    A functional's unnormalised sum is the same at every cell, :math:`\sum_o k_r(o)\, x_{i+o}`, and so diagonal in
    Fourier space once open axes are padded with zeros and reflecting ones continued by their mirror image; the division
    by the cell's degree follows. Exact to rounding, with O(N) tables, whatever the radius. Distance weights enter the
    kernel, whose transform is then remade on each call, and their gradient is read off the product of two spectra that
    the backward has anyway.

    Channels are worked on in chunks whose spectra stay in the processor's cache. Tables are made once for each dtype
    and device the state arrives in.

    Args:
        moments: The functionals.
        backend: The backend's name.
        transform: "fft" and "dft" differ in this alone.

    Shapes:
        - input: state, nodes first, [N, B, F]; with distance weights also [S]
        - output: [R, N, B, F]

    Raises:
        ValueError: For a graph whose edges or numbering are not its spec's, or when the tables do not fit in memory.
    """

    def __init__(self, moments: Moments, backend: str, transform: type[Transform]) -> None:
        super().__init__(moments)
        self.backend = backend
        if moments.edges is not None:
            raise ValueError(
                f"backend '{backend}' sums over the neighbours that the spec defines; got a graph with other edges or "
                f"another numbering than its spec's, {len(moments.edges.source):,} edges; use backend: sparse, or edge."
            )
        self._moments, self._transform = moments, transform
        self._tables: dict[tuple[torch.dtype, torch.device], _Tables] = {}
        self._spans = spans_of(moments)
        numbers = self.count * math.prod(2 * span.needed for span in self._spans)
        require(3 * numbers, backend, moments, f"{self.count} spectra")
        raster = moments.spec.order == "raster"
        self.ids: Tensor | None
        self.register_buffer("ids", None if raster else node_grid(moments.spec).reshape(-1), persistent=False)

    def _product(self, x: Tensor, weights: Tensor | None) -> Tensor:
        tables, responses = self._prepare(x, weights)
        out = x.new_empty(self.count, self.num_nodes, x.shape[1])
        for chunk in self._chunks(tables, x):
            spectrum = tables.transform.analyse(self._raster(x[:, chunk]))
            begun = -1
            for part, response in zip(tables.parts, responses, strict=True):
                found, place = tables.transform.filtered(part, spectrum, response), out[part.row, :, chunk]
                if self.ids is not None:
                    found = torch.empty_like(found).index_copy_(0, self.ids, found)
                if part.row == begun:
                    place.addcmul_(found, tables.scale[part.row])
                else:
                    torch.mul(found, tables.scale[part.row], out=place)
                begun = part.row
        return out

    def _transposed(self, g: Tensor, weights: Tensor | None) -> Tensor:
        return self._backward(None, g, weights)[0]

    def _slopes(self, x: Tensor, g: Tensor) -> Tensor:
        return self._backward(x, g, x.new_ones(self.shells))[1]

    def _gradients(self, x: Tensor, g: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        return self._backward(x, g, weights)

    def _backward(self, x: Tensor | None, g: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        """Transform each output's gradient once, for the state's gradient and, given a state, for the weights'."""
        tables, responses = self._prepare(g, weights)
        transform, out = tables.transform, g.new_zeros(g.shape[1:])
        slopes: list[Tensor | None] = [None] * len(responses)
        for chunk in self._chunks(tables, g):
            spectrum = None if x is None else transform.analyse(self._raster(x[:, chunk]))
            total = None
            for k, (part, response) in enumerate(zip(tables.parts, responses, strict=True)):
                scaled = self._raster(g[part.row, :, chunk] * tables.scale[part.row])
                output = transform.analyse_output(part, scaled)
                if spectrum is not None:
                    slope, before = transform.response_gradient(spectrum, output), slopes[k]
                    slopes[k] = slope if before is None else before.add_(slope)
                total = transform.add_filtered(total, output, response)
            if total is not None:
                found = transform.restore(total)
                out[:, chunk] = found if self.ids is None else torch.empty_like(found).index_copy_(0, self.ids, found)
        return out, self._by_shell(tables, slopes, g)

    def _by_shell(self, tables: _Tables, slopes: list[Tensor | None], like: Tensor) -> Tensor:
        """Sum the responses' gradients over the offsets of each distance."""
        out = like.new_zeros(self.shells)
        place, shell = self._places(), self._moments.kernel.shell.to(like.device)
        for part, slope in zip(tables.parts, slopes, strict=True):
            if slope is not None:
                grid = tables.transform.response_adjoint(part, slope)
                out.index_add_(0, shell, grid[place] * tables.weight[part.row])
        return out

    def _prepare(self, like: Tensor, weights: Tensor | None) -> tuple[_Tables, list[Tensor]]:
        """Return the tables for a dtype and device, and the responses for the distance weights."""
        key = (like.dtype, like.device)
        if key not in self._tables:
            self._tables[key] = self._build(like)
        tables = self._tables[key]
        if tables.responses is not None:
            return tables, tables.responses
        assert weights is not None
        kernel = tables.weight * weights.detach()[self._moments.kernel.shell.to(like.device)]
        return tables, self._responses(tables.transform, tables.parts, kernel)

    def _build(self, like: Tensor) -> _Tables:
        kernel, rows, reciprocals = self._moments.kernel, self._moments.rows, self._moments.reciprocals()
        transform = self._transform(self._spans, like)
        parts = [part for r, (_, axis) in enumerate(rows) for part in transform.parts(r, axis)]
        scales = {tier: column.to(like).unsqueeze(1) for tier, column in reciprocals.items()}
        responses = None
        if not self.radial:
            double = self._transform(self._spans, torch.empty(0, dtype=torch.float64))
            exact = self._responses(double, parts, kernel.weight)
            complex_type = like.to(torch.complex64 if like.dtype == torch.float32 else torch.complex128).dtype
            responses = [r.to(like.device, complex_type if r.is_complex() else like.dtype) for r in exact]
        return _Tables(transform, parts, [scales[tier] for tier, _ in rows], kernel.weight.to(like), responses)

    def _responses(self, transform: Transform, parts: list[Part], kernel: Tensor) -> list[Tensor]:
        """Transform the kernels [R, K]."""
        place, sides = self._places(), [span.high - span.low + 1 for span in self._spans]
        found = []
        for part in parts:
            grid = kernel.new_zeros(sides)
            grid[place] = kernel[part.row]
            found.append(transform.response(part, grid))
        return found

    def _places(self) -> tuple[Tensor, ...]:
        offsets = self._moments.kernel.offsets
        return tuple(offsets[:, axis] - span.low for axis, span in enumerate(self._spans))

    def _raster(self, x: Tensor) -> Tensor:
        return x if self.ids is None else x[self.ids]

    def _chunks(self, tables: _Tables, x: Tensor) -> Iterator[slice]:
        width = x.shape[-1]
        step = max(_COLUMNS, _CHUNK // tables.transform.size)
        return (slice(start, min(width, start + step)) for start in range(0, width, step))

    def __getstate__(self) -> dict[str, Any]:
        """Leave the tables out of copies and pickles; they are remade at the first use."""
        return self.__dict__ | {"_tables": {}}
