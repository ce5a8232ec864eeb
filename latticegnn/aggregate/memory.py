"""Refusing tables that would not fit, before they are made."""

from __future__ import annotations

from latticegnn.aggregate.moments import Moments
from latticegnn.lattice.graph import available_memory


def require(needed: int, backend: str, moments: Moments, what: str) -> None:
    """Refuse a backend whose tables would not fit.

    Args:
        needed: Bytes that the tables take at most, while they are made.
        backend: Whose tables.
        moments: What they are made of.
        what: The tables' size in words, such as "4,096 × 512 numbers".

    Raises:
        ValueError: If fewer bytes of main memory are free.
    """
    free = available_memory()
    if needed > free:
        other = "" if backend == "dft" else "backend: dft, which needs neither edges nor a matrix of cells, or "
        raise ValueError(
            f"the tables of backend '{backend}' must fit in memory; got a lattice {moments.spec.shape} with {what}, "
            f"about {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free; use {other}"
            "a smaller shape or radius."
        )
