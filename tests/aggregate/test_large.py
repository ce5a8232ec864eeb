"""Lattices without an edge list: they agree with each other, run in seconds and stay small."""

import subprocess
import sys
import textwrap

import pytest
import torch

from latticegnn.aggregate import Moment, aggregator
from latticegnn.lattice import LatticeSpec, Tier

BOTH: list[tuple[Tier, Moment]] = [
    (tier, moment) for tier in (Tier.FUNCTIONAL, Tier.DISTANT) for moment in ("mean", "gradient")
]
PEAK = """
    import resource
    import sys

    import torch

    from latticegnn.aggregate import aggregator
    from latticegnn.lattice import LatticeSpec, Tier

    torch.set_num_threads(1)
    functionals = [(tier, moment) for tier in (Tier.FUNCTIONAL, Tier.DISTANT) for moment in ("mean", "gradient")]
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


    def step(side, grad):
        spec = LatticeSpec((side,) * 3, radii=(0.16, 1.04, 1.6))
        x = torch.ones(spec.num_nodes, 1, 32, requires_grad=grad)
        out = aggregator(spec, functionals)(x)
        if grad:
            out.backward(out.detach())
        return 4 * (x.numel() * (2 if grad else 1) + out.numel()) / 2**30


    step(4, True)  # everything is imported and warmed up
    before = peak()
    held = step(int(sys.argv[1]), sys.argv[2] == "backward")
    print(peak() - before - held)
"""


def peak_gib(side: int, direction: str) -> float:
    """Peak memory of the tables and everything passing, in GiB, above the state, its gradient and the outputs."""
    code = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(PEAK), str(side), direction]
    done = subprocess.run(code, capture_output=True, text=True, check=True)
    return float(done.stdout)


def agree(spec: LatticeSpec, backends: list[str], radial: bool, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(spec.num_nodes, 1, 2, generator=generator)
    results = []
    for backend in backends:
        module = aggregator(spec, BOTH, backend, radial)
        weights = torch.linspace(0.5, 1.5, module.shells) if radial else None
        out = module(x, weights)
        g = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
        results.append([out, module.adjoint(g, weights)])
    for found in results[1:]:
        torch.testing.assert_close(found, results[0], rtol=tolerance, atol=tolerance)


@pytest.mark.slow
def test_a_wide_radius_in_float32() -> None:
    """Transforms of many cells lose no more than a sum does."""
    for radial in (False, True):
        agree(LatticeSpec((20, 17, 18), radii=(0.5, 3.3, 6.0)), ["sparse", "fft", "dft"], radial, 5e-6)


@pytest.mark.slow
def test_transforms_agree_at_37() -> None:
    agree(LatticeSpec((37, 37, 37)), ["fft", "dft"], radial=True, tolerance=1e-5)


@pytest.mark.slow
def test_64_cubed_stays_small() -> None:
    assert peak_gib(64, "backward") < 0.7


@pytest.mark.slow
def test_128_cubed_runs() -> None:
    assert peak_gib(128, "forward") < 4.0
