"""Prepared embeddings: read from a file, or taken as arrays, and checked."""

from collections import Counter
from pathlib import Path

import numpy as np


def load_vectors(path: str | Path) -> np.ndarray:
    """Read prepared embeddings from a `.npy` file or a `.safetensors` file of exactly one tensor.

    Shapes:
        [n, D], float32 (other floating types are converted).

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: When the file cannot be read, its name ends otherwise, or it does not hold one floating-point
            matrix.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"Prepared embeddings must be an existing file; received {str(path)!r}, which is not one. "
            "Check the path (it is relative to the working directory)."
        )
    if path.suffix == ".npy":
        return checked_matrix(_read_npy(path), str(path))
    if path.suffix == ".safetensors":
        return checked_matrix(_read_safetensors(path), str(path))
    raise ValueError(
        f"Prepared embeddings must be a .npy or .safetensors file; received {str(path)!r}. Save them with numpy.save."
    )


def checked_matrix(array: np.ndarray, name: str) -> np.ndarray:
    """Return `array` as float32 [n, D]; anything but a floating-point matrix is an error that names `name`."""
    if array.ndim != 2 or array.shape[1] == 0 or not np.issubdtype(array.dtype, np.floating):
        raise ValueError(
            f"Embeddings must be a floating-point matrix [n, D]; {name} has shape {list(array.shape)} and type "
            f"{array.dtype}. Stack one embedding a row."
        )
    with np.errstate(over="ignore"):  # what overflows becomes infinite and is dropped with the other bad rows
        return array.astype(np.float32)


def sound_rows(inputs: np.ndarray, targets: np.ndarray, seen: set[bytes], dropped: Counter[str]) -> list[int]:
    """Return the rows that can be learned from: finite, not zero, and with an input that did not occur before.

    Args:
        inputs: Embeddings.
        targets: Embeddings; may be the same object.
        seen: Inputs that occurred before; those of the sound rows are added.
        dropped: Counts by reason, `"nan"`, `"inf"`, `"zero"`, `"duplicate"`; added to, one reason a row.

    Shapes:
        inputs [n, D], targets [n, D].
    """
    bad: dict[int, str] = {}
    for vectors in (inputs, targets):
        masks = {"nan": np.isnan(vectors), "inf": np.isinf(vectors)}
        reasons = {reason: mask.any(axis=1) for reason, mask in masks.items()} | {"zero": ~vectors.any(axis=1)}
        for reason, rows in reasons.items():
            bad.update((row, reason) for row in np.flatnonzero(rows).tolist() if row not in bad)
    dropped.update(bad.values())
    sound = []
    for row in (row for row in range(len(inputs)) if row not in bad):
        key = inputs[row].tobytes()
        if key in seen:
            dropped["duplicate"] += 1
        else:
            seen.add(key)
            sound.append(row)
    return sound


def _read_npy(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(
            f"A .npy file must hold one plain array; {path} does not ({error}). Save it again with numpy.save."
        ) from None


def _read_safetensors(path: Path) -> np.ndarray:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"Prepared embeddings must be a sound safetensors file; {path} is not ({error}). Save it again."
        ) from None
    if len(tensors) != 1:
        raise ValueError(
            f"A .safetensors file of embeddings must hold exactly one tensor; {path} holds {sorted(tensors)}. "
            "Save the one that is meant on its own."
        )
    (tensor,) = tensors.values()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
