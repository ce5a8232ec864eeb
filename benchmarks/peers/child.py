"""The measured side of the pipe: get ready, say so, and run a round whenever the parent says go.

The standard library alone: this file also runs in environments that do not have this library.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Round = Callable[[int], dict[str, Any]]
Action = Callable[[], object]

LEAST_SECONDS = 0.25
"""CPU time that a figure rests on at least: shorter actions are repeated within a round."""

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def serve(prepare: Callable[..., tuple[dict[str, Any], Round]]) -> None:
    """Speak with `benchmarks.peers.process.Peer`, a line of JSON at a time, until it closes the pipe.

    Args:
        prepare: Takes what the parent wrote on the command line; returns facts about the peer, and what makes a round
            of a number.
    """
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints goes where errors go

    def say(**content: Any) -> None:
        print(json.dumps(content), file=replies, flush=True)

    libraries = kilobytes("VmRSS")
    facts, make_round = prepare(**json.loads(sys.argv[1]))
    if _CLEAR.exists():
        _CLEAR.write_text("5", encoding="ascii")  # what compilers took at their peak is not the work's: begin anew
    say(libraries_mb=libraries / 1e3, **facts)
    for line in sys.stdin:
        say(**make_round(int(line)))
    say(peak_mb=kilobytes("VmHWM") / 1e3)


def timed(actions: Mapping[str, Action]) -> tuple[dict[str, float], Round]:
    """Call each action once, and return how long that took by the clock, and a round that times them all.

    Args:
        actions: What to time, by name.

    Returns:
        Seconds of each first call, compilation included; and the round, which gives milliseconds of CPU time.
    """
    first, repeats = {}, {}
    for name, action in actions.items():
        start = time.perf_counter()
        action()
        first[name] = time.perf_counter() - start
        repeats[name] = 1 + int(LEAST_SECONDS / max(1e-6, _seconds(action, 1)))
    return first, lambda number: {name: 1e3 * _seconds(action, repeats[name]) for name, action in actions.items()}


def kilobytes(key: str) -> float:
    """Return a figure of this process's memory, ``VmRSS`` or ``VmHWM``; nan on systems other than Linux."""
    if not _STATUS.exists():
        return float("nan")
    return next(
        float(line.split()[1]) for line in _STATUS.read_text(encoding="ascii").splitlines() if line.startswith(key)
    )


def _seconds(action: Action, repeats: int) -> float:
    start = time.process_time()
    for _ in range(repeats):
        action()
    return (time.process_time() - start) / repeats
