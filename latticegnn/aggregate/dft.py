"""The discrete Fourier transform of each axis as one dense matrix product, which a processor does at its full rate."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from latticegnn.aggregate.product import linear
from latticegnn.aggregate.spectral import Part, Span, Transform


class DFT(Transform):
    r"""The real Fourier transform along x, y and z: three matrix products there, three back.

    In the orthonormal basis of cosines and sines on a ring of L cells, a kernel that is even along an axis multiplies
    both by its cosine transform, and one that is odd by its sine transform, turning cosines into sines:

    .. math::
        \sum_o k(o) \cos\theta(i+o) = \hat k_c \cos\theta i - \hat k_s \sin\theta i, \qquad
        \sum_o k(o) \sin\theta(i+o) = \hat k_c \sin\theta i + \hat k_s \cos\theta i.

    A mean is even along all three axes and a first moment odd along its own, so each is one real, diagonal product
    between an analysis and a synthesis. (On an even periodic axis that is seen all round, the offset n/2 stands alone,
    and a moment has an even part too.) A reflecting axis has the cosines of the DCT-II alone (Strang, 1999), even about
    its walls: :math:`\cos\theta(i + \frac12)`, θ = πk/n for k < n, with the same two equations. An L-point transform as
    a product costs more operations than a fast one, 2·L a cell, but they run an order of magnitude faster; and each
    product moves the next axis into place, so nothing is transposed in between.

    See `Transform` for the arguments. A state's spectrum is [C, X', Y', Z'], as the way back wants it; an output's is
    [X', Y', Z', C], as the products leave it.
    """

    def __init__(self, spans: list[Span], like: Tensor) -> None:
        super().__init__(spans, like)
        bases = [_bases(span) for span in spans]
        self._even, self._odd, self._cosine, self._sine = (
            [basis.to(like) for basis in column] for column in zip(*bases, strict=True)
        )
        self.size = math.prod(span.needed for span in spans)

    def parts(self, row: int, axis: int | None) -> list[Part]:
        """Give a mean its even part and a moment its odd one, with what the offset n/2 leaves."""
        even = Part(row)
        if axis is None:
            return [even]
        span = self.spans[axis]
        odd = Part(row, (axis == 0, axis == 1, axis == 2))
        return [odd, even] if span.boundary == "periodic" and 2 * span.high == span.length else [odd]

    def response(self, part: Part, kernel: Tensor) -> Tensor:
        """Transform a kernel: [offsets of x, of y, of z] -> [X', Y', Z']."""
        return self._rotate(kernel, [self._sine[a] if part.odd[a] else self._cosine[a] for a in range(3)])

    def response_adjoint(self, part: Part, gradient: Tensor) -> Tensor:
        """Turn [X', Y', Z'] into [offsets of x, of y, of z]."""
        return self._rotate(gradient, [(self._sine[a] if part.odd[a] else self._cosine[a]).t() for a in range(3)])

    def analyse(self, x: Tensor) -> Tensor:
        """Transform a state: [N, C] -> [C, X', Y', Z']."""
        return self._analyse(x, self._even).movedim(-1, 0).contiguous()

    def filtered(self, part: Part, spectrum: Tensor, response: Tensor) -> Tensor:
        """Multiply and transform back: [C, X', Y', Z'] -> [N, C]."""
        return self._synthesise(spectrum * response, self._outward(part))

    def analyse_output(self, part: Part, g: Tensor) -> Tensor:
        """Transpose of the way back: [N, C] -> [X', Y', Z', C]."""
        return self._analyse(g, self._outward(part))

    def add_filtered(self, total: Tensor | None, spectrum: Tensor, response: Tensor) -> Tensor:
        """Add ``spectrum · response``; the spectrum may be overwritten."""
        response = response.unsqueeze(-1)
        return spectrum.mul_(response) if total is None else total.addcmul_(spectrum, response)

    def response_gradient(self, spectrum: Tensor, output: Tensor) -> Tensor:
        """Sum the product over the channels: [X', Y', Z']."""
        return (spectrum.movedim(0, -1) * output).sum(-1)

    def restore(self, spectrum: Tensor) -> Tensor:
        """Transform back: [X', Y', Z', C] -> [N, C]."""
        return self._synthesise(spectrum.movedim(-1, 0).contiguous(), self._even)

    def _outward(self, part: Part) -> list[Tensor]:
        return [self._odd[a] if part.odd[a] else self._even[a] for a in range(3)]

    def _analyse(self, x: Tensor, bases: list[Tensor]) -> Tensor:
        sides = [span.length for span in self.spans]
        return self._rotate(x.t().contiguous().view(-1, *sides), bases)

    def _synthesise(self, spectrum: Tensor, bases: list[Tensor]) -> Tensor:
        return self._rotate(spectrum, [basis.t() for basis in bases]).flatten(0, 2)

    def _rotate(self, data: Tensor, matrices: list[Tensor]) -> Tensor:
        """Multiply the last axis and make it the first, three times: [..., x, y, z] -> [X', Y', Z', ...]."""
        for matrix in reversed(matrices):
            data = linear(matrix, data.flatten(0, -2)).view(-1, *data.shape[:-1])
        return data


def _bases(span: Span) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return one axis' analysis for even and for odd kernels, [L, n] each, and the kernels' [L, offsets]; float64."""
    if span.boundary == "reflecting":
        return _mirrored_bases(span)
    size = span.needed
    frequency = torch.cat([torch.arange(size // 2 + 1), torch.arange(1, (size + 1) // 2)]).unsqueeze(1)
    sine = (torch.arange(size) > size // 2).unsqueeze(1)

    def angle(place: Tensor) -> Tensor:
        return (frequency * place % size).double() * (2 * math.pi / size)  # whole turns dropped while still exact

    cells, offsets = angle(torch.arange(span.length)), angle(torch.arange(span.low, span.high + 1))
    norm = torch.where((frequency == 0) | (2 * frequency == size), 1.0, 2.0).double().div(size).sqrt()
    even = norm * torch.where(sine, cells.sin(), cells.cos())
    odd = norm * torch.where(sine, cells.cos(), -cells.sin())
    return even, odd, offsets.cos(), offsets.sin()


def _mirrored_bases(span: Span) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the same for a reflecting axis: the orthonormal DCT-II basis, and its cosines turned into sines."""
    size = span.length
    frequency = torch.arange(size).unsqueeze(1)

    def angle(twice: Tensor) -> Tensor:
        return (frequency * twice % (4 * size)).double() * (math.pi / (2 * size))

    cells, offsets = angle(2 * torch.arange(size) + 1), angle(2 * torch.arange(span.low, span.high + 1))
    norm = torch.where(frequency == 0, 1.0, 2.0).double().div(size).sqrt()
    return norm * cells.cos(), -norm * cells.sin(), offsets.cos(), offsets.sin()
