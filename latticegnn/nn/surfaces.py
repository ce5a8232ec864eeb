"""Between ports and cells: what lies behind the input ports and before the output ports."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from latticegnn.lattice import LatticeSpec, Ports, coordinates
from latticegnn.nn.routing import ZoneRouter
from latticegnn.nn.soft_ports import SoftPorts


class InputSurface(nn.Module):
    """From the states of the input ports to those of their cells: routed by zone, or spread by learned ports.

    Any other placement has a cell for each port, and nothing is changed.

    Args:
        spec: The lattice.
        ports: The input ports.
        embedding_dim: D, for the router.

    Shapes:
        - input: states [B, P, F], embedding [B, D]
        - output: states [B, M, F], M cells in the order of `Ports.nodes`
    """

    def __init__(self, spec: LatticeSpec, ports: Ports, embedding_dim: int) -> None:
        super().__init__()
        zone = ports.zones(spec)
        self.router = None if zone is None else ZoneRouter(embedding_dim, zone)
        self.soft = _soft(spec, ports)

    def forward(self, states: Tensor, embedding: Tensor) -> Tensor:
        """Lay the ports' states on their cells."""
        if self.router is not None:
            states = self.router(states, embedding).to(states.dtype)
        return states if self.soft is None else self.soft.write(states)


class OutputSurface(nn.Module):
    r"""From the states of the output ports' cells to those of the ports, and how many of the ports are read.

    With ``prefixes``, a training pass draws one of them uniformly from torch's generator, and reads so many ports, the
    first ones of the placement's order; the numbers of all others are zero:

    .. math::
        \hat c_p = [\,p < k\,]\; c_p, \qquad k \sim U(\text{prefixes})

    Nested dropout (Rippel, Gelbart & Adams, 2014) over a few lengths, as in Matryoshka representations (Kusupati et
    al., 2022, who sum over the lengths in place of drawing one): the same decoder then serves every length.

    Args:
        spec: The lattice.
        ports: The output ports.
        prefixes: Rising numbers of ports, the last one P; none to read all ports always.

    Shapes:
        - input: states [B, M, F]
        - output: states [B, P, F]

    Raises:
        ValueError: For prefixes that are no such numbers, or whose ports have no order.
    """

    def __init__(self, spec: LatticeSpec, ports: Ports, prefixes: Sequence[int] | None = None) -> None:
        super().__init__()
        self.ports, self.ordered = ports.count(spec), ports.ordered
        self.prefixes = [self.ports] if prefixes is None else list(prefixes)
        self.soft = _soft(spec, ports)
        whole = all(isinstance(k, int) for k in self.prefixes)
        if not whole or self.prefixes != sorted(set(self.prefixes)) or self.prefixes[-1:] != [self.ports]:
            raise ValueError(
                f"prefixes must be rising whole numbers of output ports that end with all of them, {self.ports}; got "
                f"{self.prefixes}; write for example prefixes: {_halves(self.ports)}."
            )
        for count in self.prefixes:
            self._check(count)

    def forward(self, states: Tensor) -> Tensor:
        """Give the ports' states."""
        return states if self.soft is None else self.soft.read(states)

    def keep(self, read: Tensor, count: int | None = None) -> Tensor:
        """Zero what was read beyond the first ports.

        Args:
            read: Numbers of all ports, those of a port side by side [B, P] or [B, P·F].
            count: Ports to keep, 1 … P; by default all, or a prefix that is drawn in training.

        Raises:
            ValueError: When there are not so many ports, or they have no order.
        """
        if count is None:
            draws = self.training and len(self.prefixes) > 1
            count = self.prefixes[int(torch.randint(len(self.prefixes), ()))] if draws else self.ports
        self._check(count)
        if count == self.ports:
            return read
        kept = torch.arange(self.ports, device=read.device) < count
        return read * kept.repeat_interleave(read.shape[1] // self.ports)

    def _check(self, count: int) -> None:
        if not isinstance(count, int) or not 1 <= count <= self.ports:
            raise ValueError(
                f"the ports to read must be a whole number from 1 to {self.ports}, all there are; got {count!r}; take "
                "one of these."
            )
        if count < self.ports and not self.ordered:
            raise ValueError(
                f"only ports in an order have first ones to read; got {count} of {self.ports} ports whose placement "
                "has none; write outputs: {placement: nested}."
            )


def _soft(spec: LatticeSpec, ports: Ports) -> SoftPorts | None:
    if ports.learned is None:
        return None
    cells = coordinates(spec)[ports.nodes(spec)]
    return SoftPorts(cells, cells[: ports.learned.count], ports.learned.width)


def _halves(count: int) -> list[int]:
    return [count] if count == 1 else [*_halves(count // 2), count][-4:]
