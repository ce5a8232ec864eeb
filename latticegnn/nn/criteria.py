r"""When a sample has settled: criteria on consecutive states, each sample judged by itself.

A criterion is a number :math:`m^k` that falls as a sample comes to rest, held against a tolerance,

.. math::
    m^k \le \tau \qquad \text{or, adaptive,} \qquad m^k \le \tau \max_{j \le k} m^j,

where the adaptive one asks by which factor the sample has calmed down since its liveliest step, whatever its scale.
Criteria keep nothing themselves: what they remember is handed on from step to step, one row a sample, so that samples
can leave at any time. A number that is not finite never satisfies: a rollout that diverges does not settle.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from latticegnn.lattice import LatticeSpec
from latticegnn.nn.dynamics import Memory, number
from latticegnn.nn.exchange import laplacian

Norm = Literal["rms", "max"]


class Criterion(nn.Module, ABC):
    """Says of each sample after each step whether it has settled.

    Args:
        tolerance: τ, > 0; below 1 where it is adaptive.
        adaptive: Whether τ counts in the largest number that the sample has shown so far, this step included.

    Attributes:
        remembers: How many tensors its memory holds.

    Shapes:
        - input: state after a step [B, N, F]; memory, tensors of B rows; taken, the steps so far, ≥ 1
        - output: settled [B], bool, and the next memory

    Raises:
        ValueError: For a tolerance out of range.
    """

    remembers = 2

    def __init__(self, tolerance: float, adaptive: bool = False) -> None:
        super().__init__()
        self.tolerance, self.adaptive = number("tolerance", tolerance), adaptive
        if self.tolerance <= 0 or (adaptive and self.tolerance >= 1):
            raise ValueError(
                f"a tolerance must be above 0, and below 1 where it is adaptive; got {tolerance} with adaptive "
                f"{adaptive}; 0.01 is a start."
            )

    def start(self, x: Tensor) -> Memory:
        """Return what is remembered before the first step from this state."""
        return (x.new_zeros(len(x)), *self.begin(x))

    def forward(self, x: Tensor, memory: Memory, taken: int) -> tuple[Tensor, Memory]:
        """Judge the state after a step."""
        peak, *own = memory
        measure, kept = self.measure(x, tuple(own), taken)
        peak = torch.fmax(peak, measure)
        limit = self.tolerance * peak if self.adaptive else torch.full_like(peak, self.tolerance)
        return (measure <= limit) & limit.isfinite(), (peak, *kept)

    @abstractmethod
    def begin(self, x: Tensor) -> Memory:
        """Return the criterion's own part of the memory at the first state."""

    @abstractmethod
    def measure(self, x: Tensor, memory: Memory, taken: int) -> tuple[Tensor, Memory]:
        """Compute the number of each sample [B], and its own part of the next memory."""


class Absolute(Criterion):
    r"""The change of a step, in the state's units.

    .. math::
        m^k = \sqrt{\langle (x^k_{if} - x^{k-1}_{if})^2 \rangle_{i, f}} \quad \text{(rms)} \qquad \text{or} \qquad
        m^k = \max_{i, f} |x^k_{if} - x^{k-1}_{if}| \quad \text{(max)}

    Args:
        tolerance: In the state's units.
        adaptive: See `Criterion`.
        norm: "rms", or "max" for the cell and channel that change most.

    Raises:
        ValueError: For an unknown norm.
    """

    def __init__(self, tolerance: float = 1e-3, adaptive: bool = False, norm: Norm = "rms") -> None:
        super().__init__(tolerance, adaptive)
        if norm not in get_args(Norm):
            raise ValueError(f"norm must be one of {', '.join(get_args(Norm))}; got {norm!r}; choose one of them.")
        self.norm = norm

    def begin(self, x: Tensor) -> Memory:
        """Remember the state."""
        return (x,)

    def measure(self, x: Tensor, memory: Memory, taken: int) -> tuple[Tensor, Memory]:
        """Compute the change."""
        moved = (x - memory[0]).flatten(1)
        return (moved.abs().amax(dim=1) if self.norm == "max" else moved.square().mean(dim=1).sqrt()), (x,)


class Relative(Criterion):
    r"""The change of a step against the state: :math:`m^k = \|x^k - x^{k-1}\| / \max(\|x^k\|, \|x^{k-1}\|)`.

    In [0, 2], free of scale; 0 where nothing moves. With the step as the function whose fixed point is sought, this is
    the relative residual by which deep equilibrium models end their iteration (Bai, Kolter & Koltun, 2019).

    Args:
        tolerance: See `Criterion`.
        adaptive: See `Criterion`.
    """

    def __init__(self, tolerance: float = 1e-3, adaptive: bool = False) -> None:
        super().__init__(tolerance, adaptive)

    def begin(self, x: Tensor) -> Memory:
        """Remember the state."""
        return (x,)

    def measure(self, x: Tensor, memory: Memory, taken: int) -> tuple[Tensor, Memory]:
        """Compute the relative change."""
        now, before = x.flatten(1), memory[0].flatten(1)
        return _ratio((now - before).norm(dim=1), torch.maximum(now.norm(dim=1), before.norm(dim=1))), (x,)


class Energy(Criterion):
    r"""The relative change of the energy :math:`E^k = \langle (x^k_{if})^2 \rangle_{i, f}`.

    .. math::
        m^k = |E^k - E^{k-1}| / \max(E^k, E^{k-1})

    In [0, 1], free of scale. A state that moves without growing or fading, such as a travelling wave, satisfies it.

    Args:
        tolerance: See `Criterion`.
        adaptive: See `Criterion`.
    """

    def __init__(self, tolerance: float = 1e-3, adaptive: bool = False) -> None:
        super().__init__(tolerance, adaptive)

    def begin(self, x: Tensor) -> Memory:
        """Remember the energy."""
        return (self.energy(x),)

    def measure(self, x: Tensor, memory: Memory, taken: int) -> tuple[Tensor, Memory]:
        """Compute the relative change of the energy."""
        now = self.energy(x)
        return _ratio((now - memory[0]).abs(), torch.maximum(now, memory[0])), (now,)

    def energy(self, x: Tensor) -> Tensor:
        """Compute each sample's mean square: [B, N, F] -> [B]."""
        return x.square().mean(dim=(1, 2))


class SpatialGradient(Criterion):
    r"""The relative change of the mean squared difference between face neighbours.

    .. math::
        G^k = \frac{1}{|E|} \sum_{(i, j) \in E} \|x^k_i - x^k_j\|^2, \qquad m^k = |G^k - G^{k-1}| / \max(G^k, G^{k-1})

    E are the pairs of cells that share a face, each once. In [0, 1], free of scale. A pattern whose roughness stands
    still satisfies it, whether or not its place does.

    Args:
        spec: The lattice.
        tolerance: See `Criterion`.
        adaptive: See `Criterion`.

    Raises:
        ValueError: For a lattice of a single cell.
    """

    def __init__(self, spec: LatticeSpec, tolerance: float = 1e-3, adaptive: bool = False) -> None:
        super().__init__(tolerance, adaptive)
        if spec.num_nodes < 2:
            raise ValueError(
                f"differences between neighbours need two cells or more; got the shape {spec.shape}; use another "
                "criterion."
            )
        self.exchange = laplacian(spec)
        sources = self.exchange.sources
        self.ends = int((sources != torch.arange(spec.num_nodes)).sum())  # 2|E|: each pair is seen from both ends

    def begin(self, x: Tensor) -> Memory:
        """Remember the mean squared difference."""
        return (self.roughness(x),)

    def measure(self, x: Tensor, memory: Memory, taken: int) -> tuple[Tensor, Memory]:
        """Compute the relative change of the mean squared difference."""
        now = self.roughness(x)
        return _ratio((now - memory[0]).abs(), torch.maximum(now, memory[0])), (now,)

    def roughness(self, x: Tensor) -> Tensor:
        """Compute each sample's G: [B, N, F] -> [B]."""
        total = x.new_zeros(len(x))
        for source in self.exchange.sources:
            total = total + (x.index_select(1, source) - x).square().sum(dim=(1, 2))
        return total / self.ends


class Statistical(Criterion):
    r"""Whether mean and variance of the states have stopped drifting over a sliding window of w states.

    The window's earlier half is held against its later one, as Geweke (1992) holds the early part of a Markov chain
    against its late one. With μ and σ² the means and variances of each channel over all cells and states of a half,
    and q = μ² + σ²,

    .. math::
        m^k = \max\left( \frac{\|\mu_2 - \mu_1\|}{\sqrt{\tfrac12 \sum_f (q_{1f} + q_{2f})}}, \;
                         \frac{\sum_f |\sigma^2_{2f} - \sigma^2_{1f}|}{\sum_f (\sigma^2_{1f} + \sigma^2_{2f})} \right)

    In [0, 2], free of scale. It asks for a steady distribution, not a steady state: cycles and travelling patterns
    that keep their distribution satisfy it. Until w states are there, the first one included, nothing does.

    Args:
        window: w, even, ≥ 4.
        tolerance: See `Criterion`.
        adaptive: See `Criterion`.

    Raises:
        ValueError: For a window that cannot be halved.
    """

    def __init__(self, window: int = 8, tolerance: float = 1e-2, adaptive: bool = False) -> None:
        super().__init__(tolerance, adaptive)
        if not isinstance(window, int) or window < 4 or window % 2:
            raise ValueError(
                f"window must be an even number of states, at least 4, for two halves; got {window!r}; 8 is the "
                "default."
            )
        self.window = window

    def begin(self, x: Tensor) -> Memory:
        """Remember the moments of each channel over the cells; of the states before, NaN."""
        missing = x.new_full((len(x), self.window - 1, 2, x.shape[2]), torch.nan)
        return (torch.cat([missing, self._moments(x)], dim=1),)

    def measure(self, x: Tensor, memory: Memory, taken: int) -> tuple[Tensor, Memory]:
        """Compute the drift of mean and variance over the window."""
        moments = torch.cat([memory[0][:, 1:], self._moments(x)], dim=1)
        half = moments.unflatten(1, (2, -1)).mean(dim=2)  # [B, 2, 2, F]: earlier and later, mean and mean square
        mean, square = half.unbind(dim=2)
        variance = (square - mean.square()).clamp_min(0)
        shift = _ratio(mean.diff(dim=1).norm(dim=(1, 2)), (square.sum(dim=(1, 2)) / 2).sqrt())
        spread = _ratio(variance.diff(dim=1).abs().sum(dim=(1, 2)), variance.sum(dim=(1, 2)))
        return torch.maximum(shift, spread), (moments,)

    def _moments(self, x: Tensor) -> Tensor:
        return torch.stack([x.mean(dim=1), x.square().mean(dim=1)], dim=1).unsqueeze(1)


class Combined(Criterion):
    r"""Whether at least ``at_least`` of several criteria are satisfied in the same step.

    Its number is how many are not: :math:`m^k = n - \sum_c [m_c^k \le \tau_c]`, held against :math:`n -` ``at_least``.

    Args:
        criteria: n criteria, two or more.
        at_least: How many must agree, 1 … n.

    Raises:
        ValueError: For fewer than two criteria, or a number out of range.
    """

    def __init__(self, criteria: Sequence[Criterion], at_least: int = 2) -> None:
        count = len(criteria)
        if count < 2 or not isinstance(at_least, int) or not 1 <= at_least <= count:
            raise ValueError(
                f"at_least criteria, 1 or more, must agree of two or more; got at_least {at_least!r} of {count}; name "
                "more criteria, or ask for fewer."
            )
        super().__init__(count - at_least + 0.5)  # between two whole numbers
        self.criteria = nn.ModuleList(criteria)
        self.remembers = 1 + sum(part.remembers for part in criteria)

    def begin(self, x: Tensor) -> Memory:
        """Remember what the parts do."""
        return tuple(tensor for part in self.criteria for tensor in part.start(x))  # type: ignore[operator]

    def measure(self, x: Tensor, memory: Memory, taken: int) -> tuple[Tensor, Memory]:
        """Count the criteria that are not satisfied."""
        missing, first = x.new_full((len(x),), len(self.criteria)), 0
        kept: Memory = ()
        for part in self.criteria:
            last = first + int(part.remembers)  # type: ignore[arg-type]
            settled, own = part(x, memory[first:last], taken)
            missing, kept, first = missing - settled.to(x.dtype), (*kept, *own), last
        return missing, kept


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Divide; nothing of nothing is nothing."""
    return torch.where(part == 0, part, part / whole)
