"""A measurement in a process of its own, where nothing but the measured work touches the memory."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

_MMAP_THRESHOLD = -3  # glibc's M_MMAP_THRESHOLD
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def alone(function: Callable[..., dict[str, Any]], cold: bool = False, **arguments: Any) -> dict[str, Any]:
    """Call a function in a new process with one thread.

    Args:
        function: A module's own function that returns JSON-safe values.
        cold: Give the process an empty cache of compiled code, so that what it compiles takes its full time.
        arguments: JSON-safe keyword arguments.

    Returns:
        What the function returned.

    Raises:
        ChildProcessError: When the process fails; the end of what it said is part of the text.
    """
    words = [sys.executable, "-m", __name__, f"{function.__module__}:{function.__qualname__}", json.dumps(arguments)]
    with contextlib.ExitStack() as stack:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        if cold:
            environment["TORCHINDUCTOR_CACHE_DIR"] = stack.enter_context(tempfile.TemporaryDirectory())
        ended = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise ChildProcessError(
            f"a measurement in its own process must end well; {words[3]} with {words[4]} ended with status "
            f"{ended.returncode} (-9: killed, as for want of memory): {' '.join(ended.stderr.split())[-600:]}; "
            "close other programs, or leave this benchmark out."
        )
    return json.loads(ended.stdout.splitlines()[-1])


def peak_bytes(action: Callable[[], object]) -> int | None:
    """Return by how many bytes the process's resident memory grew at most while an action ran.

    What was freed before goes back to the system first, so that its reuse is counted, too, and what the action frees
    goes back at once: the figure is what is held at a time, without the gaps that the allocator's history leaves.

    Returns:
        The bytes; None without Linux and glibc, which alone keep such a mark and return memory when told.
    """
    allocator = ctypes.CDLL(None)
    if not (_CLEAR.exists() and hasattr(allocator, "mallopt") and hasattr(allocator, "malloc_trim")):
        return None
    allocator.mallopt(_MMAP_THRESHOLD, 1 << 17)
    allocator.malloc_trim(0)
    _CLEAR.write_text("5", encoding="ascii")  # sets the high-water mark back to what is resident
    before = _kilobytes("VmRSS")
    try:
        action()
        return 1024 * (_kilobytes("VmHWM") - before)
    finally:
        allocator.mallopt(_MMAP_THRESHOLD, 1 << 25)  # where glibc's own adjustment ends


def process_peak_bytes() -> int | None:
    """Return the greatest resident memory of this process so far, in bytes; None on systems other than Linux."""
    return 1024 * _kilobytes("VmHWM") if _STATUS.exists() else None


def _kilobytes(key: str) -> int:
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    raise AssertionError(key)


def main() -> None:
    """Call the function that the command line names, and print what it returns."""
    import torch

    torch.set_num_threads(1)
    module, _, name = sys.argv[1].partition(":")
    result = getattr(importlib.import_module(module), name)(**json.loads(sys.argv[2]))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
