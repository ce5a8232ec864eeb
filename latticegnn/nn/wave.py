"""Waves: the propagation mode of second order in time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from latticegnn.lattice import LatticeSpec
from latticegnn.nn.dynamics import Cell, Dynamics, Linear, Memory, bounded, coupling_limit, number
from latticegnn.nn.exchange import laplacian


class Wave(Dynamics):
    r"""Waves, second order in time, by damped leapfrog.

    .. math::
        x_i^{k+1} = \mathrm{inner}(x^k)_i + (1 - \gamma)(x_i^k - x_i^{k-1})
                    + c^2 \big(1 - \tfrac{\gamma}{2}\big) \sum_{j \sim i} (x_j^k - x_i^k)

    What the inner mode changes acts as a force. This is the central scheme
    :math:`\delta_t^2 x + g\,(x^{k+1} - x^{k-1}) = c^2 \Delta x` solved for :math:`x^{k+1}`, g = γ/(2 − γ): c is the
    speed of long waves in cells a step, γ the part of the velocity lost in a step. A plane wave of wave vector θ keeps
    :math:`\sin^2(\omega / 2) = c^2 \sum_a \sin^2(\theta_a / 2)` without damping. The memory is the state before; a
    rollout starts at rest. No wall lets a wave out: it comes back upright from an open or reflecting boundary, a free
    end (Neumann) half a cell beyond the last cell, and upside down from an absorbing one, a fixed end (Dirichlet) one
    cell beyond it. "Absorbing" names what diffusion and transport lose there; to soak up a wave, take ``damping``.

    **Stability** (Courant, Friedrichs & Lewy, 1928): c < 2/√λ, λ as in `Diffusion`, whatever the damping: the factors
    z of a mode of eigenvalue μ solve :math:`z^2 - (2 - \gamma)(1 - c^2 \mu / 2) z + 1 - \gamma = 0`, and lie in the
    unit disc as long as c²μ ≤ 4. 1/√3 for a cube of even periodic sides. At the bound itself the undamped jagged mode
    grows with k, and so, at any speed, does the mean of a state that does not start at rest, unless an absorbing
    boundary restores it.
    A `Diffusion` of rate D shares the bound: c² + D/(q (1 − γ/2)) < 4/λ. Refused beside a wave are `Directional`, whose
    complex eigenvalues make undamped motion grow at any strength; a second wave, which would add its momentum; and
    `Stochastic` firing of anything but the cell itself, which pumps energy into waves.

    Args:
        spec: The lattice.
        speed: c, in cells a step, in (0, `bound`).
        damping: γ, in [0, 1]; at 1 no velocity is kept.
        inner: The mode inside.

    Attributes:
        bound: What the speed must stay below, given what is inside.

    Raises:
        ValueError: A setting lies outside of its bounds, or the inner mode cannot be a force; from a step: the memory
            is not the state before.
    """

    def __init__(self, spec: LatticeSpec, speed: float, damping: float = 0.0, inner: Dynamics | None = None) -> None:
        super().__init__(inner, spec)
        within = self.inner.linear
        self.damping = number("damping", damping)
        if not 0 <= self.damping <= 1:
            raise ValueError(
                f"damping is the part of a wave's velocity lost in a step, 0 to 1; got {damping}; 0 keeps all of it."
            )
        for wrong, what in (
            (within.courant, "Directional transport"),
            (within.momentum, "another Wave"),
            (not within.steady, "Stochastic firing of a term"),
        ):
            if wrong:
                raise ValueError(
                    f"a wave needs forces that a second-order step keeps bounded; got {what} inside; "
                    "take it out (Stochastic may hold Plain alone)."
                )
        self.laplacian = laplacian(spec)
        limit = coupling_limit(spec, 1.0) - within.coupling / (1 - self.damping / 2)
        self.bound = math.sqrt(max(0.0, limit))
        self.speed = bounded("speed", speed, self.bound, True, "the wave's most jagged part", within)
        if self.speed == 0:
            raise ValueError("a wave's speed must be above 0; got 0; leave the mode out for a state without waves.")
        self.linear = Linear(within.coupling + self._stiffness, 0.0, 1 - self.damping)

    @property
    def _stiffness(self) -> float:
        return self.speed**2 * (1 - self.damping / 2)

    def start(self, x: Tensor) -> Memory:
        """Start at rest: the state before is the state."""
        return (x, *self.inner.start(x))

    def rest(self, memory: Memory, x: Tensor, changed: Tensor) -> Memory:
        """Take what was changed for the state before, too: neither it nor its velocity comes back."""
        previous, *inner = self._remembered(x, memory)
        return (torch.where(changed, x, previous), *self.inner.rest(tuple(inner), x, changed))

    def forward(self, cell: Cell, x: Tensor, memory: Memory, at: int) -> tuple[Tensor, Memory]:
        """Take a step of the inner mode, keep the velocity and add the wave's force."""
        previous, *rest = self._remembered(x, memory)
        out, inner = self.inner(cell, x, tuple(rest), at)
        out = out + (1 - self.damping) * (x - previous) + self._stiffness * self.laplacian(x)
        return out, (x, *inner)

    def energy(self, x: Tensor, memory: Memory) -> Tensor:
        r"""Return each sample's discrete energy [B], which leapfrog alone, without damping and cell, conserves.

        .. math::
            E^k = \tfrac12 \|x^k - x^{k-1}\|^2 + \tfrac{c^2}{2} \sum_{i \sim j} (x_i^k - x_j^k)(x_i^{k-1} - x_j^{k-1})

        It is positive below the stability bound, and damping takes
        :math:`E^k - E^{k+1} = \tfrac{\gamma}{2 (2 - \gamma)} \|x^{k+1} - x^{k-1}\|^2`.
        """
        previous = self._remembered(x, memory)[0]
        kinetic = (x - previous).square()
        return (kinetic - self.speed**2 * x * self.laplacian(previous)).sum(dim=(1, 2)) / 2

    def _remembered(self, x: Tensor, memory: Memory) -> Memory:
        if not memory or memory[0].shape != x.shape:
            got = f"a memory of shape {list(memory[0].shape)}" if memory else "an empty memory"
            raise ValueError(
                f"a wave's step needs the state before it, of shape {list(x.shape)}; got {got}; begin with "
                "mode.start(x) and pass on what each step returns."
            )
        return memory
