"""The slow, obvious twin of the lattice's geometry."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from latticegnn.lattice import LatticeSpec

Reference = Callable[[LatticeSpec], NDArray[np.int64]]


def _interleaved(cell: tuple[int, int, int]) -> str:
    return "".join("".join(bits) for bits in zip(*(f"{c:012b}" for c in cell), strict=True))


def _shortest(step: int, length: int, periodic: bool) -> int:
    """The shortest way round; of two equally long ones the positive."""
    images = (step - length, step, step + length) if periodic else (step,)
    return min(images, key=lambda s: (abs(s), -s))


def _brute_force(spec: LatticeSpec) -> NDArray[np.int64]:
    cells = list(itertools.product(*map(range, spec.shape)))
    if spec.order == "morton":
        cells.sort(key=_interleaved)
    local, functional, distant = (radius * (1 + 1e-9) for radius in spec.thresholds)
    if spec.connectivity == "full":
        distant = float("inf")
    rows = []
    for target, at in enumerate(cells):
        for source, start in enumerate(cells):
            offset = [_shortest(s - t, n, w) for s, t, n, w in zip(start, at, spec.shape, spec.periodic, strict=True)]
            distance = sum(o * o for o in offset) ** 0.5
            if distance <= distant:
                rows.append([target, source, 0 if distance <= local else 1 if distance <= functional else 2, *offset])
    return np.array(rows)


@pytest.fixture(scope="session")
def brute_force() -> Reference:
    """Rows [target, source, tier, dx, dy, dz] of every edge, by trying all N² pairs; sorted by target, then source."""
    return _brute_force
