"""The sources that a run's rows come from, and how rows of several are put together."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from latticegnn.data.corpus import questions_and_answers, sentences
from latticegnn.data.partition import Corpus, check_limit
from latticegnn.data.rows import Rows
from latticegnn.data.split import EmbeddingSplit, Matrix, StackedRows, gather
from latticegnn.data.texts import TextFormat, text_corpus
from latticegnn.data.vectors import open_vectors, sound_rows

Task = Literal["qa", "sentences", "file", "vectors"]

BLOCK = 4096
"""Rows that are looked at together."""


@dataclass(frozen=True)
class TextFields:
    """How a file of texts is read; see `latticegnn.data.read_texts`.

    Args:
        format: "auto" goes by the suffix.
        input: Field of the text.
        target: Field of the answer; None for autoencoding.
        group: Field that names the document of a row.
        turns: Field of a dialogue's turns.
        speakers: Whether each turn of a plain dialogue starts with its speaker.
        encoding: Of the file.
    """

    format: TextFormat = "auto"
    input: str | None = None
    target: str | None = None
    group: str | None = None
    turns: str | None = None
    speakers: bool = False
    encoding: str = "utf-8"


@dataclass(frozen=True)
class VectorFields:
    """Where prepared embeddings lie in their file; see `latticegnn.data.open_vectors`.

    Args:
        key: Array, tensor or column of the inputs; None for the only one.
        target_key: That of the targets, where rows are pairs.
        target_path: File of the targets; None for the file of the inputs.
    """

    key: str | None = None
    target_key: str | None = None
    target_path: Path | None = None


TEXT, VECTORS = TextFields(), VectorFields()


@dataclass(frozen=True)
class Source:
    """One source of rows.

    Args:
        task: `"qa"` (name and signature → first docstring sentence), `"sentences"` (autoencoding), `"file"` (texts of
            yours; pairs where `text` names a target or a dialogue) or `"vectors"` (prepared embeddings).
        path: File of the tasks `"file"` and `"vectors"`; None for the others.
        limit: Greatest number of rows in all splits together, a fair sample of the source, at least 3; None for all.
        max_total_samples: Rows after which reading stops, of the tasks `"file"` and `"vectors"`; None reads all.
        weight: How often an epoch visits a training row, on average, ≥ 0; see `EpochSampler`.
        text: Fields of the task `"file"`.
        vectors: Fields of the task `"vectors"`.

    Raises:
        ValueError: When settings contradict each other.
    """

    task: Task = "qa"
    path: Path | None = None
    limit: int | None = None
    max_total_samples: int | None = None
    weight: float = 1.0
    text: TextFields = TEXT
    vectors: VectorFields = VECTORS

    def __post_init__(self) -> None:
        """Check the settings; nothing is read."""
        task, path = self.task, self.path
        if task not in get_args(Task):
            raise ValueError(f"`task` must be one of {list(get_args(Task))}; received {task!r}. 'qa' is the default.")
        own = task in ("file", "vectors")
        if (path is None) == own:
            remedy = "Name the file." if path is None else "Leave `path` out, or set task to 'file' or 'vectors'."
            raise ValueError(
                f"`path` belongs to the tasks 'file' and 'vectors'; received task {task!r}, path {path!r}. {remedy}"
            )
        for name, given, only in (("text", self.text, "file"), ("vectors", self.vectors, "vectors")):
            if task != only and given != type(given)():
                raise ValueError(
                    f"`{name}` belongs to the task {only!r}; received task {task!r} with {given}. Leave it out."
                )
        check_limit(self.limit)
        if self.max_total_samples is not None and (not own or self.max_total_samples < 3):
            raise ValueError(
                "`max_total_samples` must be at least 3 and belongs to the tasks 'file' and 'vectors'; received "
                f"{self.max_total_samples} with task {task!r}. Use `limit` for the packaged corpora."
            )
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"`weight` must be at least 0 and finite; received {self.weight}. 1 visits each row once.")

    def corpus(self, seed: int) -> Corpus:
        """Read the texts of a task other than `"vectors"`."""
        if self.task == "file":
            assert self.path is not None
            fields = asdict(self.text)
            return text_corpus(
                self.path, **fields, max_total_samples=self.max_total_samples, limit=self.limit, seed=seed
            )
        return (questions_and_answers if self.task == "qa" else sentences)(self.limit, seed)

    def matrices(self) -> tuple[Rows, Rows]:
        """Open inputs and targets of the task `"vectors"`; the same object where rows are their own targets."""
        assert self.path is not None
        inputs, fields = open_vectors(self.path, self.vectors.key), self.vectors
        if fields.target_key is None and fields.target_path is None:
            return inputs, inputs
        targets = open_vectors(fields.target_path or self.path, fields.target_key)
        if targets.shape != inputs.shape:
            raise ValueError(
                f"Inputs and targets must have the same shape [n, D]; received {list(inputs.shape)} of {inputs.name} "
                f"and {list(targets.shape)} of {targets.name}. Give one target a row, from the same teacher."
            )
        return inputs, targets


def paired(source: Any) -> bool:
    """Tell whether the rows of a source, or of settings named as a source's, are pairs and not their own targets."""
    if source.task == "vectors":
        return bool(source.vectors.target_key or source.vectors.target_path)
    if source.task == "file":
        return bool(source.text.target or source.text.turns) or source.text.format == "dialogue"
    return bool(source.task == "qa")


def embedded(corpus: Corpus, vectors: np.ndarray, dropped: Counter[str]) -> dict[str, EmbeddingSplit]:
    """Hand the vectors of all texts, in the corpus's order, to the rows of its splits, and drop what is not sound."""
    seen: set[bytes] = set()
    splits: dict[str, EmbeddingSplit] = {}
    start = 0
    for name, split in corpus.splits.items():
        n = len(split)
        inputs, start = vectors[start : start + n], start + n
        targets = inputs
        if split.targets is not None:
            targets, start = vectors[start : start + n], start + n
        keep = sound_rows(inputs, targets, seen, dropped)
        texts_in = [split.inputs[i] for i in keep]
        texts_out = texts_in if split.targets is None else [split.targets[i] for i in keep]
        splits[name] = gather(inputs, targets, keep, texts_in, texts_out, [split.groups[i] for i in keep])
    return splits


def mix(
    parts: Sequence[dict[str, EmbeddingSplit]], dropped: Counter[str]
) -> tuple[dict[str, EmbeddingSplit], list[int]]:
    """Put the splits of several sources one after the other, so that no input of one split occurs in a later one.

    Of equal inputs in two splits that of the test split stays, or else that of the validation split: what is held out
    in one source is not trained on in another.

    Args:
        parts: The splits of each source.
        dropped: Counts by reason; those that were dropped here are added as `"duplicate"`.

    Returns:
        The splits, and the training rows of each source.
    """
    held_out: set[bytes] = set()
    mixed: dict[str, EmbeddingSplit] = {}
    for name in ("test", "validation", "train"):
        kept: list[tuple[EmbeddingSplit, Tensor]] = []
        here: set[bytes] = set()
        for part in parts:
            split, rows = part[name], []
            for row, digest in enumerate(_digests(split.inputs)):
                if digest in held_out:
                    dropped["duplicate"] += 1
                else:
                    rows.append(row)
                    if name != "train":
                        here.add(digest)
            kept.append((split, torch.tensor(rows, dtype=torch.long)))
        held_out |= here
        mixed[name] = _joined(kept)
    return {name: mixed[name] for name in ("train", "validation", "test")}, [len(rows) for _, rows in kept]


def _digests(inputs: Matrix) -> Iterator[bytes]:
    for start in range(0, len(inputs), BLOCK):
        block = inputs[torch.arange(start, min(start + BLOCK, len(inputs)))]
        for row in block.numpy():
            yield hashlib.blake2b(row.tobytes(), digest_size=16).digest()


def _joined(kept: Sequence[tuple[EmbeddingSplit, Tensor]]) -> EmbeddingSplit:
    inputs = _stacked([(split.inputs, rows) for split, rows in kept])
    paired = any(split.targets is not split.inputs for split, _ in kept)
    targets = _stacked([(split.targets, rows) for split, rows in kept]) if paired else inputs
    texts_in = [split.input_texts[row] for split, rows in kept if split.input_texts for row in rows.tolist()]
    texts_out = [split.target_texts[row] for split, rows in kept if split.target_texts for row in rows.tolist()]
    groups = [split.groups[row] for split, rows in kept if split.groups for row in rows.tolist()]
    whole = len(groups) == len(inputs)
    joined = EmbeddingSplit(inputs, targets)
    return replace(joined, input_texts=texts_in, target_texts=texts_out, groups=groups) if whole else joined


def _stacked(parts: Sequence[tuple[Matrix, Tensor]]) -> Matrix:
    if all(isinstance(matrix, Tensor) for matrix, _ in parts):
        return torch.cat([matrix[rows] for matrix, rows in parts])
    return StackedRows([(matrix, rows.numpy()) for matrix, rows in parts])


def digest_of(names: Sequence[str]) -> str:
    """Return one sha256 for several, or the only one itself."""
    return names[0] if len(names) == 1 else hashlib.sha256(" ".join(names).encode()).hexdigest()
