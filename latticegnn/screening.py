"""What a predictor takes: texts and vectors made ready, and the rows among them that cannot be used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from latticegnn.data import Tokenizer
from latticegnn.data.lines import LONGEST_LINE
from latticegnn.data.rows import check_matrix
from latticegnn.data.vectors import REASONS, first_faults

BATCH = 64
"""Rows that are computed together, however many are asked for."""


class Ready(NamedTuple):
    """Inputs, ready for a lattice.

    Args:
        rows: Embeddings, float32, or token ids, int64, of all inputs; zeros where one cannot be used.
        bad: What is wrong with each input that cannot be used, by its number.
        truncated: How many texts were longer than is read of one, and were cut.

    Shapes:
        rows [n, D] or [n, L].
    """

    rows: np.ndarray
    bad: dict[int, str]
    truncated: int


class Rower(Protocol):
    """Turns texts into rows: a teacher, or a `TokenRower`."""

    @property
    def dim(self) -> int:
        """Numbers in a row."""

    def encode(self, texts: Sequence[str], batch_size: int = 32) -> np.ndarray:
        """Give a row for each text."""


class TokenRower:
    """Texts as rows of token ids, for a lattice that takes them.

    Args:
        tokenizer: The model's.
        length: L.

    Attributes:
        truncated: How many texts the latest `encode` had to cut.
    """

    def __init__(self, tokenizer: Tokenizer, length: int) -> None:
        self.tokenizer, self.dim, self.truncated = tokenizer, length, 0

    def encode(self, texts: Sequence[str], batch_size: int = 32) -> np.ndarray:
        """Give the ids of each text with its end, [n, L]; the batch size has no effect."""
        ids, _ = self.tokenizer.encode(texts, self.dim, eos=True)
        self.truncated = self.tokenizer.truncated
        return ids.numpy()


def ready_texts(texts: Sequence[str], rower: Rower, dtype: Any = np.float32) -> Ready:
    """Turn texts into rows, `BATCH` at a time, and say which cannot be.

    Raises:
        ValueError: For a single text in place of a list.
    """
    if isinstance(texts, str):
        raise ValueError(f"Inputs must be a list of texts; got the single text {texts[:60]!r}. Write [text].")
    bad = {row: fault for row, text in enumerate(texts) if (fault := _text_fault(text)) is not None}
    rows = np.zeros((len(texts), rower.dim), dtype=dtype)
    sound = [row for row in range(len(texts)) if row not in bad]
    cut = 0
    for start in range(0, len(sound), BATCH):
        cut += _fill(rows, texts, sound[start : start + BATCH], rower, bad)
    return _screened(Ready(rows, bad, cut))


def ready_vectors(vectors: np.ndarray, dim: int) -> Ready:
    """Take vectors [n, D] as float32, and say which cannot be used.

    Raises:
        ValueError: For anything but a floating-point matrix of D columns.
    """
    check_matrix("the array given", vectors.shape, vectors.dtype, np.issubdtype(vectors.dtype, np.floating))
    if vectors.shape[1] != dim:
        raise ValueError(
            f"Vectors must have the model's dimension, {dim}; got {vectors.shape[1]}. Embed with the teacher that the "
            "model was trained with."
        )
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused as infinite
        return _screened(Ready(vectors.astype(np.float32), {}, 0))


def _screened(found: Ready) -> Ready:
    """Find the embeddings that are not finite, or zero."""
    if np.issubdtype(found.rows.dtype, np.floating):
        for row, fault in enumerate(first_faults(found.rows, found.rows).tolist()):
            if fault >= 0:
                said = f"A vector must be finite and not zero; got {REASONS[fault]}. Leave it out."
                found.bad.setdefault(row, said)
    found.rows[list(found.bad)] = 0
    return found


def _fill(rows: np.ndarray, texts: Sequence[str], places: list[int], rower: Rower, bad: dict[int, str]) -> int:
    """Fill some of the rows; texts that are refused together are tried alone, to learn which it is.

    Returns:
        How many were cut.
    """
    try:
        rows[places] = rower.encode([texts[place] for place in places], batch_size=BATCH)
    except ValueError as error:
        if len(places) == 1:
            bad[places[0]] = str(error)
            return 0
        return sum(_fill(rows, texts, [place], rower, bad) for place in places)
    return int(getattr(rower, "truncated", 0))


def _text_fault(text: object) -> str | None:
    """Say what is wrong with a text; None for nothing."""
    if not isinstance(text, str):
        return f"A text must be a string; got {text!r:.60} of type {type(text).__name__}. Convert it."
    if not text.strip():
        return "A text must have words; got an empty one. Leave it out."
    if len(text) > LONGEST_LINE:
        return f"A text must have at most {LONGEST_LINE:,} characters; got {len(text):,}. Cut it."
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"A text must be Unicode without lone surrogates; got {text[:60]!r}. Decode it again."
    return None
