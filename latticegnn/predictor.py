"""A saved model at work: texts or vectors in, embeddings, texts or answers out."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch

from latticegnn.answers import TEXTS_FILE, AnswerIndex, answers_of
from latticegnn.data.datamodule import EmbeddingData
from latticegnn.data.sources import sha256_of
from latticegnn.data.teacher import usable_device
from latticegnn.data.teacher_card import read_teacher, rebuild_teacher, write_teacher
from latticegnn.model import LatticeModel
from latticegnn.nn import Generation
from latticegnn.pretrained import CONFIG_FILE
from latticegnn.screening import BATCH, Ready, TokenRower, ready_texts, ready_vectors
from latticegnn.text_model import DECODER_FOLDER, TextModel

if TYPE_CHECKING:
    from latticegnn.data.cache import Encoder

logger = logging.getLogger("latticegnn")

Output = Literal["embedding", "text", "answers"]
ANSWERS_FOLDER = "answers"
_GREEDY = Generation()


class Predictor:
    r"""A saved model as a function of texts or of the teacher's vectors.

    .. math::
        \text{text} \to e = \mathrm{teacher}(\text{text}) \to \hat e = \mathrm{lattice}(e)
        \to \hat e, \text{ the text decoded from it, or the } k \text{ nearest answers}

    In evaluation mode and without gradients; a row's result does not depend on what else is asked for, to rounding
    (1e-6 in an embedding), nor on earlier calls. A lattice that takes token ids reads texts by its own tokenizer, and
    no vectors.

    Args:
        folder: A run's folder, or a saved model's: ``model`` in a run, what `LatticeModel.save_pretrained` or
            `TextModel.save_pretrained` wrote.
        teacher: Embeds texts, in place of the one that ``teacher.json`` in the model's folder names; that one is built,
            and checked to be what the model was trained with, when the first text comes.
        device: A torch device for the lattice and the teacher that is built.
        trust_code: Allow experts, and a teacher, that bring code of their own; loading them runs it.

    Attributes:
        folder: The saved model's.
        model: The lattice.
        dim: D, the dimension of vectors in and out.
        has_decoder: Whether texts can be put out.
        index: The answers to choose from; None where the model has none, see `answer_from`.

    Raises:
        FileNotFoundError: When the folder holds no saved model.
        ValueError: When the model or a file beside it is damaged, names code that is not trusted, the teacher given is
            of another dimension, or this machine has no such device.
    """

    def __init__(
        self, folder: str | Path, teacher: Encoder | None = None, device: str = "cpu", trust_code: bool = False
    ) -> None:
        usable_device(device)
        self.folder = model_folder(Path(folder))
        self.has_decoder = (self.folder / DECODER_FOLDER).is_dir()
        self._text = TextModel.from_pretrained(self.folder, trust_code).to(device) if self.has_decoder else None
        self.model = (
            LatticeModel.from_pretrained(self.folder, trust_code).to(device)
            if self._text is None
            else self._text.lattice
        )
        self.dim = self.model.embedding_dim
        if self.model.tokens is not None and self._text is None:
            raise ValueError(
                f"A lattice that takes token ids needs its tokenizer; {self.folder} holds the lattice alone. Save the "
                "TextModel that it belongs to."
            )
        self._card = read_teacher(self.folder)
        self._device, self._trust_code = device, trust_code
        if teacher is not None:
            self.model.attach_teacher(teacher)
            if self._card is not None and teacher.fingerprint != self._card.fingerprint:
                logger.warning("%s was trained with another teacher than %s", self.folder, teacher.source)
        self.index: AnswerIndex | None = None
        if (self.folder / ANSWERS_FOLDER / TEXTS_FILE).is_file():
            self.answer_from(AnswerIndex.load(self.folder / ANSWERS_FOLDER))

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

    @property
    def takes_vectors(self) -> bool:
        """Whether vectors may be put in: not into a lattice that takes token ids."""
        return self.model.tokens is None

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 over the files of the saved model, the answers and the model card apart; hexadecimal digits."""
        files = sorted(file for end in ("json", "safetensors") for file in self.folder.rglob(f"*.{end}"))
        own = [file for file in files if ANSWERS_FOLDER not in file.relative_to(self.folder).parts]
        parts = [f"{file.relative_to(self.folder)} {sha256_of(file)}" for file in own]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def predict(
        self,
        inputs: Sequence[str] | np.ndarray,
        output: Output = "embedding",
        k: int = 5,
        generation: Generation | None = None,
    ) -> list[dict[str, Any]]:
        """Predict for each input, in their order.

        Args:
            inputs: n texts, or the teacher's vectors of them.
            output: ``"embedding"``: ``{"embedding": [D numbers]}``. ``"answers"``: ``{"answers": [{"text": …,
                "score": cosine, "index": place in the index}, …]}``, the nearest first; of a run on pairs, each with
                ``"title"``, the input that it is the answer to. ``"text"``: ``{"text": …}``.
            k: Answers to each input, at least 1.
            generation: How texts are generated; None for greedily. Drawn texts hang on its seed and on the input alone.

        Returns:
            JSON-ready rows.

        Shapes:
            vectors [n, D].

        Raises:
            FileNotFoundError: When the teacher's files are missing.
            ValueError: When an input cannot be used (the first such row is named), or the model cannot give the output.
        """
        ready = self.ready(inputs)
        if ready.bad:
            raise ValueError(f"Row {min(ready.bad)}: {ready.bad[min(ready.bad)]}")
        return self.predict_ready(ready.rows, output, k, generation)

    def ready(self, inputs: Sequence[str] | np.ndarray) -> Ready:
        """Turn inputs into what the lattice takes, by the teacher or a tokenizer, and find those that cannot be used.

        Raises:
            FileNotFoundError: When the teacher's files are missing.
            ValueError: When the inputs cannot be used as a whole.
        """
        if not isinstance(inputs, np.ndarray):
            if self._text is not None and self.model.tokens is not None:
                rower = TokenRower(self._text.tokenizer, self._text.decoder.settings["length"])
                return ready_texts(inputs, rower, np.int64)
            return ready_texts(inputs, self.teacher)
        if not self.takes_vectors:
            raise ValueError(
                f"Vectors are for a lattice that takes embeddings; that in {self.folder} takes token ids. Give texts."
            )
        return ready_vectors(inputs, self.dim)

    def predict_ready(
        self, rows: np.ndarray, output: Output = "embedding", k: int = 5, generation: Generation | None = None
    ) -> list[dict[str, Any]]:
        """Do what `predict` does for rows that `ready` gave and found nothing wrong with."""
        self.check(output, k)
        found: list[dict[str, Any]] = []
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            if output == "text":
                found += [{"text": text} for text in self._texts(batch, generation or _GREEDY)]
            elif output == "answers":
                assert self.index is not None
                found += [{"answers": answers} for answers in self.index.rows(self.carry(batch), k)]
            else:
                found += [{"embedding": row} for row in self.carry(batch).tolist()]
        return found

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

    def answer_from(self, index: AnswerIndex) -> None:
        """Choose answers from an index, in place of the model's own.

        Raises:
            ValueError: When its vectors are of another dimension, or of another teacher than the model's.
        """
        known = self._card.fingerprint if self._card is not None else index.fingerprint
        if index.dim != self.dim or index.fingerprint not in ("", known):
            raise ValueError(
                f"Answers must be vectors of the model's teacher, {known[:12]}… of dimension {self.dim}; these are of "
                f"{index.fingerprint[:12]}… of {index.dim}. Index them again with this model."
            )
        self.index = index

    @torch.inference_mode()
    def carry(self, rows: np.ndarray) -> np.ndarray:
        """Carry ready rows through the lattice, a batch at a time: n rows → [n, D], float32.

        Raises:
            ValueError: When an answer is not finite; the row is named.
        """
        batches = torch.from_numpy(rows).split(BATCH) if len(rows) else ()
        carried = [self.model(batch.to(self._device)).embedding.cpu().numpy() for batch in batches]
        answers = np.concatenate([np.empty((0, self.dim), dtype=np.float32), *carried])
        finite = np.isfinite(answers).all(axis=1)
        if not finite.all():
            raise ValueError(
                f"A model's answers must be finite; that to row {int(np.argmin(finite))} is not. Its training "
                "diverged, or the vector is far larger than any it was trained on: check both."
            )
        return answers

    def _texts(self, rows: np.ndarray, generation: Generation) -> list[str]:
        assert self._text is not None
        seeds = torch.zeros(len(rows), dtype=torch.long)  # by its place, a row would hang on what shares its batch
        return self._text.generate(torch.from_numpy(rows).to(self._device), generation, seeds)


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


def save_companions(folder: Path, data: EmbeddingData, answers: bool = True) -> None:
    """Write beside a model what a `Predictor` needs: the teacher's name and, of pairs of texts, their answers.

    Args:
        folder: The saved model's.
        data: What it was trained on, prepared.
        answers: Whether its embeddings were trained, so that the nearest answers say something.
    """
    if data.encoder is not None:
        write_teacher(folder, data.encoder)
    if not (data.pairs and answers):
        return
    index = answers_of(data.splits, data.encoder.fingerprint if data.encoder else "")
    if index is not None:
        index.save(folder / ANSWERS_FOLDER)
