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


def _seen(start: int, at: int, length: int, boundary: str) -> list[int]:
    """The offsets at which ``at`` sees ``start`` along one axis, rising.

    Round a periodic axis the shortest way, of two equally long ones the positive; beyond a reflecting end also the
    mirror images, as far as the axis is long.
    """
    step = start - at
    if boundary == "periodic":
        return [min((step - length, step, step + length), key=lambda s: (abs(s), -s))]
    images = (-1 - start, start, 2 * length - 1 - start) if boundary == "reflecting" else (start,)
    return sorted(image - at for image in images if abs(image - at) < length)


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
            axes = [_seen(s, t, n, b) for s, t, n, b in zip(start, at, spec.shape, spec.boundaries, strict=True)]
            for offset in itertools.product(*axes):
                distance = sum(o * o for o in offset) ** 0.5
                if distance <= distant:
                    tier = 0 if distance <= local else 1 if distance <= functional else 2
                    rows.append([target, source, tier, *offset])
    return np.array(rows)


@pytest.fixture(scope="session")
def brute_force() -> Reference:
    """Rows [target, source, tier, dx, dy, dz] of every edge, by trying all N² pairs and their images.

    Sorted by target, source and offset.
    """
    return _brute_force
