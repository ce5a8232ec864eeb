"""The sources that a run's rows come from, and how rows of several are put together."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from latticegnn.data.corpus import questions_and_answers, sentences
from latticegnn.data.partition import Corpus, check_limit, key
from latticegnn.data.phrases import next_tokens, phrases
from latticegnn.data.rows import Rows
from latticegnn.data.split import EmbeddingSplit, Matrix, StackedRows, gather
from latticegnn.data.texts import TextFormat, text_corpus
from latticegnn.data.vectors import open_vectors, sound_rows

Task = Literal["qa", "sentences", "phrases", "next_token", "file", "vectors"]
PAIRS = ("qa", "next_token")
"""Tasks whose targets are never the inputs."""

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
        task: `"qa"` (name and signature → first docstring sentence), `"sentences"` and `"phrases"` (autoencoding),
            `"next_token"` (beginning of a sentence → its next word), `"file"` (texts of yours; pairs where `text` names
            a target or a dialogue) or `"vectors"` (prepared embeddings).
        path: File of the tasks `"file"` and `"vectors"`; None for the others.
        limit: Greatest number of rows in all splits together, a fair sample of the source, at least 3; None for all.
        max_total_samples: Rows after which reading stops, of the tasks `"file"` and `"vectors"`; None reads all.
        weight: How often an epoch visits a training row, on average, ≥ 0; see `EpochSampler`.
        text: Fields of the task `"file"`.
        vectors: Fields of the task `"vectors"`.
        words: Fewest and most words of the task `"phrases"`.

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
    words: tuple[int, int] = (2, 2)

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
        if task != "phrases" and tuple(self.words) != (2, 2):
            raise ValueError(
                f"`words` belongs to the task 'phrases'; received task {task!r} with {list(self.words)}. Leave it out."
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
        if self.task == "phrases":
            return phrases(self.limit, seed, self.words)
        readers = {"qa": questions_and_answers, "sentences": sentences, "next_token": next_tokens}
        return readers[self.task](self.limit, seed)

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


class Survey(NamedTuple):
    """What was found before anything is embedded.

    Args:
        text: The sources and the teacher, in words.
        rows: By split, before repeated and unsound embeddings are dropped.
        parts: Training rows and weight of each source, as `EpochSampler` takes them.
    """

    text: str
    rows: dict[str, int]
    parts: list[tuple[int, float]]


def paired(source: Any) -> bool:
    """Tell whether the rows of a source, or of settings named as a source's, are pairs and not their own targets.

    Raises:
        ValueError: When `text` or `vectors` are no group of settings.
    """
    for name in ("text", "vectors"):
        if not hasattr(getattr(source, name), "__dict__"):
            raise ValueError(
                f"`{name}` must be a mapping of settings; received {getattr(source, name)!r}. Leave it out for none."
            )
    if source.task == "vectors":
        return bool(source.vectors.target_key or source.vectors.target_path)
    if source.task == "file":
        return bool(source.text.target or source.text.turns) or source.text.format == "dialogue"
    return source.task in PAIRS


def ranked(source: Any) -> bool:
    """Tell whether the right target of a source's rows can be looked for among all: pairs whose targets never recur."""
    return paired(source) and source.task != "next_token"


def check_sources(sources: Sequence[Source]) -> None:
    """Raise ValueError when none of several sources is trained on, or when they cannot be mixed."""
    if not any(source.weight for source in sources):
        raise ValueError(
            f"One source at least must be trained on; received the weights {[s.weight for s in sources]}. "
            "Raise one above 0."
        )
    tasks = [source.task for source in sources]
    if len(tasks) > 1 and "next_token" in tasks:
        raise ValueError(
            f"Sources are mixed where no text of one split recurs in another, but next words do; received {tasks}. "
            "Take the task 'next_token' alone."
        )


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
    parts: Sequence[dict[str, EmbeddingSplit]], weights: Sequence[float], dropped: Counter[str]
) -> tuple[dict[str, EmbeddingSplit], list[int]]:
    """Put the splits of several sources one after the other, so that nothing of one split occurs in a later one.

    Of rows in two splits that share a text (up to case, spacing and punctuation) or an embedding, as input or target,
    that of the test split stays, or else that of the validation split: what is held out in one source is not trained on
    in another.

    Args:
        parts: The splits of each source.
        weights: Those of the sources; training rows of a source of weight 0 are left out.
        dropped: Counts by reason; those that were dropped here are added as `"duplicate"`.

    Returns:
        The splits, and the training rows of each source.
    """
    held_out: set[bytes] = set()
    mixed: dict[str, EmbeddingSplit] = {}
    for name in ("test", "validation", "train"):
        kept: list[tuple[EmbeddingSplit, Tensor]] = []
        here: set[bytes] = set()
        for part, weight in zip(parts, weights, strict=True):
            split, rows = part[name], []
            if name == "train" and weight == 0:
                kept.append((split, torch.tensor([], dtype=torch.long)))
                continue
            for row, marks in enumerate(_marks(split)):
                if held_out.isdisjoint(marks):
                    rows.append(row)
                    if name != "train":
                        here.update(marks)
            dropped["duplicate"] += len(split) - len(rows)
            kept.append((split, torch.tensor(rows, dtype=torch.long)))
        held_out |= here
        mixed[name] = _joined(kept)
    return {name: mixed[name] for name in ("train", "validation", "test")}, [len(rows) for _, rows in kept]


def _marks(split: EmbeddingSplit) -> Iterator[list[bytes]]:
    """Yield what each row must not share with another split: digests of its embeddings, and of its texts' words."""
    paired = split.targets is not split.inputs
    for start in range(0, len(split), BLOCK):
        index = torch.arange(start, min(start + BLOCK, len(split)))
        blocks = [split.inputs[index].numpy(), *([split.targets[index].numpy()] if paired else [])]
        for row in range(len(index)):
            marks = [block[row].tobytes() for block in blocks]
            if split.input_texts:
                texts = {split.input_texts[start + row], split.target_texts[start + row]}
                marks += [key(text).encode("utf-8", "surrogatepass") for text in texts]
            yield [hashlib.blake2b(mark, digest_size=16).digest() for mark in marks]


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
