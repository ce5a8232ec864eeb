"""Prepared embeddings: read from a file, or taken as arrays, and checked."""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np

from latticegnn.data.columns import table_rows
from latticegnn.data.rows import Rows, check_matrix, npy_rows, npz_rows, pt_rows, require_memory, safetensors_rows

FORMATS = {
    ".npy": npy_rows,
    ".npz": npz_rows,
    ".safetensors": safetensors_rows,
    ".pt": pt_rows,
    ".parquet": table_rows,
    ".arrow": table_rows,
    ".feather": table_rows,
}
"""How the rows of a file are read, by the end of its name."""

REASONS = ("nan", "inf", "zero", "duplicate")
"""Why a row may be dropped; of several the first."""

CHUNK_BYTES = 2**22
"""Bytes of float32 that `check_rows` holds at once, give or take a row."""


def open_vectors(path: str | Path, key: str | None = None) -> Rows:
    """Open prepared embeddings of any size: `rows.shape`, `rows.dtype`, and float32 rows by `rows[index]`.

    The file is mapped, never loaded, but for what is compressed: an array of a compressed `.npz` file, the batches of a
    compressed Feather file.

    Args:
        path: A `.npy`, `.npz`, `.safetensors` or `.pt` file (a tensor, or a dict of tensors by name), or a `.parquet`,
            `.arrow` or `.feather` file with a column of equally long lists of floats.
        key: Which array, tensor or column; None for the only one.

    Shapes:
        rows [n, D] of any floating type; rows[index] is [m, D], float32.

    Raises:
        FileNotFoundError: When there is no such file.
        ModuleNotFoundError: When a column is asked for and `datasets` is not installed.
        ValueError: When the file cannot be read, its name ends otherwise, `key` does not choose one matrix, or that is
            no floating-point matrix of at least one row.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"Prepared embeddings must be an existing file; received {str(path)!r}, which is not one. "
            "Check the path (it is relative to the working directory)."
        )
    if path.suffix not in FORMATS:
        others = ", ".join(suffix for suffix in FORMATS if suffix not in (".npy", ".safetensors"))
        raise ValueError(
            f"Prepared embeddings must be a .npy or .safetensors file (or {others}); received {str(path)!r}. "
            "Save them with numpy.save."
        )
    return FORMATS[path.suffix](path, key)


def load_vectors(path: str | Path, key: str | None = None) -> np.ndarray:
    """Read prepared embeddings whole; files, `key` and errors are those of `open_vectors`.

    Shapes:
        [n, D], float32 (other floating types are converted).

    Raises:
        FileNotFoundError: When there is no such file.
        ModuleNotFoundError: When a column is asked for and `datasets` is not installed.
        ValueError: As for `open_vectors`, and when the rows do not fit the free memory.
    """
    rows = open_vectors(path, key)
    require_memory(4 * rows.shape[0] * rows.shape[1], rows.name, "Read them in parts with open_vectors")
    return rows[:]


def checked_matrix(array: np.ndarray, name: str) -> np.ndarray:
    """Return `array` as float32 [n, D]; anything but a floating-point matrix is an error that names `name`."""
    check_matrix(name, array.shape, array.dtype, np.issubdtype(array.dtype, np.floating))
    # What overflows becomes infinite and is dropped with the other bad rows; a signalling nan is a nan.
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(np.float32)


def sound_rows(inputs: np.ndarray, targets: np.ndarray, seen: set[bytes], dropped: Counter[str]) -> list[int]:
    """Return the rows that can be learned from: finite, not zero, and with an input that did not occur before.

    Args:
        inputs: Embeddings.
        targets: Embeddings; may be the same object.
        seen: Digests of the inputs that occurred before; those of the sound rows are added.
        dropped: Counts by reason, `"nan"`, `"inf"`, `"zero"`, `"duplicate"`; added to, one reason a row.

    Shapes:
        inputs [n, D], targets [n, D].
    """
    faults = first_faults(inputs, targets)
    dropped.update(REASONS[fault] for fault in faults[faults >= 0])
    sound = []
    for row in np.flatnonzero(faults < 0).tolist():
        digest = _digest(inputs[row])
        if digest in seen:
            dropped["duplicate"] += 1
        else:
            seen.add(digest)
            sound.append(row)
    return sound


def check_rows(inputs: Rows, targets: Rows | None = None, most: int | None = None) -> tuple[np.ndarray, dict[str, int]]:
    """Find the rows of a file that can be learned from, as `sound_rows` does, a chunk at a time.

    Beside a chunk, 16 bytes a row are held for the duplicates, and 9 a row for the answer.

    Args:
        inputs: Embeddings.
        targets: The embedding wanted for each input; None for autoencoding.
        most: Rows to look at, from the first; None for all.

    Returns:
        The sound rows' numbers, rising, int64; and the counts of the others by reason, `"nan"`, `"inf"`, `"zero"`,
        `"duplicate"`.

    Raises:
        ValueError: When inputs and targets differ in shape.
    """
    if targets is not None and targets.shape != inputs.shape:
        raise ValueError(
            f"Inputs and targets must have the same shape [n, D]; received {list(inputs.shape)} of {inputs.name} and "
            f"{list(targets.shape)} of {targets.name}. Give one target a row, from the same teacher."
        )
    n, dim = inputs.shape
    n = n if most is None else min(n, most)
    step = max(1, CHUNK_BYTES // (4 * dim))
    sound = np.zeros(n, dtype=bool)
    digests = np.zeros((n, 16), dtype=np.uint8)
    dropped = dict.fromkeys(REASONS, 0)
    for start in range(0, n, step):
        block = inputs[start : min(n, start + step)]
        faults = first_faults(block, block if targets is None else targets[start : min(n, start + step)])
        for fault, count in zip(*np.unique(faults[faults >= 0], return_counts=True), strict=True):
            dropped[REASONS[fault]] += int(count)
        sound[start : start + len(block)] = faults < 0
        for row in np.flatnonzero(faults < 0).tolist():
            digests[start + row] = np.frombuffer(_digest(block[row]), dtype=np.uint8)
    before = int(sound.sum())
    _drop_repeated(sound, digests)
    kept = np.flatnonzero(sound)
    dropped["duplicate"] = before - len(kept)
    return kept, dropped


def _drop_repeated(sound: np.ndarray, digests: np.ndarray) -> None:
    """Unset the sound rows whose digest an earlier sound row has; by the digests' first bits, which bounds the sort."""
    for part in range(32):
        rows = np.flatnonzero(sound & (digests[:, 0] % 32 == part))
        _, first = np.unique(digests[rows].view("S16")[:, 0], return_index=True)
        sound[rows] = False
        sound[rows[first]] = True


def first_faults(inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return each row's first reason to be dropped, a place in `REASONS`, or -1; the input's before the target's."""
    found = np.full(len(inputs), -1)
    for vectors in (inputs,) if targets is inputs else (inputs, targets):
        with np.errstate(invalid="ignore"):  # a signalling nan
            masks = [np.isnan(vectors).any(axis=1), np.isinf(vectors).any(axis=1), ~vectors.any(axis=1)]
        found = np.where(found >= 0, found, np.select(masks, [0, 1, 2], -1))
    return found


def _digest(vector: np.ndarray) -> bytes:
    return hashlib.blake2b(vector.tobytes(), digest_size=16).digest()
