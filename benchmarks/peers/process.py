"""The parent's side of the pipe: peers in processes of their own, whose rounds alternate."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "NPROC": "1",  # XLA's own pool
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "JAX_PLATFORMS": "cpu",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


class Peer:
    """A child process that waits for its turn.

    Args:
        module: What runs in it, ``benchmarks.peers.…``; it calls `benchmarks.peers.child.serve`.
        settings: JSON-safe arguments of its preparation.
        python: Its interpreter; this one by default.

    Attributes:
        facts: What it said of itself once it was ready.

    Raises:
        ChildProcessError: When it ends before it was told to; the end of what it said is part of the text.
    """

    def __init__(self, module: str, settings: Mapping[str, Any], python: str | Path = sys.executable) -> None:
        self._told = [module, json.dumps(settings)]
        self._scratch = tempfile.TemporaryDirectory()  # compilers start with nothing kept, in here
        self._errors = Path(self._scratch.name) / "errors.txt"
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = os.environ | ONE_THREAD | {"PYTHONPATH": path, "TORCHINDUCTOR_CACHE_DIR": self._scratch.name}
        with self._errors.open("w", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                [str(python), "-m", *self._told],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                encoding="utf-8",
            )
        try:
            if hasattr(os, "sched_setaffinity"):  # all on one core: XLA makes a thread for each that it may use
                os.sched_setaffinity(self._process.pid, {min(os.sched_getaffinity(0))})
            self.facts = self._read()
        except BaseException:
            self.kill()
            raise

    def round(self, number: int) -> dict[str, Any]:
        """Let it run a round, and wait for what comes of it."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it is gone, and reading says why
            print(number, file=self._process.stdin, flush=True)
        return self._read()

    def end(self) -> dict[str, Any]:
        """Let it go, and return its last words."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        last = self._read()
        self.kill()
        return last

    def kill(self) -> None:
        """End it at once, if it has not ended."""
        with self._process:  # closes the pipes and waits
            self._process.kill()
        self._scratch.cleanup()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        status = self._process.wait()
        said = " ".join(self._errors.read_text(encoding="utf-8").split())
        raise ChildProcessError(
            f"a peer must live to its end; {' '.join(self._told)} ended with status {status} (-9: killed, as for want "
            f"of memory): {said[-600:]}; mend that, or leave this peer out."
        )


def interleaved(starts: Mapping[str, tuple[Any, ...]], rounds: int) -> dict[str, dict[str, Any]]:
    """Run rounds of several peers in turn: each goes once, then each goes again. All end, whatever happens.

    Args:
        starts: Arguments of `Peer`, by name.
        rounds: Rounds of each, ≥ 1.

    Returns:
        By name what the peer said of itself, first and last, and under ``rounds`` what each of its rounds gave.
    """
    peers: dict[str, Peer] = {}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in starts}
    with ExitStack() as ends:
        for name, arguments in starts.items():
            print(f"  starting {name}", flush=True)
            peers[name] = Peer(*arguments)
            ends.callback(peers[name].kill)
        for number in range(rounds):
            for name, peer in peers.items():
                found[name].append(peer.round(number))
            print(f"  round {number + 1} of {rounds}", flush=True)
        return {name: peer.facts | peer.end() | {"rounds": found[name]} for name, peer in peers.items()}
