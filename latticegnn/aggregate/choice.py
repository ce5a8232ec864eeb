"""Which backend "auto" takes: a rule with numbers in it, and no stop-watch."""

from __future__ import annotations

import math

from latticegnn.aggregate import dense, sparse, spectral
from latticegnn.aggregate.moments import Moments
from latticegnn.lattice.graph import available_memory


def estimates(moments: Moments) -> dict[str, float]:
    r"""Estimate what each backend's forward and backward take, in nanoseconds a cell and channel.

    Fitted to one thread of a processor with 512-bit vector units in float32; what decides is their order, which
    `benchmarks/aggregation.py` checks against measurements. With M entries, R functionals, N cells, and for the
    transform :math:`L_a` points on axis a of length :math:`n_a`:

    - sparse: 0.11 ns an entry of a row plus 0.3 ns for each functional's output, :math:`0.11 M/N + 0.3 R`;
    - dense: :math:`4 R N` operations at 205 a nanosecond;
    - dft: 2 (R + 1) transforms, each :math:`2 L_z + 2 L_y \frac{L_z}{n_z} + 2 L_x \frac{L_z L_y}{n_z n_y}` operations
      at 150 a nanosecond, plus 1 ns for each number of its spectrum, :math:`\prod_a L_a / n_a`.

    Distance weights add their own gradient: a quarter to sparse, a third to dft, a half to dense. "fft" is left out,
    since the same transforms as matrix products are faster at every size that fits; "edge" and "segment" since they
    are slower than sparse everywhere; and a backend that cannot serve these functionals.

    Args:
        moments: The functionals.

    Returns:
        Nanoseconds by backend name.
    """
    rows, cells = moments.count, moments.num_nodes
    entries = int(moments.entry_counts().sum()) / cells
    operations, volume = 0.0, 1.0
    for span in reversed(spectral.spans_of(moments)):
        operations += 2 * span.needed * volume
        volume *= span.needed / span.length
    found = {
        "sparse": 0.11 * entries + 0.3 * rows,
        "dense": 4 * rows * cells / 205,
        "dft": 2 * (rows + 1) * (operations / 150 + volume),
    }
    if moments.radial:
        found = {name: cost * {"sparse": 5 / 4, "dft": 4 / 3, "dense": 3 / 2}[name] for name, cost in found.items()}
    if not dense.servable(moments):
        del found["dense"]
    return found


def choose(moments: Moments) -> tuple[str, str]:
    """Take the backend with the smallest estimate whose tables fit in the free memory.

    For a graph whose edges are not its spec's, that is sparse.

    Args:
        moments: The functionals.

    Returns:
        The backend's name, and why, in one sentence.
    """
    if moments.edges is not None:
        return "sparse", "since the graph's edges or numbering are not its spec's"
    costs, free = estimates(moments), available_memory()
    sizes = {"sparse": sparse.table_bytes(moments), "dense": dense.table_bytes(moments), "dft": 0}
    ranked = sorted(costs, key=lambda name: (sizes[name] > free, costs[name]))
    entries = math.ceil(int(moments.entry_counts().sum()) / moments.num_nodes)
    told = ", ".join(
        f"{name} {costs[name]:.3g}" + (" (does not fit in memory)" if sizes[name] > free else "") for name in ranked
    )
    return ranked[0], (
        f"by the estimated nanoseconds a cell and channel for {moments.count} functionals of {moments.num_nodes:,} "
        f"cells with {entries:,} entries each{' and distance weights' if moments.radial else ''}: {told}"
    )
