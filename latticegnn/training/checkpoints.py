"""Checkpoints on disk: written whole or not at all, verified when read, never pickled code."""

from __future__ import annotations

import io
import logging
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from latticegnn.lattice.storage import write_atomically

FORMAT = 1
ENTRY = "latticegnn"
"""Where a checkpoint says what run it belongs to."""
_NAME = re.compile(r"progress-(\d+)\.ckpt")

logger = logging.getLogger("latticegnn")


class CheckpointFiles(TorchCheckpointIO):
    """The engine's checkpoints as files that appear whole or not at all, and are verified when they are read.

    A file is torch's own format, a zip archive that holds a checksum of each of its records, and so can be read with
    ``torch.load(file, weights_only=True)`` by anyone.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint, or leave everything as it was and raise OSError."""
        content = io.BytesIO()
        torch.save(checkpoint, content)
        file = Path(path)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, content.getvalue())
        except OSError as error:
            raise OSError(
                error.errno, f"a checkpoint must be written whole; {file} was not: {error.strerror}; make room for it"
            ) from error

    def load_checkpoint(self, path: Any, map_location: Any | None = None, weights_only: bool | None = None) -> Any:
        """Read and verify a checkpoint; see `read`."""
        return read(Path(path), map_location or "cpu")


def read(file: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint and verify it: every record's checksum, the format, and that nothing in it is code.

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: When the file is damaged, of another format, or was written by another program.
    """
    rule = "a checkpoint must be a whole file that a run wrote"
    if not file.is_file():
        raise FileNotFoundError(f"{rule}; {file} is not a file; pass one of a run's folder checkpoints.")
    try:
        with zipfile.ZipFile(file) as archive:
            broken = archive.testzip()
        if broken is not None:
            raise zipfile.BadZipFile(f"the checksum of {broken} does not fit")
        content = torch.load(file, map_location=map_location, weights_only=True)
        version = content[ENTRY]["format"]
    except (
        zipfile.BadZipFile, RuntimeError, pickle.UnpicklingError, EOFError, OSError, LookupError, TypeError, ValueError,
        AttributeError, NotImplementedError,
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:120]
        raise ValueError(f"{rule}; {file} cannot be read ({type(error).__name__}: {reason}){_remedy(file)}") from error
    if version != FORMAT:
        raise ValueError(
            f"a checkpoint's format must be {FORMAT}; {file} has {version!r}; go on with the version that wrote it."
        )
    return content


def saved(folder: Path) -> list[Path]:
    """Find the checkpoints that a run can go on from, the newest first."""
    found = [(int(match[1]), file) for file in folder.glob("*.ckpt") if (match := _NAME.fullmatch(file.name))]
    return [file for _, file in sorted(found, reverse=True)]


def progress_file(folder: Path, update: int) -> Path:
    """Name the checkpoint to go on from after a number of updates."""
    return folder / f"progress-{update}.ckpt"


def _remedy(file: Path) -> str:
    others = [other for other in saved(file.parent) if other != file]
    if others:
        return f"; to go on from the one before it, pass --resume {others[0]}"
    return "; pass another checkpoint, or start a new run"


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Tell in which settings two configurations differ, one text a setting."""
    old, new = dict(_flat(before)), dict(_flat(now))
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            yield f"{key} was {old.get(key)}, is {new.get(key)}"


def _flat(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
