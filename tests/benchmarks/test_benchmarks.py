"""Benchmarks time what they say, and their tables add up."""

import torch

from latticegnn.aggregate import aggregator, tier_moments
from latticegnn.benchmarks import aggregation, measure
from latticegnn.lattice import LatticeSpec


def test_times_are_of_one_thread_and_in_turn() -> None:
    calls: list[str] = []

    def action(name: str, size: int) -> None:
        calls.append(name)
        assert torch.get_num_threads() == 1
        torch.ones(size, size) @ torch.ones(size, size)

    before = torch.get_num_threads()
    found = measure.cpu_milliseconds({"small": lambda: action("s", 8), "large": lambda: action("l", 700)}, rounds=3)
    assert torch.get_num_threads() == before
    assert 0 < found["small"] < found["large"]
    assert calls.count("s") > calls.count("l") >= 5  # short actions are repeated within a round


def test_rows_name_the_choice_and_the_ratio() -> None:
    case = aggregation.Case(LatticeSpec((3, 4, 5), radii=(0.5, 1.0, 1.5)), channels=2, radial=True)
    row = aggregation.measure(case, aggregation.candidates(case), rounds=1)
    assert row.chosen == "sparse"
    assert set(row.milliseconds) == {"sparse", "dense", "fft", "dft"} == set(row.megabytes)
    assert row.ratio >= 1
    assert row.case == "3×4×5 r 1.5 B1 F2 (mean, gradient) radial"
    against = aggregation.Row("case", "sparse", {"edge": 30.0, "sparse": 2.0}, {"edge": 1, "sparse": 1}, "edge", 4)
    assert against.ratio == 15


def test_held_bytes_count_each_tensor_once() -> None:
    case = aggregation.Case(LatticeSpec((4, 4, 4), radii=(0.5, 1.0, 1.5)))
    module = aggregator(case.spec, case.functionals, "sparse")
    module.adjoint(module(torch.randn(64, 1, 1)))
    entries = int(tier_moments(case.spec, case.functionals).entry_counts().sum())
    tables = 12 * entries + 8 * 65 * 4  # a column and two values an entry, and one set of bounds for each functional
    assert tables < aggregation.held_bytes(module) < tables + 10_000
