"""Word vectors as an encoder: a text's embedding is the mean of its words' vectors."""

import functools
import hashlib
import json
import logging
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from latticegnn.data.sources import sha256_of
from latticegnn.data.teacher import check_texts
from latticegnn.data.word_files import Format, load, survey

logger = logging.getLogger("latticegnn")

Unknown = Literal["error", "skip", "zero"]


class WordVectors:
    """Word2vec's or GloVe's vectors as a function from text to vector: `encode(texts) → [n, D]`, float32.

    A text's words are its parts between white space (`str.split`). A part that is not in the vocabulary is looked up
    again without the punctuation marks and symbols at both its ends (Unicode categories P and S); a part of nothing
    else is no word. A text's embedding is the mean of its words' vectors, repeated words counted each time.

    Mikolov et al. 2013, arXiv:1301.3781 (word2vec); Pennington, Socher & Manning 2014, GloVe, doi:10.3115/v1/D14-1162.

    Args:
        path: A file in word2vec's binary or text format or in GloVe's, not packed.
        format: `"word2vec-binary"`, `"word2vec-text"`, `"glove"`, or `"auto"`: a name that ends in `.bin` is binary;
            of the others, a first line of two whole numbers is word2vec's header, and without one the file is GloVe's.
        unknown: What a word out of the vocabulary does: `"error"` names text and word, and refuses a text without
            words; `"skip"` leaves the word out of the mean; `"zero"` counts it as a vector of zeros. Under the last
            two, a text without any known word is a row of zeros.
        lowercase: Look words up in lower case, for a vocabulary that has no other.
        limit: Read the first `limit` rows of the file, usually those of the most frequent words; None for all.

    Attributes:
        dim: D, the number of channels of an embedding.
        dropped: Rows of the file left out, by reason: `"nan"`, `"inf"`, `"duplicate"` (the first row of a word
            counts), `"encoding"` (the word is not UTF-8, as where the original tool cut one short).
        unknown_words: How many words the latest `encode` did not know, repeated ones counted each time.

    Raises:
        FileNotFoundError: When there is no such file.
        ModuleNotFoundError: Without gensim.
        ValueError: When a setting is out of range, the file is damaged or in another format, or the vectors do not fit
            the free memory.
    """

    pooling = "mean"

    def __init__(
        self,
        path: str | Path,
        format: Format = "auto",
        unknown: Unknown = "error",
        lowercase: bool = False,
        limit: int | None = None,
    ) -> None:
        """Read the file; see the class."""
        for name, value, allowed in (("format", format, Format), ("unknown", unknown, Unknown)):
            if value not in get_args(allowed):
                raise ValueError(
                    f"`{name}` must be one of {list(get_args(allowed))}; received {value!r}. "
                    f"{get_args(allowed)[0]!r} is the default."
                )
        if limit is not None and limit < 1:
            raise ValueError(f"`limit` counts words and must be at least 1; received {limit}. Give None for all.")
        self.source = str(path)
        self.unknown: Unknown = unknown
        self.lowercase = lowercase
        self.limit = limit
        self.unknown_words = 0
        self._path = Path(path)
        self._format, rows, self.dim = survey(self._path, format, limit)
        vectors = load(self._path, self._format, rows, self.dim)
        self._vectors: np.ndarray = vectors.vectors
        self._row: dict[str, int] = vectors.key_to_index
        self.dropped = {"duplicate": rows - len(self._row)} | self._drop_bad()
        if any(self.dropped.values()):
            logger.warning("dropped words of %s by reason: %s", path, self.dropped)
        if not self._row:
            raise ValueError(
                f"Word vectors must keep at least one word; {path} has none after dropping {self.dropped}. "
                "Get the file again."
            )

    def __repr__(self) -> str:
        """Name the source, its size and what becomes of unknown words."""
        return f"WordVectors({self.source!r}, {len(self)} words, dim={self.dim}, unknown={self.unknown!r})"

    def __len__(self) -> int:
        """Return the number of words."""
        return len(self._row)

    def __contains__(self, word: str) -> bool:
        """Return whether the vocabulary has this very word (in lower case, where `lowercase` is set)."""
        return self._cased(word) in self._row

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 over everything that decides an embedding: the file's content and the settings; hexadecimal digits."""
        identity = {
            "file": sha256_of(self._path),
            "format": self._format,
            "unknown": self.unknown,
            "lowercase": self.lowercase,
            "limit": self.limit,
            "pooling": self.pooling,
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def vector(self, word: str) -> np.ndarray:
        """Return the vector of one word, [D], float32."""
        if word not in self:
            raise ValueError(
                f"A word must be in the vocabulary; received {word!r}, which {self.source} of {len(self)} words lacks. "
                "Ask with `in` first."
            )
        return self._vectors[self._row[self._cased(word)]].copy()

    def encode(self, texts: Sequence[str], batch_size: int = 32, progress: bool = False) -> np.ndarray:
        """Embed texts, in their order.

        Args:
            texts: n texts.
            batch_size: Without effect, as texts are read one by one; at least 1.
            progress: Show a progress bar on the terminal.

        Shapes:
            n texts → [n, D], float32; no texts → [0, D].

        Raises:
            ValueError: When `texts` is a single string, an entry is no string, or `batch_size` < 1; and, where
                `unknown` is `"error"`, when a text has an unknown word or no word at all.
        """
        from tqdm import tqdm

        check_texts(texts, batch_size)
        self.unknown_words = 0
        embeddings = np.zeros((len(texts), self.dim), dtype=np.float32)
        for index, text in enumerate(tqdm(texts, desc="embedding", unit="text", disable=not progress)):
            rows, unknown = self._look_up(text)
            if self.unknown == "error" and (unknown or not rows):
                found = f"text {index} ({text[:60]!r}) has {repr(unknown[0]) if unknown else 'no word'}"
                raise ValueError(
                    f"Every text must consist of known words while `unknown` is 'error'; {found}, {self.source} has "
                    f"{len(self)} others. Set unknown to 'skip' or 'zero', or remove the text."
                )
            self.unknown_words += len(unknown)
            count = len(rows) + (len(unknown) if self.unknown == "zero" else 0)
            if rows:
                embeddings[index] = self._vectors[rows].sum(axis=0, dtype=np.float64) / count
        return embeddings

    def _look_up(self, text: str) -> tuple[list[int], list[str]]:
        """Return the rows of a text's known words, and its unknown words."""
        rows, unknown = [], []
        for token in self._cased(text).split():
            word = token if token in self._row else _bare(token)
            if word in self._row:
                rows.append(self._row[word])
            elif word:
                unknown.append(word)
        return rows, unknown

    def _cased(self, text: str) -> str:
        return text.lower() if self.lowercase else text

    def _drop_bad(self) -> dict[str, int]:
        """Take the words out whose vector or name cannot be used; count them by reason."""
        nan, inf = np.isnan(self._vectors).any(axis=1), np.isinf(self._vectors).any(axis=1)
        dropped = {"nan": 0, "inf": 0, "encoding": 0}
        for word, row in list(self._row.items()):
            reason = "nan" if nan[row] else "inf" if inf[row] else "encoding" if not _is_utf8(word) else None
            if reason:
                dropped[reason] += 1
                del self._row[word]
        return dropped


def _bare(token: str) -> str:
    """Return a token without the punctuation marks and symbols at its ends."""
    inner = [place for place, sign in enumerate(token) if unicodedata.category(sign)[0] not in "PS"]
    return token[inner[0] : inner[-1] + 1] if inner else ""


def _is_utf8(word: str) -> bool:
    return not any("\udc80" <= sign <= "\udcff" for sign in word)  # what surrogateescape makes of other bytes
