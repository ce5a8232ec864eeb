"""Tokenizers: texts to token ids of a fixed length, and back."""

import functools
import hashlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from latticegnn.data import vocabularies
from latticegnn.data.sources import find_tokenizer, loading
from latticegnn.data.teacher import check_texts
from latticegnn.data.vocabularies import Kind

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

logger = logging.getLogger("latticegnn")


class Tokenizer:
    """A vocabulary as a pair of maps: `encode(texts, length) → ids, mask` and `decode(ids) → texts`.

    Made by `Tokenizer.load` or `Tokenizer.train`. What a text says is never read as a special token, even where it
    spells one ("[CLS]", "</s>"). What `decode(encode(text))` keeps of a text that was not cut depends on the kind
    that `train` is given:

    - `"bpe"` (byte-level BPE: Sennrich et al. 2016, arXiv:1508.07909; Radford et al. 2019): everything, exactly.
    - `"unigram"` (SentencePiece's model: Kudo 2018, arXiv:1804.10959, with byte fallback): everything, except that the
      character U+2581 "▁", SentencePiece's own mark, comes back as a space.
    - `"wordpiece"` (Devlin et al. 2019, arXiv:1810.04805, cased): words and punctuation marks, in order, with one space
      between any two. A word is lost when it has over 100 characters or one that the training texts did not have at
      such a place (at a word's start, or within). Control characters and U+FFFD are lost.
    - `"whitespace"` (word level): the words of the vocabulary, in order, with one space between; others are lost.

    A loaded tokenizer keeps what its own files say.

    Args:
        fast: The tokenizer of transformers; its truncation and padding are switched off.

    Attributes:
        truncated: How many texts the latest `encode` had to cut.
        vocab_size: Number of token ids: the greatest id + 1.
        pad_id: Id that fills a row; the end-of-text token's where there is no padding token.
        bos_id: Id that begins a text (BERT's [CLS]); None where there is none.
        eos_id: Id that ends a text (BERT's [SEP]); None where there is none.
        unk_id: Id of what the vocabulary cannot write; None where there is none.

    Raises:
        ValueError: When there is neither a padding nor an end-of-text token.
    """

    def __init__(self, fast: "PreTrainedTokenizerFast") -> None:
        """Take over a tokenizer of transformers; see the class."""
        self._fast = fast
        self._backend = fast.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = True  # in spite of its name: read special tokens in a text as text
        self.truncated = 0
        self.vocab_size = max(self._backend.get_vocab().values()) + 1
        self.bos_id: int | None = _first(fast.bos_token_id, fast.cls_token_id)
        self.eos_id: int | None = _first(fast.eos_token_id, fast.sep_token_id)
        self.unk_id: int | None = fast.unk_token_id
        pad_id = _first(fast.pad_token_id, self.eos_id)
        if pad_id is None:
            raise ValueError(
                f"A tokenizer needs a padding or an end-of-text token; that of {fast.name_or_path!r} has neither. Set "
                "its pad_token and save it again with save_pretrained."
            )
        self.pad_id: int = pad_id
        self._shield()

    def __repr__(self) -> str:
        """Name the model and the number of token ids."""
        return f"Tokenizer({type(self._backend.model).__name__}, vocab_size={self.vocab_size})"

    @classmethod
    def load(cls, source: str | Path, revision: str | None = None) -> "Tokenizer":
        """Read a tokenizer: what `save` wrote, or anything that AutoTokenizer makes a fast tokenizer of.

        Args:
            source: A directory, `"packaged:minilm"`, or a hub id. Weights are neither needed nor downloaded.
            revision: Branch, tag or commit of a hub id; None for the default one.

        Raises:
            FileNotFoundError: When the directory is missing or holds no vocabulary (as a half-written one does).
            ValueError: When the files are damaged, or the hub cannot supply them.
        """
        from transformers import AutoTokenizer, PreTrainedTokenizerFast

        source = str(source)
        directory = find_tokenizer(source, revision)
        with loading("tokenizer", "vocabulary", source, directory):
            fast = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        if not isinstance(fast, PreTrainedTokenizerFast):
            raise ValueError(
                f"A tokenizer must be one of the `tokenizers` library; {source!r} is a {type(fast).__name__}, which "
                "runs in Python alone. Convert it to tokenizer.json, or choose another."
            )
        return cls(fast)

    @classmethod
    def train(cls, texts: Sequence[str], kind: Kind, vocab_size: int) -> "Tokenizer":
        """Train a tokenizer on texts; the same texts give the same tokenizer, in every run.

        Args:
            texts: The corpus.
            kind: `"wordpiece"`, `"bpe"`, `"unigram"` or `"whitespace"`; see the class.
            vocab_size: Greatest number of tokens, with the special ones; few texts may yield fewer.

        Raises:
            ValueError: When an entry of `texts` is no string or has a lone surrogate, the texts hold no words, the
                kind is unknown, or `vocab_size` is too small for it (the least that works is named).
        """
        from transformers import PreTrainedTokenizerFast

        _check(texts)
        backend = vocabularies.train(texts, kind, vocab_size)
        return cls(PreTrainedTokenizerFast(tokenizer_object=backend, **vocabularies.special_tokens(kind)))

    def save(self, directory: str | Path) -> None:
        """Write the tokenizer to a directory, for `load` and for AutoTokenizer.

        tokenizer.json is moved there last and whole, and an older one removed first: should the process be killed, the
        directory holds no vocabulary, and `load` says so.

        Raises:
            ValueError: When the directory cannot be written.
        """
        directory = Path(directory).expanduser()
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=directory, prefix=".") as draft:
                self._fast.save_pretrained(draft)
                (directory / "tokenizer.json").unlink(missing_ok=True)
                for file in sorted(Path(draft).iterdir(), key=lambda file: file.name == "tokenizer.json"):
                    os.replace(file, directory / file.name)
        except OSError as error:
            raise ValueError(
                f"A tokenizer must be saved to a directory that can be written; {directory} cannot ({error.strerror}). "
                "Free some space or give another directory."
            ) from error

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 over everything that decides an id or a text: vocabulary, rules, special tokens; hexadecimal digits.

        The path is no part of it: a copy of a tokenizer is the same tokenizer.
        """
        identity: dict[str, Any] = json.loads(self._backend.to_str())
        identity["ids"] = [self.pad_id, self.bos_id, self.eos_id, self.unk_id]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def encode(self, texts: Sequence[str], length: int, bos: bool = False, eos: bool = False) -> tuple[Tensor, Tensor]:
        """Turn texts into rows of token ids, padded on the right or cut to `length`.

        A text that is cut keeps its `bos` and `eos`. A cut may fall within a character that bytes spell, which then
        decodes to U+FFFD.

        Args:
            texts: n texts.
            length: L, tokens a row, `bos` and `eos` included; at least 1, and room for both.
            bos: Begin each text with `bos_id`.
            eos: End each text with `eos_id`.

        Shapes:
            n texts → ids [n, L], int64, and mask [n, L], bool, True for a token and False for padding.

        Raises:
            ValueError: When `texts` is a single string, an entry is no string or has a lone surrogate, `length` is too
                small, or a token is asked for that the tokenizer does not have.
        """
        _check(texts)
        least = max(1, bos + eos)
        if length < least:
            raise ValueError(
                f"`length` counts the tokens of a row and must be at least {least} with bos={bos}, eos={eos}; received "
                f"{length}. Raise it."
            )
        start, end = self._asked("bos", bos, self.bos_id), self._asked("eos", eos, self.eos_id)
        room = length - len(start) - len(end)
        ids = torch.full((len(texts), length), self.pad_id)
        mask = torch.zeros(len(texts), length, dtype=torch.bool)
        self.truncated = 0
        for row, encoding in enumerate(self._backend.encode_batch(list(texts), add_special_tokens=False)):
            tokens = encoding.ids
            self.truncated += len(tokens) > room
            tokens = [*start, *tokens[:room], *end]
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = True
        if self.truncated:
            logger.warning(
                "%d of %d texts had more than length = %d tokens and were cut", self.truncated, len(texts), length
            )
        return ids, mask

    def decode(self, ids: Tensor) -> list[str]:
        """Turn rows of token ids into texts: each up to its first `eos_id`, without special tokens.

        Where one token both begins and ends a text (GPT-2's), a row's first token is taken for a beginning.

        Args:
            ids: Token ids, an integer type.

        Shapes:
            ids [n, L] → n texts.

        Raises:
            ValueError: When `ids` is no integer matrix, or an id is outside the vocabulary.
        """
        if ids.dim() != 2 or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
            raise ValueError(
                f"Token ids must be integers of shape [n, L]; received shape {list(ids.shape)} of type {ids.dtype}. "
                "Give one row a text, e.g. logits.argmax(-1)."
            )
        wrong = (ids < 0) | (ids >= self.vocab_size)
        if wrong.any():
            row, place = wrong.nonzero()[0].tolist()
            raise ValueError(
                f"Token ids must lie in 0 … {self.vocab_size - 1}; row {row} has {int(ids[row, place])} at token "
                f"{place}. Decode with the tokenizer that made the ids."
            )
        rows = []
        for row in ids.tolist():
            if row[:1] == [self.bos_id]:
                row = row[1:]
            rows.append(row[: row.index(self.eos_id)] if self.eos_id in row else row)
        return self._backend.decode_batch(rows, skip_special_tokens=True)

    def _asked(self, name: str, wanted: bool, token: int | None) -> list[int]:
        if wanted and token is None:
            raise ValueError(
                f"`{name}` asks for a token that the tokenizer must have; received {name}=True for {self!r}, which has "
                f"none. Leave it out, or set the tokenizer's {name}_token and save it again."
            )
        return [token] if wanted and token is not None else []

    def _shield(self) -> None:
        """Keep a model that has special tokens among its pieces from finding them in a text.

        Each such name is cut before its last character, which leaves two pieces that are not special.
        """
        special = set(self._fast.all_special_tokens) - {self._fast.unk_token}
        found = [
            name
            for name in sorted(special)
            if self._backend.token_to_id(name) in self._backend.encode(name, add_special_tokens=False).ids
        ]
        if not found:
            return
        from tokenizers import Regex, pre_tokenizers

        cut = "|".join(f"(?<={re.escape(name[:-1])})(?={re.escape(name[-1])})" for name in found)
        steps = [self._backend.pre_tokenizer] if self._backend.pre_tokenizer else []
        self._backend.pre_tokenizer = pre_tokenizers.Sequence([*steps, pre_tokenizers.Split(Regex(cut), "isolated")])


def _first(*ids: int | None) -> int | None:
    return next((token for token in ids if token is not None), None)


def _check(texts: Sequence[str]) -> None:
    check_texts(texts, batch_size=1)
    for index, text in enumerate(texts):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"Every text must be Unicode without lone surrogates; text {index} ({text[:60]!r}) holds "
                f"U+{ord(text[error.start]):04X} at character {error.start}. Remove it, or decode the text's source "
                "anew with errors='replace'."
            ) from None
