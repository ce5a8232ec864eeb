"""Where predictions go: JSON lines or a matrix, in a file that a killed run is continued in, or a pipe."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from latticegnn.inference.progress import Identity, Ledger, Progress

LINES, MATRICES = (".jsonl", ".ndjson"), (".npy", ".safetensors")
HEADER = 256
"""Bytes of a matrix's header, whatever the number of its rows: it is written last, when that is known."""

Rows = Sequence[tuple[int, Mapping[str, Any]]]
"""Lines, and what is said of each: an embedding, a text, answers, or an error."""


class Output(Protocol):
    """Where rows go.

    Attributes:
        before: The progress of an earlier run that is gone on with; None at a beginning.
        lines: Inputs whose rows of an earlier run were found.
    """

    before: Progress | None
    lines: int

    def write(self, rows: Rows) -> None:
        """Add rows, in the order of their lines."""

    def commit(self, lines: int, digest: str) -> None:
        """Keep what was written: so many inputs, of this digest, are done."""

    def complete(self) -> None:
        """Say that all inputs are done."""

    def close(self) -> None:
        """Let go of the file."""


class Pipe:
    """JSON lines to a stream, flushed after every batch.

    Args:
        stream: Where to.
        own: Close the stream at the end.
    """

    before: Progress | None = None
    lines = 0

    def __init__(self, stream: IO[bytes], own: bool) -> None:
        self._stream, self._own = stream, own

    def write(self, rows: Rows) -> None:
        """Write a line a row."""
        self._stream.write(b"".join(map(_line, rows)))
        self._stream.flush()

    def commit(self, lines: int, digest: str) -> None:
        """Nothing is kept: a pipe cannot be gone on with."""

    def complete(self) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Close the stream, where it is this one's to close."""
        if self._own:
            with contextlib.suppress(BrokenPipeError):  # a write has said so
                self._stream.close()


class LinesFile:
    """JSON lines in a file: readable at any time, and after a kill but for a torn last line.

    Args:
        path: The file.
        ledger: Its progress.

    Raises:
        ValueError: When the file to go on with holds other lines.
    """

    def __init__(self, path: Path, ledger: Ledger) -> None:
        self._ledger, self.before = ledger, ledger.before
        self.lines, size = (0, 0) if self.before is None else _own_lines(path, self.before.lines)
        self._file = _opened(path, size)

    def write(self, rows: Rows) -> None:
        """Write a line a row."""
        self._file.write(b"".join(map(_line, rows)))

    def commit(self, lines: int, digest: str) -> None:
        """Flush the rows, then say how many there are."""
        self._file.flush()
        self._ledger.commit(lines, digest)

    def complete(self) -> None:
        """Bring the rows to the disk, then say that they are all."""
        _to_disk(self._file)
        self._ledger.complete()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class MatrixFile:
    """Embeddings [n, D], float32, as ``.npy`` or ``.safetensors`` (tensor "embeddings"); a bad line's row is NaN.

    The rows grow in a file of the name and ``.part``, which gets its header, and the name, when it is whole.

    Args:
        path: The file.
        ledger: Its progress.
        dim: D.
    """

    def __init__(self, path: Path, ledger: Ledger, dim: int) -> None:
        self._path, self._ledger, self._dim, self.before = path, ledger, dim, ledger.before
        self._part = path.with_name(f"{path.name}.part")
        if self.before is not None and self.before.complete and path.is_file():
            os.replace(path, self._part)  # its inputs may have grown
        rows = 0 if self.before is None or not self._part.is_file() else self._part.stat().st_size - HEADER
        self.lines = 0 if self.before is None else min(self.before.lines, max(0, rows) // (4 * dim))
        self._file = _opened(self._part, HEADER + 4 * dim * self.lines)

    def write(self, rows: Rows) -> None:
        """Write a row of numbers a row."""
        nothing = [float("nan")] * self._dim
        self._file.write(np.array([row.get("embedding", nothing) for _, row in rows], dtype="<f4").tobytes())

    def commit(self, lines: int, digest: str) -> None:
        """Flush the rows, then say how many there are."""
        self._file.flush()
        self._ledger.commit(lines, digest)
        self.lines = lines

    def complete(self) -> None:
        """Write the header, bring all to the disk, and give it its name."""
        self._file.seek(0)
        self._file.write(_header(self._path, (self.lines, self._dim)))
        _to_disk(self._file)
        os.replace(self._part, self._path)
        self._ledger.complete()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def open_output(path: Path | IO[bytes], identity: Identity, dim: int, resume: bool = False) -> Output:
    """Open an output by its kind: a stream or a special file, JSON lines, or a matrix.

    Args:
        path: A file, or a binary stream.
        identity: Of the rows; ``"output"`` says what they hold.
        dim: D of an embedding.
        resume: Go on where an earlier run was cut off.

    Raises:
        FileNotFoundError: When there is no such folder.
        ValueError: When the suffix does not fit, or as for `Ledger` and `LinesFile`.
    """
    if not isinstance(path, Path) or (path.exists() and not path.is_file()):
        if resume:
            raise ValueError(f"to go on needs a file; got the output {path}; leave --resume out.")
        return Pipe(path.open("wb"), own=True) if isinstance(path, Path) else Pipe(path, own=False)
    if path.suffix in MATRICES and identity["output"] == "embedding":
        return MatrixFile(path, Ledger(path, identity, resume), dim)
    if path.suffix not in LINES:
        raise ValueError(
            f"an output ends in {', '.join(LINES)}, or for embeddings in {' or '.join(MATRICES)}; got {path} for "
            f"{identity['output']}; rename it, or write - for standard output."
        )
    return LinesFile(path, Ledger(path, identity, resume))


def _line(row: tuple[int, Mapping[str, Any]]) -> bytes:
    return json.dumps({"line": row[0]} | dict(row[1]), ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _own_lines(path: Path, most: int) -> tuple[int, int]:
    """Count the whole lines of a file that are rows of the inputs from the first on, and their bytes."""
    count = size = 0
    if path.is_file():
        with path.open("rb") as file:
            while count < most and (raw := file.readline()).endswith(b"\n"):
                if not raw.startswith(b'{"line": %d, ' % (count + 1)):
                    raise ValueError(
                        f"an output goes on where every line is its own; {path}, line {count + 1} is {raw[:40]!r}; "
                        "write to another file."
                    )
                count, size = count + 1, size + len(raw)
    return count, size


def _opened(path: Path, size: int) -> IO[bytes]:
    """Open a file at its end, cut to a size, or filled up to it with zeros."""
    file = path.open("r+b" if path.is_file() else "w+b")
    file.truncate(size)
    file.seek(size)
    return file


def _to_disk(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _header(path: Path, shape: tuple[int, int]) -> bytes:
    if path.suffix == ".npy":
        text = repr({"descr": "<f4", "fortran_order": False, "shape": shape}).encode()
        return b"\x93NUMPY\x01\x00" + (HEADER - 10).to_bytes(2, "little") + text.ljust(HEADER - 11) + b"\n"
    entry = {"embeddings": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * shape[0] * shape[1]]}}
    return (HEADER - 8).to_bytes(8, "little") + json.dumps(entry).encode().ljust(HEADER - 8)
