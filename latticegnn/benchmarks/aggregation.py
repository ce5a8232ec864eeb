"""What the aggregation backends take, against PyG and against each other, and whether "auto" takes the right one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from latticegnn.aggregate import Aggregator, Moment, aggregator, choose, tier_moments
from latticegnn.aggregate.dense import table_bytes
from latticegnn.benchmarks.measure import cpu_milliseconds
from latticegnn.lattice import LatticeSpec, Tier

CANDIDATES = ("sparse", "dense", "fft", "dft")
_DENSE_BYTES, _FFT_NUMBERS = 1 << 29, 600_000  # beyond these the two are far behind, and only cost time
_BOTH: tuple[Moment, ...] = ("mean", "gradient")


@dataclass(frozen=True)
class Case:
    """A regime: a lattice, a state's size, and which moments of the functional and the distant tier are summed."""

    spec: LatticeSpec
    batch: int = 1
    channels: int = 32
    moments: tuple[Moment, ...] = _BOTH
    radial: bool = False

    @property
    def functionals(self) -> list[tuple[Tier, Moment]]:
        """The moments of both tiers."""
        return [(tier, moment) for tier in (Tier.FUNCTIONAL, Tier.DISTANT) for moment in self.moments]

    def __str__(self) -> str:
        size, reach = "×".join(map(str, self.spec.shape)), f"r {self.spec.max_radius:.3g}"
        marks = [m for m in (self.spec.boundary, "radial" if self.radial else "open") if m != "open"]
        what = "mean" if self.moments == ("mean",) else "mean, gradient"
        extent = "full" if self.spec.connectivity == "full" else reach
        return " ".join([size, extent, f"B{self.batch} F{self.channels}", f"({what})", *map(str, marks)])


@dataclass(frozen=True)
class Claim:
    """That the backend "auto" takes is at least so many times faster than a reference."""

    case: Case
    reference: str
    times: float
    quick: bool = True


def _lattice(*shape: int, radius: float | None = None, **settings: Any) -> LatticeSpec:
    radii = None if radius is None else (0.5, 0.65 * radius, radius)
    return LatticeSpec((shape[0], shape[1], shape[2]), radii=radii, **settings)


CLAIMS = (
    Claim(Case(_lattice(8, 8, 8), 32, 64), "edge", 4),
    Claim(Case(_lattice(16, 16, 16)), "edge", 25),
    Claim(Case(_lattice(8, 8, 8, connectivity="full")), "edge", 40),
    Claim(Case(_lattice(27, 27, 27), moments=("mean",)), "segment", 40, quick=False),
    Claim(Case(_lattice(37, 37, 37), moments=("mean",)), "sparse", 2, quick=False),
)

_FULL4, _FULL8 = _lattice(4, 4, 4, connectivity="full"), _lattice(8, 8, 8, connectivity="full")
QUICK = (
    Case(_lattice(4, 4, 4, radius=1.6), 32, 64),
    Case(_FULL4, 32, 64),
    Case(_lattice(8, 8, 8)),
    Case(_lattice(8, 8, 8, radius=3)),
    Case(_FULL8),
    Case(_lattice(16, 16, 16)),
    Case(_lattice(16, 16, 16, boundary="periodic")),
    Case(_lattice(16, 16, 16), radial=True),
)
GRID = (
    *QUICK,
    Case(_FULL4, 32, 64, radial=True),
    Case(_lattice(8, 8, 8), 32, 64),
    Case(_lattice(8, 8, 8), 32, 64, radial=True),
    Case(_lattice(8, 8, 8, radius=3), 32, 64),
    Case(_lattice(8, 8, 8, radius=4), 32, 64),
    Case(_lattice(8, 8, 8, radius=4), 32, 64, radial=True),
    Case(_FULL8, 32, 64),
    Case(_FULL8, moments=("mean",)),
    Case(_FULL8, radial=True),
    Case(_FULL8, 32, 64, radial=True),
    Case(_lattice(4, 4, 64, radius=3)),
    Case(_lattice(32, 16, 8, radius=3), 8),
    Case(_lattice(16, 16, 16, radius=1.6), 8),
    Case(_lattice(16, 16, 16), 8),
    Case(_lattice(16, 16, 16), 8, radial=True),
    Case(_lattice(27, 27, 27, radius=1.6)),
    Case(_lattice(27, 27, 27, radius=3.2)),
    Case(_lattice(27, 27, 27)),
    Case(_lattice(27, 27, 27), radial=True),
    Case(_lattice(37, 37, 37, radius=1.6)),
    Case(_lattice(37, 37, 37, radius=3.2)),
    Case(_lattice(37, 37, 37, radius=1.6), radial=True),
    Case(_lattice(37, 37, 37)),
)


def candidates(case: Case) -> list[str]:
    """Name the backends worth measuring in a regime."""
    moments = tier_moments(case.spec, case.functionals, case.radial)
    skipped = set()
    if table_bytes(moments) > _DENSE_BYTES:
        skipped.add("dense")
    if case.spec.num_nodes * case.batch * case.channels > _FFT_NUMBERS:
        skipped.add("fft")
    if int(moments.entry_counts().sum()) * case.batch * case.channels > 4e9:
        skipped.add("sparse")
    return [name for name in CANDIDATES if name not in skipped]


def held_bytes(value: object, seen: set[int] | None = None) -> int:
    """Count the bytes of all tensors that an object holds, in its attributes and their parts, each storage once."""
    seen = set() if seen is None else seen
    if isinstance(value, Tensor):
        parts = [value]
        if value.layout == torch.sparse_csr:
            parts = [value.crow_indices(), value.col_indices(), value.values()]
        total = 0
        for part in parts:
            storage = part.untyped_storage()
            if storage.data_ptr() not in seen:
                seen.add(storage.data_ptr())
                total += storage.nbytes()
        return total
    if id(value) in seen:
        return 0
    seen.add(id(value))
    if isinstance(value, dict):
        return sum(held_bytes(part, seen) for part in value.values())
    if isinstance(value, (list, tuple)):
        return sum(held_bytes(part, seen) for part in value)
    inside = getattr(value, "__dict__", None)
    return held_bytes(inside, seen) if inside and type(value).__module__.startswith(("latticegnn", "torch.nn")) else 0


@dataclass
class Row:
    """The figures of one regime: milliseconds of forward and backward, and megabytes held, by backend."""

    case: str
    chosen: str
    milliseconds: dict[str, float]
    megabytes: dict[str, float] = field(default_factory=dict)
    reference: str | None = None
    times: float | None = None

    @property
    def ratio(self) -> float:
        """How many times faster than the reference, or, without one, how many times slower than the best."""
        if self.reference:
            return self.milliseconds[self.reference] / self.milliseconds[self.chosen]
        return self.milliseconds[self.chosen] / min(self.milliseconds.values())


def measure(case: Case, names: Sequence[str], rounds: int) -> Row:
    """Time forward and backward of backends in one regime, and of the one that "auto" takes."""
    chosen = choose(tier_moments(case.spec, case.functionals, case.radial))[0]
    modules = {
        name: aggregator(case.spec, case.functionals, name, case.radial) for name in dict.fromkeys([*names, chosen])
    }
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(case.spec.num_nodes, case.batch, case.channels, generator=generator).requires_grad_()
    times = cpu_milliseconds({name: _step(module, x) for name, module in modules.items()}, rounds)
    return Row(str(case), chosen, times, {name: held_bytes(module) / 1e6 for name, module in modules.items()})


def claims(rounds: int, quick: bool = False) -> list[Row]:
    """Measure what is claimed against a reference."""
    found = []
    for claim in CLAIMS:
        if claim.quick or not quick:
            row = measure(claim.case, [claim.reference, *candidates(claim.case)], rounds)
            found.append(dataclasses.replace(row, reference=claim.reference, times=claim.times))
    return found


def grid(rounds: int, quick: bool = False) -> list[Row]:
    """Measure what "auto" takes against the best backend of each regime."""
    return [measure(case, candidates(case), rounds) for case in (QUICK if quick else GRID)]


def _step(module: Aggregator, x: Tensor) -> Callable[[], None]:
    inputs = (x, torch.ones(module.shells, requires_grad=True)) if module.shells else (x,)

    def step() -> None:
        out = module(*inputs)
        torch.autograd.grad(out, inputs, out.detach())

    return step
