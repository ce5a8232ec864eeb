"""A store of embeddings on disk, so that a teacher reads each text once."""

import hashlib
import os
import uuid
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from latticegnn.data.teacher import check_texts

SHARD_ROWS = 512
"""Texts a shard: what a killed run loses at most, and how often the disk is touched."""


class CacheError(ValueError):
    """The embedding cache cannot be read or written; the message names the file and the remedy."""


class Encoder(Protocol):
    """What the cache needs of a teacher: `latticegnn.data.Teacher` is one."""

    @property
    def fingerprint(self) -> str:
        """A name that changes whenever the embeddings may."""

    @property
    def dim(self) -> int:
        """D, the number of channels of an embedding."""

    def encode(self, texts: Sequence[str], batch_size: int = 32, progress: bool = False) -> np.ndarray:
        """Return float32 vectors [n, D] for n texts."""


class EmbeddingCache:
    """Embeddings on disk, addressed by what they are: teacher fingerprint and sha256 of the text.

    Layout: `<root>/<teacher fingerprint>/<sha256 of the file>.safetensors`, at most 512 texts a file, with the tensors
    `keys` (the texts' sha256, uint8 [n, 32]) and `vectors` (float32 [n, D]). A changed teacher has another fingerprint
    and so never meets old vectors.

    A shard is written under a temporary name, flushed to the disk and renamed: readers see whole shards only, several
    processes may write at once, and a killed run loses no more than the shard it was at. A shard's name is the hash of
    its content, checked at every read; a damaged shard is an error, never skipped. (A kill may also leave a hidden
    `.tmp` file behind, which nothing reads and anybody may delete.)

    Args:
        root: Folder of the cache, created when first written; None for the environment variable `LATTICEGNN_CACHE`, or
            else `~/.cache/latticegnn/embeddings`.

    Raises:
        CacheError: From `embed`, when a shard is damaged or cannot be written.
    """

    def __init__(self, root: str | Path | None = None) -> None:
        """Remember the folder; nothing is touched before `embed`."""
        chosen = root or os.environ.get("LATTICEGNN_CACHE") or "~/.cache/latticegnn/embeddings"
        self.root = Path(chosen).expanduser()

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
        by_key = {_key(text): text for text in texts}
        vectors = self._stored(folder, teacher.fingerprint, by_key.keys())
        missing = [key for key in by_key if key not in vectors]
        with tqdm(total=len(missing), desc="embedding", unit="text", disable=not (progress and missing)) as bar:
            for start in range(0, len(missing), SHARD_ROWS):
                keys = missing[start : start + SHARD_ROWS]
                new = teacher.encode([by_key[key] for key in keys], batch_size=batch_size)
                self._write(folder, teacher.fingerprint, keys, new)
                vectors.update(zip(keys, new, strict=True))
                bar.update(len(keys))
        return np.stack([vectors[_key(text)] for text in texts])

    def _stored(self, folder: Path, fingerprint: str, wanted: Container[bytes]) -> dict[bytes, np.ndarray]:
        found: dict[bytes, np.ndarray] = {}
        for file in sorted(folder.glob("*.safetensors")):
            keys, vectors = _read(file, fingerprint)
            found.update((key, vector) for key, vector in zip(keys, vectors, strict=True) if key in wanted)
        return found

    def _write(self, folder: Path, fingerprint: str, keys: list[bytes], vectors: np.ndarray) -> None:
        from safetensors.numpy import save

        tensors = {"keys": np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, 32), "vectors": vectors}
        content = save(tensors, metadata={"teacher": fingerprint})
        temporary = folder / f".{uuid.uuid4().hex}.tmp"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                _write_through(temporary, content)
                os.replace(temporary, folder / f"{hashlib.sha256(content).hexdigest()}.safetensors")
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise CacheError(
                f"The embedding cache must be writable; writing {len(content):,} bytes into {folder} failed: "
                f"{error.strerror}. Free some space or set LATTICEGNN_CACHE (`cache_dir`) to another folder; what is "
                "stored already will be used."
            ) from error


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _write_through(file: Path, content: bytes) -> None:
    """Write and wait for the disk: a rename must not become visible before the content it names."""
    with file.open("xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _read(file: Path, fingerprint: str) -> tuple[list[bytes], np.ndarray]:
    from safetensors import safe_open

    if hashlib.sha256(file.read_bytes()).hexdigest() != file.stem:
        raise CacheError(
            f"A cache shard's content must have the sha256 that is its name; {file} has another: it is damaged or was "
            "renamed. Delete that file; its embeddings will be computed again."
        )
    with safe_open(file, framework="numpy") as shard:
        owner = (shard.metadata() or {}).get("teacher")
        if owner != fingerprint:
            raise CacheError(
                f"A cache shard must lie in the folder of its teacher; {file} belongs to teacher {owner}. "
                "Move it there or delete it; what is missing will be computed again."
            )
        keys = shard.get_tensor("keys")
        return [row.tobytes() for row in keys], shard.get_tensor("vectors")
