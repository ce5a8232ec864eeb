"""Train a tokenizer's vocabulary on a corpus, by the `tokenizers` library, with the same result in every run."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import tokenizers

Kind = Literal["wordpiece", "bpe", "unigram", "whitespace"]

# The space inside makes them unspeakable: no kind's pieces hold one, so no text can be read as a special token.
SPECIAL = {"pad_token": "< pad >", "bos_token": "< bos >", "eos_token": "< eos >", "unk_token": "< unk >"}
"""Role of a special token → its name; byte-level BPE, which can write everything, has no "unk"."""

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
"""Names of the pieces that spell what no other piece can; the decoder `ByteFallback` knows them by these."""


def special_tokens(kind: Kind) -> dict[str, str]:
    """Return role → name of the special tokens of a kind."""
    return {role: name for role, name in SPECIAL.items() if kind != "bpe" or role != "unk_token"}


def train(texts: Sequence[str], kind: Kind, vocab_size: int) -> "tokenizers.Tokenizer":
    """Train a tokenizer; see `latticegnn.data.Tokenizer.train`."""
    if kind not in get_args(Kind):
        raise ValueError(f"`kind` must be one of {list(get_args(Kind))}; received {kind!r}. Choose one of them.")
    empty = {"wordpiece": _wordpiece, "bpe": _bpe, "unigram": _unigram, "whitespace": _whitespace}[kind]()
    words = _words(empty, texts)
    if not words:
        raise ValueError(
            f"A tokenizer must be trained on texts that hold words; received {len(texts)} texts without any. "
            "Give the inputs of a corpus, e.g. sentences().splits['train'].inputs."
        )
    names = list(special_tokens(kind).values())
    characters = sorted(set().union(*words))
    inner = sorted({"##" + character for word in words for character in word[1:]})
    least = (
        len(names)
        + {
            "wordpiece": len(characters) + len(inner),
            "bpe": len(BYTES),
            "unigram": len(BYTES) + len(characters) + 1,  # given no room beyond the characters, the trainer overruns
            "whitespace": 1,
        }[kind]
    )
    if vocab_size < least:
        raise ValueError(
            f"`vocab_size` must leave room for the special tokens and the smallest pieces; received {vocab_size}, and "
            f"kind {kind!r} needs at least {least} on these texts. Set vocab_size to {least} or more."
        )
    if kind == "wordpiece":
        return _train_wordpiece(empty, texts, names, inner, vocab_size)
    if kind == "unigram":
        return _train_unigram(empty, texts, names, vocab_size)
    from tokenizers import pre_tokenizers, trainers

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = (
        trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=names, initial_alphabet=alphabet, show_progress=False)
        if kind == "bpe"
        else trainers.WordLevelTrainer(vocab_size=vocab_size, special_tokens=names, show_progress=False)
    )
    empty.train_from_iterator(texts, trainer)
    return empty


def _words(tokenizer: "tokenizers.Tokenizer", texts: Sequence[str]) -> set[str]:
    """Return the distinct words of the texts, as the tokenizer's own first steps cut them."""
    if tokenizer.normalizer is not None:
        texts = [tokenizer.normalizer.normalize_str(text) for text in texts]
    return {word for text in texts for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)}


def _wordpiece() -> "tokenizers.Tokenizer":
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.WordPiece(unk_token=SPECIAL["unk_token"]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return tokenizer


def _bpe() -> "tokenizers.Tokenizer":
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _unigram() -> "tokenizers.Tokenizer":
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.Unigram())
    # A word is the same piece at the start of a text as within it. The decoder takes that one space away again.
    tokenizer.normalizer = normalizers.Prepend(" ")
    # Cut after every "<", a text's "<0x41>" is not read as the piece of that name.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="never"), pre_tokenizers.Split("<", "merged_with_previous")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def _whitespace() -> "tokenizers.Tokenizer":
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel(unk_token=SPECIAL["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def _train_wordpiece(
    tokenizer: "tokenizers.Tokenizer", texts: Sequence[str], names: list[str], inner: list[str], vocab_size: int
) -> "tokenizers.Tokenizer":
    from tokenizers import models, trainers

    # The trainer numbers inner characters in the order of a hash map and breaks ties by those numbers
    # (github.com/huggingface/tokenizers/issues/1794). Named beforehand, they are numbered in the order given.
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=[*names, *inner], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    trained = _wordpiece()
    trained.model = models.WordPiece(tokenizer.get_vocab(with_added_tokens=True), unk_token=SPECIAL["unk_token"])
    trained.add_special_tokens(names)
    return trained


def _train_unigram(
    tokenizer: "tokenizers.Tokenizer", texts: Sequence[str], names: list[str], vocab_size: int
) -> "tokenizers.Tokenizer":
    from tokenizers import models, trainers

    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size - len(BYTES),
        special_tokens=names,
        unk_token=SPECIAL["unk_token"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    pieces = dict(json.loads(tokenizer.to_str())["model"]["vocab"][len(names) :])
    # The trainer sums in the order of a hash map, which moves a score by some 1e-11, and in that order too it sets rare
    # characters apart by steps of 1e-4 above the lowest score. Rounded, and with one score for those, all runs agree.
    lowest = min(pieces.values())
    rare = lowest + 1e-4 * sum(len(piece) == 1 for piece in pieces)
    scores = {p: round(lowest if len(p) == 1 and score <= rare else score, 3) for p, score in pieces.items()}
    vocabulary = [*((name, 0.0) for name in (*names, *BYTES)), *sorted(scores.items(), key=lambda s: (-s[1], s[0]))]
    tokenizer.model = models.Unigram(vocabulary, unk_id=names.index(SPECIAL["unk_token"]), byte_fallback=True)
    return tokenizer
