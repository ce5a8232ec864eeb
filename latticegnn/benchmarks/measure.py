"""Comparing durations on a machine that is never quite idle."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

_SAMPLE_SECONDS = 0.005


@contextmanager
def one_thread() -> Iterator[None]:
    """Run with one thread, where CPU time is what the work costs and no other process can stretch it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def cpu_milliseconds(actions: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Time actions against each other: one thread, process CPU time, interleaved, the median of the rounds.

    Every round runs every action once in turn, so that a machine that slows down slows all of them; only ratios of the
    results should be trusted. One call of each comes first, unmeasured; an action shorter than 5 ms is repeated within
    a round.

    Args:
        actions: What to time, by name.
        rounds: Measured rounds, at least 1.

    Returns:
        Milliseconds of CPU time of one call, by name.
    """
    found: dict[str, list[float]] = {name: [] for name in actions}
    with one_thread():
        repeats = {}
        for name, action in actions.items():
            action()
            repeats[name] = 1 + int(_SAMPLE_SECONDS / max(1e-6, _seconds(action, 1)))
        for _ in range(rounds):
            for name, action in actions.items():
                found[name].append(1e3 * _seconds(action, repeats[name]))
    return {name: statistics.median(figures) for name, figures in found.items()}


def _seconds(action: Callable[[], object], repeats: int) -> float:
    start = time.process_time()
    for _ in range(repeats):
        action()
    return (time.process_time() - start) / repeats
