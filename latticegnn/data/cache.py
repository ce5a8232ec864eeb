"""A store of embeddings on disk, so that a teacher reads each text once."""

import contextlib
import hashlib
import os
import re
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from latticegnn.data.teacher import check_texts

if TYPE_CHECKING:
    from safetensors import safe_open

SHARD_ROWS = 512
"""Texts a shard: what a killed run loses at most, and how often the disk is touched."""

ABANDONED = 3600.0
"""Seconds after which a temporary file belongs to no living writer: a shard is written in less than one."""


_FINGERPRINT = re.compile("[0-9a-f]{64}")
_SHARD = re.compile(r"[0-9a-f]{64}\.safetensors")
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp")


class CacheError(ValueError):
    """The embedding cache cannot be read or written; the message names the file and the remedy."""


class Encoder(Protocol):
    """What the cache needs of a teacher: `latticegnn.data.Teacher` is one."""

    @property
    def source(self) -> str:
        """Where the teacher comes from, for people to read."""

    @property
    def fingerprint(self) -> str:
        """A name that changes whenever the embeddings may."""

    @property
    def dim(self) -> int:
        """D, the number of channels of an embedding."""

    def encode(self, texts: Sequence[str], batch_size: int = 32, progress: bool = False) -> np.ndarray:
        """Return float32 vectors [n, D] for n texts."""


@dataclass(frozen=True)
class StoredTeacher:
    """What the cache holds of one teacher.

    Args:
        fingerprint: The teacher's.
        source: Where it came from; "" in shards of the first version, which did not say.
        texts: Embeddings stored.
        dim: D.
        bytes: Size on disk.
        used: When it was last read or written, in seconds since the epoch.
    """

    fingerprint: str
    source: str
    texts: int
    dim: int
    bytes: int
    used: float


class EmbeddingCache:
    """Embeddings on disk, addressed by what they are: teacher fingerprint and sha256 of the text.

    Layout: `<root>/<teacher fingerprint>/<sha256 of the file>.safetensors`, at most 512 texts a file, with the tensors
    `keys` (the texts' sha256, uint8 [n, 32]) and `vectors` (float32 [n, D]). A changed teacher has another fingerprint
    and so never meets old vectors.

    A shard is written under a temporary name, flushed to the disk and renamed: readers see whole shards only, several
    processes may write at once, and a killed run loses no more than the shard it was at. A shard's name is the hash of
    its content, checked whenever a vector is taken from it; a damaged shard is an error, never skipped. (A kill may
    also leave a hidden `.tmp` file behind, which nothing reads and `prune` deletes.)

    Args:
        root: Folder of the cache, created when first written; None for the environment variable `LATTICEGNN_CACHE`, or
            else `~/.cache/latticegnn/embeddings`.
        max_bytes: After `embed`, shards are deleted, those unused for longest first, until no more than this is left;
            those that the call itself used stay. None keeps all.

    Raises:
        CacheError: From `embed`, when a shard is damaged or cannot be written.
        ValueError: When `max_bytes` is negative.
    """

    def __init__(self, root: str | Path | None = None, max_bytes: int | None = None) -> None:
        """Remember the folder; nothing is touched before `embed`."""
        if max_bytes is not None and max_bytes < 0:
            raise ValueError(f"`max_bytes` must be at least 0; received {max_bytes}. Give None to keep everything.")
        chosen = root or os.environ.get("LATTICEGNN_CACHE") or "~/.cache/latticegnn/embeddings"
        self.root = Path(chosen).expanduser()
        self.max_bytes = max_bytes

    def embed(self, teacher: Encoder, texts: Sequence[str], batch_size: int = 32, progress: bool = False) -> np.ndarray:
        """Return the teacher's embeddings of `texts`, computing only what is not stored, each distinct text once.

        Args:
            teacher: Source of the embeddings that are not stored yet.
            texts: n texts.
            batch_size: Texts a forward pass of the teacher.
            progress: Show a progress bar over the texts to compute.

        Shapes:
            n texts → [n, D], float32.

        Raises:
            CacheError: When a shard is damaged or cannot be written (disk full, no permission).
            ValueError: When the teacher refuses the texts.
        """
        from tqdm import tqdm

        check_texts(texts, batch_size)
        if not texts:
            return np.empty((0, teacher.dim), dtype=np.float32)
        folder = self.root / teacher.fingerprint
        place: dict[bytes, int] = {}
        places = [place.setdefault(_key(text), len(place)) for text in texts]
        by_key = dict(zip((_key(text) for text in texts), texts, strict=True)) if len(place) < len(texts) else None
        distinct = list(texts) if by_key is None else [by_key[key] for key in place]
        vectors = np.empty((len(place), teacher.dim), dtype=np.float32)
        used, missing = self._fill(folder, teacher.fingerprint, place, vectors)
        with tqdm(total=len(missing), desc="embedding", unit="text", disable=not (progress and missing)) as bar:
            for start in range(0, len(missing), SHARD_ROWS):
                keys = missing[start : start + SHARD_ROWS]
                rows = [place[key] for key in keys]
                vectors[rows] = teacher.encode([distinct[row] for row in rows], batch_size=batch_size)
                used.add(self._write(folder, teacher, keys, vectors[rows]))
                bar.update(len(keys))
        if self.max_bytes is not None:
            self.prune(self.max_bytes, keep=used)
        return vectors if by_key is None else vectors[places]

    def stored(self) -> list[StoredTeacher]:
        """List what the cache holds, a teacher an entry, the one used last first.

        Raises:
            CacheError: When a shard's keys cannot be read.
        """
        found: list[StoredTeacher] = []
        for folder in self._folders():
            texts = size = dim = 0
            used, source = 0.0, ""
            for file in _shards(folder):
                with contextlib.suppress(FileNotFoundError):  # deleted by another process meanwhile
                    status = file.stat()
                    with _opened(file) as shard:
                        rows, dim = shard.get_slice("vectors").get_shape()
                        source = (shard.metadata() or {}).get("source", source)
                    texts, size, used = texts + rows, size + status.st_size, max(used, status.st_mtime)
            if texts:
                found.append(StoredTeacher(folder.name, source, texts, dim, size, used))
        return sorted(found, key=lambda teacher: -teacher.used)

    def verify(self) -> list[Path]:
        """Read every shard and return those that are damaged or lie in another teacher's folder."""
        damaged = []
        for file in (file for folder in self._folders() for file in _shards(folder)):
            try:
                _checked(file, file.parent.name)
            except CacheError:
                damaged.append(file)
            except FileNotFoundError:
                continue
        return damaged

    def prune(self, max_bytes: int, keep: set[Path] | None = None) -> int:
        """Delete shards, those unused for longest first, until `max_bytes` are left, and what killed writers left.

        Another process that reads or writes the cache meanwhile finds whole shards or none, and computes what it
        misses.

        Args:
            max_bytes: What may stay, ≥ 0.
            keep: Shards that stay in any case.

        Returns:
            The bytes that were deleted.
        """
        deleted, now = 0, time.time()
        shards = []
        for folder in self._folders():
            for file in (*_shards(folder), *_files(folder, _TEMPORARY)):
                with contextlib.suppress(FileNotFoundError):
                    status = file.stat()
                    if file.suffix == ".tmp":
                        if now - status.st_mtime > ABANDONED:
                            file.unlink()
                            deleted += status.st_size
                    else:
                        shards.append((status.st_mtime, file, status.st_size))
        total = sum(size for _, _, size in shards)
        for _, file, size in sorted(shards):
            if total <= max_bytes:
                break
            if keep is None or file not in keep:
                with contextlib.suppress(FileNotFoundError):
                    file.unlink()
                    deleted += size
                total -= size
        return deleted

    def require_writable(self) -> None:
        """Raise CacheError where the cache's folder can be neither written nor made."""
        found = next(folder for folder in (self.root.absolute(), *self.root.absolute().parents) if folder.exists())
        if not (found.is_dir() and os.access(found, os.W_OK)):
            raise CacheError(
                f"The embedding cache must be a folder that can be written; received {self.root}, and {found} cannot. "
                "Set LATTICEGNN_CACHE (`cache_dir`) to another folder."
            )

    def _folders(self) -> list[Path]:
        """Find the teachers' folders; what else lies in the root is not the cache's."""
        return [folder for folder in _files(self.root, _FINGERPRINT) if folder.is_dir()]

    def _fill(
        self, folder: Path, fingerprint: str, place: dict[bytes, int], vectors: np.ndarray
    ) -> tuple[set[Path], list[bytes]]:
        """Copy what is stored into its rows; return the shards that it came from, and the keys that are missing."""
        left, used = set(place), set()
        for file in _shards(folder):
            try:
                with _opened(file) as shard:
                    keys = [row.tobytes() for row in shard.get_tensor("keys")]
                wanted = [row for row, key in enumerate(keys) if key in left]
                if not wanted:
                    continue
                stored = _checked(file, fingerprint)
            except FileNotFoundError:  # pruned by another process
                continue
            vectors[[place[keys[row]] for row in wanted]] = stored[wanted]
            left.difference_update(keys)
            used.add(file)
            with contextlib.suppress(OSError):  # a cache that may only be read is still a cache
                os.utime(file)
        return used, [key for key in place if key in left]

    def _write(self, folder: Path, teacher: Encoder, keys: list[bytes], vectors: np.ndarray) -> Path:
        from safetensors.numpy import save

        tensors = {"keys": np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, 32), "vectors": vectors}
        content = save(tensors, metadata={"teacher": teacher.fingerprint, "source": teacher.source})
        temporary = folder / f".{uuid.uuid4().hex}.tmp"
        file = folder / f"{hashlib.sha256(content).hexdigest()}.safetensors"
        try:
            try:
                _write_through(temporary, content)
                os.replace(temporary, file)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise CacheError(
                f"The embedding cache must be writable; writing {len(content):,} bytes into {folder} failed: "
                f"{error.strerror}. Free some space or set LATTICEGNN_CACHE (`cache_dir`) to another folder; what is "
                "stored already will be used."
            ) from error
        return file


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _files(folder: Path, name: re.Pattern[str]) -> list[Path]:
    return sorted(file for file in folder.glob("*") if name.fullmatch(file.name))


def _shards(folder: Path) -> list[Path]:
    return _files(folder, _SHARD)


def _write_through(file: Path, content: bytes) -> None:
    """Write and wait for the disk: a rename must not become visible before the content it names."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


@contextlib.contextmanager
def _opened(file: Path) -> "Iterator[safe_open]":
    """Open a shard without reading its vectors; what is no shard is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as shard:
            yield shard
    except SafetensorError as error:
        raise _damaged(file) from error


def _checked(file: Path, fingerprint: str) -> np.ndarray:
    """Read a shard's vectors, once its content has proved to be what its name says."""
    from safetensors.numpy import load

    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != file.stem:
        raise _damaged(file)
    with _opened(file) as shard:
        owner = (shard.metadata() or {}).get("teacher")
    if owner != fingerprint:
        raise CacheError(
            f"A cache shard must lie in the folder of its teacher; {file} belongs to teacher {owner}. "
            "Move it there or delete it; what is missing will be computed again."
        )
    return load(content)["vectors"]


def _damaged(file: Path) -> CacheError:
    return CacheError(
        f"A cache shard's content must have the sha256 that is its name; {file} has another: it is damaged or was "
        "renamed. Delete that file; its embeddings will be computed again."
    )
