r"""Propagation modes: what one step makes of the cell's update.

A mode takes the cell, a state and what it remembers, and returns the next two; it keeps nothing itself::

    mode = Diffusion(spec, rate=0.2, inner=Wave(spec, speed=0.4, damping=0.1))
    memory = mode.start(x)
    for at in range(steps):
        x, memory = mode(cell, x, memory, at)

Modes nest. Each adds one term to what its inner mode makes of the same state,

.. math::
    x^{k+1} = \mathrm{Cell}(x^k) + \sum_{\text{modes}} \mathrm{term}(x^k, x^{k-1}),

so their order does not matter, and a step reaches as far as its furthest part. Only `Stochastic` acts on all that it
holds, and on nothing outside; the constraints, `Bounded` and `Wall`, have the last word and are the outermost. A
stability bound is that of all nested terms together, the cell taken as the identity: a learned update can still grow
on its own.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import ClassVar

from torch import Tensor, nn

from latticegnn.lattice import LatticeSpec, Ports
from latticegnn.lattice.spec import RELATIVE_TOLERANCE
from latticegnn.nn.exchange import FaceExchange, face_offset, laplacian, largest_eigenvalue, most_faces, port_axis

Cell = Callable[[Tensor], Tensor]
Memory = tuple[Tensor, ...]


@dataclass(frozen=True)
class Linear:
    r"""The nested terms of a stack, :math:`m (x^k - x^{k-1}) + \kappa \sum_j (x_j - x_i) + \text{transport}`.

    Args:
        coupling: κ, on the differences to the face neighbours.
        courant: Sum of the transport's weights, the Courant number.
        momentum: m, the velocity kept from one step to the next.
        steady: Whether every step has the same coupling and transport, which random firing undoes.
    """

    coupling: float = 0.0
    courant: float = 0.0
    momentum: float = 0.0
    steady: bool = True


class Dynamics(nn.Module, ABC):
    """A propagation mode: one step of a state, given the cell.

    Args:
        inner: The mode this one adds its term to; `Plain` by default.
        spec: The lattice, for modes that know one.

    Shapes:
        - input: cell (any map [B, N, F] -> [B, N, F]), state [B, N, F], memory (a tuple of tensors,
          samples first), at (the step's number, ≥ 0)
        - output: the next state [B, N, F], and the next memory

    Attributes:
        constrains: Whether what a step gives must be left as it is, so that only another constraint may wrap the mode.
        linear: What this mode and those inside add together, on which the bounds of further modes rest.

    Raises:
        ValueError: ``inner`` is no mode, one of another lattice, or a constraint that this mode would undo.
    """

    constrains: ClassVar[bool] = False
    inner: Dynamics
    linear: Linear
    spec: LatticeSpec | None

    def __init__(self, inner: Dynamics | None, spec: LatticeSpec | None = None) -> None:
        super().__init__()
        inner = Plain() if inner is None else inner
        if not isinstance(inner, Dynamics):
            raise ValueError(
                f"a mode wraps another mode; got {type(inner).__name__} as inner; wrap Plain(), and give the cell with "
                "each step: mode(cell, x, memory, at)."
            )
        if inner.constrains and not self.constrains:
            raise ValueError(
                f"a constraint has the last word, and {type(self).__name__} would act after it; got "
                f"{type(inner).__name__} inside; name bounded and wall after all other modes."
            )
        self.inner = inner
        self.spec = inner.spec if spec is None else spec
        if inner.spec not in (None, self.spec):
            raise ValueError(
                f"nested modes share one lattice; got {inner.spec} inside {self.spec}; build all of them from the same "
                "LatticeSpec."
            )

    def start(self, x: Tensor) -> Memory:
        """Return what the mode remembers before its first step from this state."""
        return self.inner.start(x)

    def rest(self, memory: Memory, x: Tensor, changed: Tensor) -> Memory:
        """Return the memory where some numbers of the state were changed from outside: these go on at rest.

        Args:
            memory: What the step gave.
            x: The state as it was changed [B, N, F].
            changed: Which of its numbers were, bool [B, N, F].
        """
        return self.inner.rest(memory, x, changed)

    @abstractmethod
    def forward(self, cell: Cell, x: Tensor, memory: Memory, at: int) -> tuple[Tensor, Memory]:
        """Take step number ``at``."""


class Plain(Dynamics):
    r"""The cell and nothing else: :math:`x^{k+1} = \mathrm{Cell}(x^k)`.

    It adds no term and so has no bound of its own.

    Raises:
        ValueError: From a step: the cell returns another shape.
    """

    def __init__(self) -> None:
        nn.Module.__init__(self)  # the innermost mode: it wraps none
        self.linear, self.spec = Linear(), None

    def start(self, x: Tensor) -> Memory:
        """Remember nothing."""
        return ()

    def rest(self, memory: Memory, x: Tensor, changed: Tensor) -> Memory:
        """Remember nothing still."""
        return memory

    def forward(self, cell: Cell, x: Tensor, memory: Memory, at: int) -> tuple[Tensor, Memory]:
        """Apply the cell."""
        out = cell(x)
        if out.shape != x.shape:
            raise ValueError(
                f"a cell must return the state's shape; got {list(out.shape)} for {list(x.shape)}; "
                "set its output width to F."
            )
        return out, memory


class Diffusion(Dynamics):
    r"""Diffusion between face neighbours, by explicit Euler steps.

    .. math::
        x_i^{k+1} = \mathrm{inner}(x^k)_i + \frac{D}{q} \sum_{j \sim i} (x_j^k - x_i^k)

    q is the most face neighbours a cell has (6 in a cube): inside the lattice the term is D·(mean of the face
    neighbours − state), and a neighbour missing beyond an open or reflecting boundary counts as the cell itself (zero
    flux, Neumann), beyond an absorbing one as zero (Dirichlet). This is the symmetric graph Laplacian, not the mean
    over the neighbours there are: it conserves the sum over all cells, less what absorbing faces take, and its spectrum
    is known in closed form, for which the bound is exact. The diffusivity is D/q cells² a step.

    **Stability**: D ≤ 2q/λ, with λ the Laplacian's largest eigenvalue (`exchange.largest_eigenvalue`): a mode of
    eigenvalue μ is multiplied by 1 − Dμ/q, of magnitude ≤ 1 for all μ ≤ λ (LeVeque, 2007, ch. 9). D ≤ 1 for even
    periodic sides, a little more for other ones (1.04 for an open 8³, 1.03 for an absorbing one). The Dirichlet energy
    :math:`\sum_{i \sim j} (x_i - x_j)^2`, the zeros beyond absorbing faces included, never grows below it, whatever
    cells fire. Diffusions add up; around or inside a `Wave`, Dλ/q adds to its c²λ(1 − γ/2); with `Directional`, D +
    Courant number ≤ 1, beyond which a maximum can grow.

    Args:
        spec: The lattice.
        rate: D, in [0, `bound`].
        inner: The mode inside.

    Attributes:
        bound: The largest rate, given what is inside.

    Raises:
        ValueError: The rate lies outside of the bound.
    """

    def __init__(self, spec: LatticeSpec, rate: float, inner: Dynamics | None = None) -> None:
        super().__init__(inner, spec)
        self.faces = max(1, most_faces(spec))
        self.laplacian = laplacian(spec)
        within = self.inner.linear
        if within.courant:
            self.bound = max(0.0, 1 - within.courant - self.faces * within.coupling)
        else:
            self.bound = max(0.0, self.faces * (coupling_limit(spec, within.momentum) - within.coupling))
        self.rate = bounded("rate", rate, self.bound, within.momentum == 1, "the state's most jagged part", within)
        self.linear = Linear(within.coupling + self.rate / self.faces, within.courant, within.momentum, within.steady)

    def forward(self, cell: Cell, x: Tensor, memory: Memory, at: int) -> tuple[Tensor, Memory]:
        """Take a step of the inner mode and diffuse."""
        out, memory = self.inner(cell, x, memory, at)
        return out + self.rate / self.faces * self.laplacian(x), memory


class Directional(Dynamics):
    r"""Transport along an axis: messages between face neighbours, weighted by their alignment with it.

    .. math::
        x_i^{k+1} = \mathrm{inner}(x^k)_i + s \sum_{j \sim i} \max(0, a \cdot (p_i - p_j)) (x_j^k - x_i^k)

    a is the unit axis, p the cells' places: the first-order upwind scheme (Courant, Isaacson & Rees, 1952). A pulse
    moves by s·a cells a step, and its variance along an axis grows by s|a_d|(1 − s|a_d|). A cell without a neighbour
    upstream, on an open or reflecting boundary, keeps its value: a signal laid on the input face is carried in as a
    front. Beyond an absorbing boundary upstream lies zero, which is carried in instead.

    **Stability** (Courant, Friedrichs & Lewy, 1928; LeVeque, 2007, ch. 10): s ≤ 1/Σ|a_d| over the axes with more than
    one cell. Up to it each new value is a mean of old ones, so no maximum can grow; beyond it one can, in one step. On
    a torus whose sides share a factor, such as a cube, a mode then grows without limit; on an open lattice, short of
    Courant number 2, it grows for as long as the way through the lattice takes (Trefethen & Embree, 2005). Transports
    add up, and `Diffusion` adds its rate: D + Courant number ≤ 1. Beside a `Wave` it is refused, see there.

    Args:
        spec: The lattice.
        axis: Direction (x, y, z) of any length above 0; `between` takes it from ports.
        strength: s, the speed in cells a step, in [0, `bound`].
        inner: The mode inside.

    Attributes:
        axis: a, of length 1.
        bound: The largest strength, given what is inside.

    Raises:
        ValueError: The strength lies outside of the bound, the axis leads nowhere, or a wave is inside.
    """

    def __init__(
        self, spec: LatticeSpec, axis: Sequence[float], strength: float, inner: Dynamics | None = None
    ) -> None:
        super().__init__(inner, spec)
        within = self.inner.linear
        if within.momentum:
            raise ValueError(
                "transport needs a state of first order in time; got Directional around a Wave, whose undamped "
                "motion it makes grow at any strength; take one of the two."
            )
        self.axis = _unit(axis)
        # The message at offset o comes from p_j - p_i = o, so it moves along -o.
        weights = {
            face_offset(d, -1 if part > 0 else 1): abs(part)
            for d, part in enumerate(self.axis)
            if part and spec.shape[d] > 1
        }
        if not weights:
            raise ValueError(
                f"an axis must lead along a side of at least 2 cells; got {self.axis} in the shape {spec.shape}; "
                "turn it, or lengthen that side."
            )
        self.upwind = FaceExchange(spec, weights)
        slope = sum(weights.values())
        self.bound = max(0.0, 1 - within.courant - most_faces(spec) * within.coupling) / slope
        self.strength = bounded("strength", strength, self.bound, False, "a maximum", within)
        self.linear = Linear(within.coupling, within.courant + self.strength * slope, 0.0, within.steady)

    @classmethod
    def between(
        cls, spec: LatticeSpec, inputs: Ports, outputs: Ports, strength: float, inner: Dynamics | None = None
    ) -> Directional:
        """Build the mode along the way from the input ports' mean place to the output ports'."""
        return cls(spec, port_axis(spec, inputs, outputs), strength, inner)

    def forward(self, cell: Cell, x: Tensor, memory: Memory, at: int) -> tuple[Tensor, Memory]:
        """Take a step of the inner mode and transport."""
        out, memory = self.inner(cell, x, memory, at)
        return out + self.strength * self.upwind(x), memory


def coupling_limit(spec: LatticeSpec, momentum: float) -> float:
    """Return the largest stable κ beside momentum m: κλ = 2(1 + m), where the most jagged mode's factor reaches −1."""
    largest = largest_eigenvalue(spec)
    return 2 * (1 + momentum) / largest if largest else math.inf


def number(name: str, value: float) -> float:
    """Return a setting as a float, or raise ValueError for anything but a finite number."""
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number; got {value!r}; write {name}=0.1, for example.")
    return float(value)


def bounded(name: str, value: float, bound: float, strict: bool, grows: str, within: Linear) -> float:
    """Return a setting in [0, bound], or [0, bound) where strict; raise ValueError beyond it."""
    value = number(name, value)
    allowed = value < bound if strict else value <= bound * (1 + RELATIVE_TOLERANCE)
    if value < 0 or not allowed:
        shown = math.floor(bound * 1e6) / 1e6
        beside = "" if within == Linear() else " beside the modes inside"
        raise ValueError(
            f"{name} must be at least 0 and {'below' if strict else 'at most'} {shown:g} on this lattice{beside}: "
            f"beyond it {grows} grows from step to step; got {value:g}; choose a {name} within the bound."
        )
    return value


def _unit(axis: Sequence[float]) -> tuple[float, float, float]:
    parts = [number("axis", part) for part in axis] if isinstance(axis, (list, tuple)) else []
    length = math.hypot(*parts)
    if len(parts) != 3 or not length:
        raise ValueError(f"an axis is three numbers x, y and z, not all 0; got {axis!r}; write (0, 0, 1) for z.")
    return (parts[0] / length, parts[1] / length, parts[2] / length)
