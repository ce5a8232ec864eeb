"""A saved model at work: texts or vectors in, embeddings, texts or answers out."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch

from latticegnn.answers import TEXTS_FILE, AnswerIndex, answers_of
from latticegnn.data.datamodule import EmbeddingData
from latticegnn.data.lines import LONGEST_LINE
from latticegnn.data.rows import check_matrix
from latticegnn.data.teacher_card import read_teacher, rebuild_teacher, write_teacher
from latticegnn.data.vectors import REASONS, first_faults
from latticegnn.model import LatticeModel
from latticegnn.pretrained import CONFIG_FILE

if TYPE_CHECKING:
    from latticegnn.data.cache import Encoder

logger = logging.getLogger("latticegnn")

Output = Literal["embedding", "text", "answers"]
BATCH = 64
"""Rows that are computed together, however many are asked for."""

ANSWERS_FOLDER = "answers"


class Predictor:
    r"""A saved model as a function of texts or of the teacher's vectors.

    .. math::
        \text{text} \to e = \mathrm{teacher}(\text{text}) \to \hat e = \mathrm{lattice}(e)
        \to \hat e, \text{ the text decoded from it, or the } k \text{ nearest answers}

    In evaluation mode and without gradients; a row's result does not depend on what else is asked for, to rounding
    (1e-6 in an embedding), nor on earlier calls.

    Args:
        folder: A run's folder, or a saved model's: ``model`` in a run, what `LatticeModel.save_pretrained` wrote.
        teacher: Embeds texts, in place of the one that ``teacher.json`` in the model's folder names; that one is built,
            and checked to be what the model was trained with, when the first text comes.
        device: A torch device for the lattice and the teacher that is built.
        trust_code: Allow experts, and a teacher, that bring code of their own; loading them runs it.

    Attributes:
        folder: The saved model's.
        model: The lattice.
        dim: D, the dimension of vectors in and out.
        has_decoder: Whether texts can be put out.
        index: The answers to choose from; None where the model has none. Another `AnswerIndex` may be set.

    Raises:
        FileNotFoundError: When the folder holds no saved model.
        ValueError: When the model or a file beside it is damaged, names code that is not trusted, or the teacher given
            is of another dimension.
    """

    def __init__(
        self, folder: str | Path, teacher: Encoder | None = None, device: str = "cpu", trust_code: bool = False
    ) -> None:
        self.folder = model_folder(Path(folder))
        self.model = LatticeModel.from_pretrained(self.folder, trust_code).to(device)
        self.dim = self.model.embedding_dim
        self.has_decoder = False
        self._device, self._trust_code = device, trust_code
        card = read_teacher(self.folder)
        if teacher is not None:
            self.model.attach_teacher(teacher)
            if card is not None and teacher.fingerprint != card.fingerprint:
                logger.warning("%s was trained with another teacher than %s", self.folder, teacher.source)
        stored = self.folder / ANSWERS_FOLDER
        self.index: AnswerIndex | None = AnswerIndex.load(stored) if (stored / TEXTS_FILE).is_file() else None

    @functools.cached_property
    def teacher(self) -> Encoder:
        """What embeds texts: the teacher given, or the one that the model names.

        Raises:
            FileNotFoundError: When its files are missing.
            ValueError: When the model names none that can be built, or its files have changed.
        """
        if self.model.teacher is None:
            self.model.attach_teacher(rebuild_teacher(self.folder, self._device, self._trust_code))
        return self.model.teacher

    def predict(
        self,
        inputs: Sequence[str] | np.ndarray,
        output: Output = "embedding",
        k: int = 5,
        generation: Any = None,
    ) -> list[dict[str, Any]]:
        """Predict for each input, in their order.

        Args:
            inputs: n texts, or the teacher's vectors of them.
            output: ``"embedding"``: ``{"embedding": [D numbers]}``. ``"answers"``: ``{"answers": [{"text": …,
                "score": cosine, "index": place in the index}, …]}``, the nearest first; of a run on pairs, each with
                ``"title"``, the input that it is the answer to. ``"text"``: ``{"text": …}``.
            k: Answers to each input, at least 1.
            generation: How texts are generated; None for greedily.

        Returns:
            JSON-ready rows.

        Shapes:
            vectors [n, D].

        Raises:
            FileNotFoundError: When the teacher's files are missing.
            ValueError: When an input cannot be used (the first such row is named), or the model cannot give the output.
        """
        self.check(output, k)
        vectors, bad = self.embed(inputs)
        if bad:
            raise ValueError(f"Row {min(bad)}: {bad[min(bad)]}")
        rows: list[dict[str, Any]] = []
        for start in range(0, len(vectors), BATCH):
            rows += self._rows(vectors[start : start + BATCH], output, k)
        return rows

    def check(self, output: str, k: int = 5) -> None:
        """Refuse an output that this model cannot give.

        Raises:
            ValueError: For one that is unknown, a decoder or an index that is missing, or a k below 1.
        """
        if output not in get_args(Output):
            raise ValueError(f"output must be one of {list(get_args(Output))}; got {output!r}; choose one of them.")
        if output == "text" and not self.has_decoder:
            raise ValueError(
                f"Texts need a model with a text decoder; {self.folder} has none. Ask for 'embedding' or 'answers', or "
                "train a decoder."
            )
        if output == "answers" and self.index is None:
            raise ValueError(
                f"Answers need an index of them; {self.folder} has no folder {ANSWERS_FOLDER}. Train on pairs, or make "
                "an index with `latticegnn index` and give it."
            )
        if not isinstance(k, int) or isinstance(k, bool) or k < 1:
            raise ValueError(f"k counts answers, a whole number of at least 1; got {k!r}. 5 is the default.")

    def embed(self, inputs: Sequence[str] | np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
        """Embed texts by the teacher, or take vectors as they are, and find the rows that cannot be used.

        Args:
            inputs: As for `predict`.

        Returns:
            Vectors, those of bad rows zero; and what is wrong with each bad row, by its number.

        Shapes:
            [n, D], float32.

        Raises:
            FileNotFoundError: When the teacher's files are missing.
            ValueError: When the inputs are neither, as a whole.
        """
        bad: dict[int, str] = {}
        if isinstance(inputs, np.ndarray):
            vectors = self._taken(inputs)
        elif isinstance(inputs, str):
            raise ValueError(f"Inputs must be a list of texts; got the single text {inputs[:60]!r}. Write [text].")
        else:
            bad = {row: fault for row, text in enumerate(inputs) if (fault := _text_fault(text)) is not None}
            vectors = np.zeros((len(inputs), self.dim), dtype=np.float32)
            sound = [row for row in range(len(inputs)) if row not in bad]
            for start in range(0, len(sound), BATCH):
                _embed_rows(self.teacher, vectors, inputs, sound[start : start + BATCH], bad)
        for row, fault in enumerate(first_faults(vectors, vectors).tolist()):
            if fault >= 0 and row not in bad:
                bad[row] = f"A vector must be finite and not zero; got {REASONS[fault]}. Leave it out."
        vectors[list(bad)] = 0
        return vectors, bad

    @torch.inference_mode()
    def carry(self, vectors: np.ndarray) -> np.ndarray:
        """Carry the teacher's vectors through the lattice: [n, D] → [n, D], float32."""
        batches = torch.from_numpy(vectors).split(BATCH) if len(vectors) else ()
        carried = [self.model(batch.to(self._device)).embedding.cpu().numpy() for batch in batches]
        return np.concatenate([np.empty((0, self.dim), dtype=np.float32), *carried])

    def _rows(self, vectors: np.ndarray, output: Output, k: int) -> list[dict[str, Any]]:
        carried = self.carry(vectors)
        if output == "answers":
            assert self.index is not None
            return [{"answers": found} for found in self.index.rows(carried, k)]
        return [{"embedding": row} for row in carried.tolist()]

    def _taken(self, vectors: np.ndarray) -> np.ndarray:
        check_matrix("the array given", vectors.shape, vectors.dtype, np.issubdtype(vectors.dtype, np.floating))
        if vectors.shape[1] != self.dim:
            raise ValueError(
                f"Vectors must have the model's dimension, {self.dim}; got {vectors.shape[1]}. Embed with the teacher "
                "that the model was trained with."
            )
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused as infinite
            return vectors.astype(np.float32)


def model_folder(folder: Path) -> Path:
    """Return the saved model's folder: the one given, or ``model`` in it where it is a run's.

    Raises:
        FileNotFoundError: When neither is one.
    """
    for place in (folder, folder / "model"):
        if (place / CONFIG_FILE).is_file():
            return place
    raise FileNotFoundError(
        f"A model is a run's folder or a saved model's, with {CONFIG_FILE}; {folder} is neither. Pass for instance "
        "runs/latest."
    )


def save_companions(folder: Path, data: EmbeddingData) -> None:
    """Write beside a model what a `Predictor` needs: the teacher's name and, of pairs of texts, their answers.

    Args:
        folder: The saved model's.
        data: What it was trained on, prepared.
    """
    if data.encoder is not None:
        write_teacher(folder, data.encoder)
    answers = answers_of(data.splits, data.encoder.fingerprint if data.encoder else "") if data.pairs else None
    if answers is not None:
        answers.save(folder / ANSWERS_FOLDER)


def _embed_rows(
    teacher: Encoder, vectors: np.ndarray, texts: Sequence[str], rows: list[int], bad: dict[int, str]
) -> None:
    """Embed some of the texts; where the teacher refuses them together, alone, to learn which it refuses."""
    try:
        vectors[rows] = teacher.encode([texts[row] for row in rows], batch_size=BATCH)
    except ValueError as error:
        if len(rows) == 1:
            bad[rows[0]] = str(error)
            return
        for row in rows:
            _embed_rows(teacher, vectors, texts, [row], bad)


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
