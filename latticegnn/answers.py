"""Answers to choose from: texts and their embeddings, and the search for those nearest to what a lattice answers."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from latticegnn.data.rows import check_matrix
from latticegnn.data.split import EmbeddingSplit
from latticegnn.data.vectors import REASONS, first_faults
from latticegnn.lattice.storage import write_atomically

Backend = Literal["exact", "faiss"]
FORMAT = "latticegnn.answers/1"
TEXTS_FILE, VECTORS_FILE = "answers.jsonl", "vectors.safetensors"
SPARE = 8
"""Answers that are looked at beyond the k asked for, so that ties at the end are seen."""

SCORES = 2**24
"""Scores that are held at once, give or take a row of them."""


class AnswerIndex:
    r"""Texts with an embedding each, and the k of them nearest to a query by cosine.

    .. math::
        s_{ij} = \frac{q_i}{\|q_i\|} \cdot \frac{v_j}{\|v_j\|}

    The search is exact: candidates come from a float32 product, at least all that its rounding could hide, and are
    scored and ordered in float64. Equal scores go by place. A query's answers so do not depend on what shares its batch
    or on the backend.

    Args:
        texts: n texts, n ≥ 1.
        vectors: Their embeddings, in the space of the queries; finite and not zero. What is kept is normalised.
        titles: What each text answers, such as the question of a training pair; None for nothing.
        fingerprint: Of the teacher that embedded them; "" where it is not known.
        backend: Where candidates come from: "exact", a matrix product in blocks, or "faiss" (IndexFlatIP, Johnson,
            Douze & Jégou 2017, arXiv:1702.08734; the extra ``faiss``), which holds a second copy of the vectors.

    Shapes:
        vectors [n, D].

    Raises:
        ModuleNotFoundError: For the backend "faiss" without faiss.
        ValueError: When the lengths differ, nothing is there, a vector is unsound, or the backend is unknown.
    """

    def __init__(
        self,
        texts: Sequence[str],
        vectors: np.ndarray,
        titles: Sequence[str] | None = None,
        fingerprint: str = "",
        backend: Backend = "exact",
    ) -> None:
        if backend not in get_args(Backend):
            raise ValueError(f"backend must be one of {list(get_args(Backend))}; got {backend!r}; choose one of them.")
        check_matrix("the array of answers", vectors.shape, vectors.dtype, np.issubdtype(vectors.dtype, np.floating))
        lengths = {len(texts), len(vectors), len(texts if titles is None else titles)}
        if lengths != {len(vectors)} or not len(vectors):
            raise ValueError(
                f"answers need a text, a vector and, where there are titles, a title each, at least one; got "
                f"{len(texts)} texts, {len(vectors)} vectors and {'no' if titles is None else len(titles)} titles; "
                "give as many of each."
            )
        vectors = vectors.astype(np.float32)
        found = first_faults(vectors, vectors)
        if (found >= 0).any():
            row = int(np.argmax(found >= 0))
            raise ValueError(
                f"an answer's vector must be finite and not zero; got {REASONS[found[row]]} for answer {row} "
                f"({texts[row][:60]!r}); leave it out."
            )
        self.texts, self.titles, self.fingerprint = list(texts), None if titles is None else list(titles), fingerprint
        self.vectors: np.ndarray = normalised(vectors).astype(np.float32)
        self.backend: Backend = backend
        self._flat = _flat_index(self.vectors) if backend == "faiss" else None

    def __len__(self) -> int:
        """Return the number of answers, n."""
        return len(self.texts)

    @property
    def dim(self) -> int:
        """D, the number of channels of a vector."""
        return int(self.vectors.shape[1])

    def searched_by(self, backend: Backend) -> AnswerIndex:
        """Return these answers with another backend; this index itself where it has that one."""
        if backend == self.backend:
            return self
        return AnswerIndex(self.texts, self.vectors, self.titles, self.fingerprint, backend)

    def digest(self) -> str:
        """Return the sha256 of texts, titles and vectors, in hexadecimal digits."""
        found = hashlib.sha256(json.dumps([self.texts, self.titles]).encode())
        found.update(self.vectors.tobytes())
        return found.hexdigest()

    def search(self, queries: np.ndarray, k: int = 5) -> tuple[np.ndarray, np.ndarray]:
        """Find the k answers of highest cosine with each query; all of them, in order, where there are fewer.

        Args:
            queries: Embeddings, finite and not zero.
            k: At least 1.

        Returns:
            Scores, falling, in −1…1, float64, and the answers' places in `texts`, int64.

        Shapes:
            queries [m, D] → [m, min(k, n)] twice.

        Raises:
            ValueError: When k is below 1, or the queries are of another dimension or unsound; the row is named.
        """
        if not isinstance(k, int) or isinstance(k, bool) or k < 1:
            raise ValueError(f"k counts answers, a whole number of at least 1; got {k!r}; 5 is the default.")
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise ValueError(
                f"queries must have the answers' dimension, [m, {self.dim}]; got {list(queries.shape)}; embed them "
                "with the teacher of the answers."
            )
        found = first_faults(queries, queries)
        if (found >= 0).any():
            row = int(np.argmax(found >= 0))
            raise ValueError(f"a query must be finite and not zero; got {REASONS[found[row]]} in row {row}; drop it.")
        exact = normalised(queries)
        block = max(1, SCORES // len(self))
        parts = [self._nearest(exact[at : at + block], min(k, len(self))) for at in range(0, len(exact), block)]
        scores, places = zip(*parts, strict=True) if parts else ((), ())
        empty = np.empty((0, min(k, len(self))))
        return np.concatenate([empty, *scores]), np.concatenate([empty.astype(np.int64), *places])

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``answers.jsonl`` and ``vectors.safetensors`` into a folder; each file appears whole or not at all."""
        from safetensors.numpy import save

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        rows: list[dict[str, str]] = [{"text": text} for text in self.texts]
        for row, title in zip(rows, self.titles or (), strict=False):
            row["title"] = title
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "surrogatepass")
        digest = hashlib.sha256(lines).hexdigest()
        header = {"format": FORMAT, "texts_sha256": digest, "fingerprint": self.fingerprint}
        write_atomically(folder / TEXTS_FILE, lines)
        write_atomically(folder / VECTORS_FILE, save({"vectors": self.vectors}, header))

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> AnswerIndex:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: When a file is missing.
            ValueError: When a file is damaged, or the two do not belong together.
        """
        from safetensors import safe_open

        folder = Path(folder)
        for name in (TEXTS_FILE, VECTORS_FILE):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"an answer index is a folder with {TEXTS_FILE} and {VECTORS_FILE}; {folder} has no {name}; pass "
                    "what `latticegnn index` wrote, or the folder model/answers of a run on pairs."
                )
        try:
            lines = (folder / TEXTS_FILE).read_bytes()
            rows = [json.loads(line) for line in lines.splitlines()]
            with safe_open(folder / VECTORS_FILE, framework="numpy") as file:
                header, vectors = file.metadata() or {}, file.get_tensor("vectors")
            if (header.get("format"), header.get("texts_sha256")) != (FORMAT, hashlib.sha256(lines).hexdigest()):
                raise ValueError(f"{VECTORS_FILE} has the header {header}, which is of other texts")
            titles = [row["title"] for row in rows] if "title" in rows[0] else None
            return cls([row["text"] for row in rows], vectors, titles, header.get("fingerprint", ""))
        except Exception as error:  # safetensors raises classes of its own
            raise ValueError(
                f"an answer index must be as it was saved; {folder} is not ({type(error).__name__}: {error}); index "
                "the answers again."
            ) from error

    def rows(self, queries: np.ndarray, k: int = 5) -> list[list[dict[str, Any]]]:
        """Give `search` as JSON-ready rows: text, score, index and, where there are titles, title of each answer."""
        found = []
        for scores, places in zip(*self.search(queries, k), strict=True):
            answers: list[dict[str, Any]] = []
            for score, place in zip(scores.tolist(), places.tolist(), strict=True):
                answers.append({"text": self.texts[place], "score": score, "index": place})
                if self.titles is not None:
                    answers[-1]["title"] = self.titles[place]
            found.append(answers)
        return found

    def _nearest(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the k best scores and places of a block; candidates double until no tie can lie beyond them."""
        # Two dot products of unit vectors in float32 differ from the exact ones by this at most, together.
        rounding = 2 * (self.dim + 1) * float(np.finfo(np.float32).eps)
        count = min(len(self), k + SPARE)
        while True:
            rough, places = self._candidates(queries.astype(np.float32), count)
            if count == len(self) or bool((rough[:, -1] < rough[:, k - 1] - rounding).all()):
                break
            count = min(len(self), 2 * count)
        # No BLAS: equal vectors must get equal scores, to the last bit.
        scores = np.stack([(self.vectors[row] * query).sum(1) for row, query in zip(places, queries, strict=True)])
        order = np.lexsort((places, -scores))[:, :k]
        return np.take_along_axis(scores, order, 1), np.take_along_axis(places, order, 1)

    def _candidates(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the float32 scores, falling, and places of each query's best answers."""
        if self._flat is not None:
            scores, places = self._flat.search(queries, count)
            return scores, places
        best = torch.topk(torch.from_numpy(queries) @ torch.from_numpy(self.vectors).T, count)
        return best.values.numpy(), best.indices.numpy()


def answers_of(splits: dict[str, EmbeddingSplit], fingerprint: str) -> AnswerIndex | None:
    """Index the target texts of all splits, each text once, titled by the first input that it answers.

    Args:
        splits: Rows of pairs.
        fingerprint: Of their teacher.

    Returns:
        The index; None where the rows have no texts.
    """
    titles: dict[str, str] = {}
    vectors = []
    for split in splits.values():
        fresh = []
        for row, text in enumerate(split.target_texts):
            if text not in titles:
                titles[text] = split.input_texts[row]
                fresh.append(row)
        vectors.append(split.targets[torch.tensor(fresh, dtype=torch.long)].numpy())
    return AnswerIndex(list(titles), np.concatenate(vectors), list(titles.values()), fingerprint) if titles else None


def normalised(vectors: np.ndarray) -> np.ndarray:
    """Divide rows [n, D] by their length, in float64."""
    wide = vectors.astype(np.float64)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)


def _flat_index(vectors: np.ndarray) -> Any:
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the backend faiss needs faiss; {error.name} is not installed; pip install 'latticegnn[faiss]'."
        ) from error
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return index
