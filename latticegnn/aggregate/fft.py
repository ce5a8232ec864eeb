"""The fast Fourier transform over the three axes, PyTorch's own."""

from __future__ import annotations

import torch
from torch import Tensor

from latticegnn.aggregate.spectral import Part, Span, Transform


class FFT(Transform):
    """PyTorch's real fast Fourier transform over x, y and z.

    Open and absorbing axes are padded with zeros to a fast length, reflecting ones doubled by their mirror image.

    See `Transform` for the arguments. Spectra are complex, [C, X', Y', Z'/2 + 1].
    """

    def __init__(self, spans: list[Span], like: Tensor) -> None:
        super().__init__(spans, like)
        self._mirrors = [axis for axis, span in enumerate(spans, start=1) if span.boundary == "reflecting"]
        self._rings = tuple(
            (2 * span.length if axis in self._mirrors else span.needed) if span.whole else fast_length(span.needed)
            for axis, span in enumerate(spans, start=1)
        )
        self._cells = tuple(slice(0, span.length) for span in spans)
        self.size = self._rings[0] * self._rings[1] * (self._rings[2] + 2)

    def parts(self, row: int, axis: int | None) -> list[Part]:
        """Leave the functional whole: a complex spectrum holds both parities."""
        return [Part(row)]

    def response(self, part: Part, kernel: Tensor) -> Tensor:
        """Transform a kernel: [offsets of x, of y, of z] -> [X', Y', Z'/2 + 1]."""
        x, y, z = self._wrapped(kernel.device)
        ring = kernel.new_zeros(self._rings)
        ring[x[:, None, None], y[:, None], z] = kernel
        return torch.fft.rfftn(ring)

    def response_adjoint(self, part: Part, gradient: Tensor) -> Tensor:
        """Turn the spectrum of a correlation into its values at the offsets."""
        x, y, z = self._wrapped(gradient.device)
        return torch.fft.irfftn(gradient, self._rings)[x[:, None, None], y[:, None], z]

    def analyse(self, x: Tensor) -> Tensor:
        """Transform a state."""
        grid = self._grid(x)
        for axis in self._mirrors:
            grid = torch.cat([grid, grid.flip(axis)], dim=axis)
        return torch.fft.rfftn(grid, self._rings, dim=(1, 2, 3))

    def filtered(self, part: Part, spectrum: Tensor, response: Tensor) -> Tensor:
        """Correlate: multiply by the conjugate, since a kernel's offset points from the receiver to the source."""
        return self._cropped(spectrum * response.conj())

    def analyse_output(self, part: Part, g: Tensor) -> Tensor:
        """Transform an output's gradient, nothing beyond the lattice."""
        return torch.fft.rfftn(self._grid(g), self._rings, dim=(1, 2, 3))

    def add_filtered(self, total: Tensor | None, spectrum: Tensor, response: Tensor) -> Tensor:
        """Convolve: the transpose of correlating."""
        return spectrum.mul_(response) if total is None else total.addcmul_(spectrum, response)

    def response_gradient(self, spectrum: Tensor, output: Tensor) -> Tensor:
        """Correlate the state with the output's gradient, summed over the channels."""
        return (spectrum * output.conj()).sum(0)

    def restore(self, spectrum: Tensor) -> Tensor:
        """Transform back, the mirror images' part added to the cells'."""
        ring = torch.fft.irfftn(spectrum, self._rings, dim=(1, 2, 3))
        for axis in self._mirrors:
            cells, images = ring.chunk(2, dim=axis)
            ring = cells + images.flip(axis)
        return self._flat(ring)

    def _cropped(self, spectrum: Tensor) -> Tensor:
        return self._flat(torch.fft.irfftn(spectrum, self._rings, dim=(1, 2, 3)))

    def _grid(self, x: Tensor) -> Tensor:
        return x.t().reshape(-1, *(span.length for span in self.spans))

    def _flat(self, ring: Tensor) -> Tensor:
        return ring[(slice(None), *self._cells)].flatten(1).t()

    def _wrapped(self, device: torch.device) -> list[Tensor]:
        pairs = zip(self.spans, self._rings, strict=True)
        return [torch.arange(span.low, span.high + 1, device=device).remainder(ring) for span, ring in pairs]


def fast_length(needed: int) -> int:
    """Return the smallest length from ``needed`` on that has no prime factor above 7."""
    length = needed
    while True:
        rest = length
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 1
