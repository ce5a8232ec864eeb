"""Tokenizers: what comes back of a text, look-alikes of special tokens, the same training twice, damaged folders."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latticegnn.data import Tokenizer
from latticegnn.data.vocabularies import SPECIAL

TEXTS = [
    "The cat sat on the mat.",
    "A dog, a cat <pad> & a small bird!",
    "the cat sits under the red rug",
    "naïve café 中文 😀 <0x41> [CLS]",
    "a bird sings on the mat, the dog sits",
]
SIZES = {"wordpiece": 120, "bpe": 300, "unigram": 330, "whitespace": 40}
KINDS = sorted(SIZES)
HOSTILE = [
    "",
    " ",
    "  two  leading, one trailing ",
    "\t\r\n\x0b\u3000\u00a0",
    "\0 and \0\0",
    "👩‍👩‍👧‍👦 🏳️‍🌈",
    "e\u0301 \u0301 Z͑ͫ̓",
    "שלום עולם مرحبا \u202eabc\u202c",
    "\ufeffBOM \ufffd \U0010ffff",
    "<pad></s>[CLS][SEP][MASK]<|endoftext|><unk>",
    "".join(SPECIAL.values()),
    "<0x41><0x00>< 0x41 ><",
    "##ing ## Ġ Ċ",
    "x" * 300,
]
# What hypothesis draws from: any text, and texts thick with the spellings that a tokenizer might trip over.
unicode = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
spelt = st.lists(st.sampled_from([*HOSTILE, *TEXTS, "the", "cat", " ", "<", ">", "▁"]), max_size=6).map("".join)
any_text = st.one_of(unicode, spelt)


@pytest.fixture(scope="module")
def trained() -> dict[str, Tokenizer]:
    return {kind: Tokenizer.train(TEXTS, kind, size) for kind, size in SIZES.items()}


def round_trip(tokenizer: Tokenizer, text: str) -> str:
    length = 8 * len(text.encode()) + 8
    ids, mask = tokenizer.encode([text], length, bos=True, eos=True)
    assert tokenizer.truncated == 0
    inner = ids[0, 1 : int(mask.sum()) - 1].tolist()
    assert not {tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id} & set(inner)
    (decoded,) = tokenizer.decode(ids)
    return decoded


def surviving(tokenizer: Tokenizer, text: str) -> str:
    """What the class promises of a WordPiece tokenizer, from the words that BERT's own first steps cut."""
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    clean = BertNormalizer(lowercase=False, strip_accents=False).normalize_str(text)
    pieces = tokenizer._backend.get_vocab()
    words = [word for word, _ in BertPreTokenizer().pre_tokenize_str(clean)]
    known = [w for w in words if len(w) <= 100 and w[0] in pieces and all("##" + c in pieces for c in w[1:])]
    return " ".join(known)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_come_back(trained, text):
    assert round_trip(trained["bpe"], text) == text
    assert round_trip(trained["unigram"], text) == text


@settings(max_examples=200, deadline=None)
@given(text=any_text)
def test_byte_level_bpe_keeps_every_text(trained, text):
    assert round_trip(trained["bpe"], text) == text


@settings(max_examples=200, deadline=None)
@given(text=any_text)
def test_unigram_keeps_all_but_its_own_mark(trained, text):
    assert round_trip(trained["unigram"], text) == text.replace("▁", " ")


@settings(max_examples=150, deadline=None)
@given(text=any_text)
def test_wordpiece_keeps_words_of_known_characters(trained, text):
    assert round_trip(trained["wordpiece"], text) == surviving(trained["wordpiece"], text)


@settings(max_examples=150, deadline=None)
@given(text=any_text)
def test_whitespace_keeps_the_words_it_knows(trained, text):
    known = set(" ".join(TEXTS).split())
    # Rust and Python agree on whitespace but for the four separators U+001C … U+001F.
    words = text.translate(dict.fromkeys(range(0x1C, 0x20), "x")).split()
    assert round_trip(trained["whitespace"], text) == " ".join(word for word in words if word in known)


def test_wordpiece_and_whitespace_known_answers(trained):
    assert round_trip(trained["wordpiece"], " The  cat,sat!\tcafé") == "The cat , sat ! café"
    assert round_trip(trained["wordpiece"], "the xylophone cat") == "the cat"  # no x was ever seen
    assert round_trip(trained["whitespace"], "the  red\n cat flies") == "the red cat"
    ids, _ = trained["whitespace"].encode(["the zebra"], 3)
    assert ids[0, 1:].tolist() == [trained["whitespace"].unk_id, trained["whitespace"].pad_id]


@pytest.mark.parametrize("kind", KINDS)
def test_ids_mask_and_special_tokens(trained, kind):
    tokenizer = trained[kind]
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2)
    assert tokenizer.unk_id == (None if kind == "bpe" else 3)
    assert tokenizer.vocab_size <= SIZES[kind]
    bare, bare_mask = tokenizer.encode(["the cat", ""], 12)
    ids, mask = tokenizer.encode(["the cat", ""], 12, bos=True, eos=True)
    assert (ids.dtype, mask.dtype, ids.shape, mask.shape) == (torch.int64, torch.bool, (2, 12), (2, 12))
    count = int(bare_mask[0].sum())
    assert ids[0].tolist() == [1, *bare[0, :count].tolist(), 2] + [0] * (10 - count)
    assert ids[1].tolist() == [1, 2] + [0] * 10
    assert torch.equal(mask, ids != 0)
    assert not bare_mask[1].any()
    assert tokenizer.encode([], 5)[0].shape == (0, 5)
    assert tokenizer.decode(torch.zeros(0, 5, dtype=torch.long)) == []


def test_cut_texts_are_counted_and_keep_their_ends(trained, caplog):
    tokenizer = trained["whitespace"]
    with caplog.at_level(logging.WARNING, logger="latticegnn"):
        ids, mask = tokenizer.encode(["the cat sits on the mat.", "the red cat"], 5, bos=True, eos=True)
    assert tokenizer.truncated == 1
    assert "1 of 2 texts" in caplog.text
    assert mask.all()
    assert ids[:, 0].tolist() == [1, 1]
    assert ids[:, -1].tolist() == [2, 2]
    assert tokenizer.decode(ids) == ["the cat sits", "the red cat"]
    tokenizer.encode(["the cat"], 2)
    assert tokenizer.truncated == 0


def test_decoding_stops_at_the_end_token(trained):
    tokenizer = trained["bpe"]
    (ids,), _ = tokenizer.encode(["ab"], 2)
    row = [1, *ids.tolist(), 0, 2, *ids.tolist()]
    assert tokenizer.decode(torch.tensor([row])) == ["ab"]
    assert tokenizer.decode(torch.tensor([row], dtype=torch.int32)) == ["ab"]


@pytest.mark.parametrize("kind", KINDS)
def test_training_twice_gives_the_same_tokenizer(kind):
    texts = [f"{a}{b} {b}{c}{a}, word{a}é {c}" for a in "abcdefgh" for b in "ijklm" for c in "nop☃✈"]
    assert len({Tokenizer.train(texts, kind, 400).fingerprint for _ in range(6)}) == 1
    assert Tokenizer.train(texts[1:], kind, 400).fingerprint != Tokenizer.train(texts, kind, 400).fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_saving_and_loading(tmp_path, trained, kind):
    tokenizer = trained[kind]
    tokenizer.save(tmp_path / "new" / "folder")
    tokenizer.save(tmp_path / "new" / "folder")
    loaded = Tokenizer.load(tmp_path / "new" / "folder")
    assert loaded.fingerprint == tokenizer.fingerprint
    assert repr(loaded) == repr(tokenizer)
    for mine, other in zip(tokenizer.encode(HOSTILE, 50), loaded.encode(HOSTILE, 50), strict=True):
        assert torch.equal(mine, other)
    assert {file.name for file in (tmp_path / "new" / "folder").iterdir()} == {
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_loaded_settings_do_not_reach_encode(tmp_path, trained):
    """A tokenizer.json may hold its own cutting and padding, as MiniLM's does."""
    trained["bpe"].save(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    loaded = Tokenizer.load(tmp_path)
    assert round_trip(loaded, TEXTS[0]) == TEXTS[0]
    assert loaded.fingerprint == trained["bpe"].fingerprint


@pytest.mark.parametrize("model", ["unigram", "words"])
def test_pieces_that_spell_special_tokens_stay_text(tmp_path, model):
    """T5 and word-level vocabularies hold "</s>" among their pieces; a text that says so means no end."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<pad>", "</s>", "<unk>", "▁", "a", "b", "<", "/", "s", ">", "</s"]
    if model == "unigram":
        backend = Backend(models.Unigram([(piece, -float(i > 2)) for i, piece in enumerate(pieces)], 2))
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    else:
        backend = Backend(models.WordLevel({piece: index for index, piece in enumerate(pieces)}, "<unk>"))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    text = "a </s> b"
    (decoded,) = tokenizer.decode(tokenizer.encode([text], 40, eos=True)[0])
    assert decoded == (text if model == "unigram" else "a </s > b")
    tokenizer.save(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again").fingerprint == tokenizer.fingerprint


def test_one_token_for_beginning_end_and_padding(tmp_path):
    """GPT-2's way."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    end = "<|endoftext|>"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE({piece: index for index, piece in enumerate([*alphabet, end])}, []))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=end, eos_token=end, unk_token=end)
    fast.save_pretrained(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.vocab_size) == (256, 256, 256, 257)
    for text in HOSTILE:
        ids, _ = tokenizer.encode([text], 1500, bos=True, eos=True)
        assert tokenizer.decode(ids) == [text]


def test_berts_tokenizer_loads_without_weights(tmp_path):
    whole = Tokenizer.load("packaged:minilm")
    assert (whole.vocab_size, whole.pad_id, whole.unk_id, whole.bos_id, whole.eos_id) == (30522, 0, 100, 101, 102)
    ids, mask = whole.encode(["Hello world", "[SEP] [CLS]"], 8, bos=True, eos=True)
    assert ids[0].tolist() == [101, 7592, 2088, 102, 0, 0, 0, 0]
    assert not {101, 102} & set(ids[1, 1:-1].tolist())
    assert whole.decode(ids)[0] == "hello world"
    assert mask.sum(dim=1).tolist() == [4, 8]
    whole.save(tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))
    assert Tokenizer.load(tmp_path).fingerprint == whole.fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_the_least_vocabulary_that_works_is_named_and_works(refuses, kind):
    with pytest.raises(ValueError) as error:
        Tokenizer.train(TEXTS, kind, 1)
    least = int(str(error.value).split("needs at least ")[1].split()[0])
    with refuses("must leave room", f"received {least - 1}", f"Set vocab_size to {least}"):
        Tokenizer.train(TEXTS, kind, least - 1)
    assert Tokenizer.train(TEXTS, kind, least).vocab_size == least


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
def test_an_empty_corpus(refuses, kind, texts):
    with refuses("texts that hold words", f"received {len(texts)} texts", "Give the inputs of a corpus"):
        Tokenizer.train(texts, kind, 500)


def test_bad_texts_and_kinds(refuses, trained):
    with refuses("one of ['wordpiece', 'bpe', 'unigram', 'whitespace']", "'gpt'", "Choose one"):
        Tokenizer.train(TEXTS, "gpt", 300)
    for call in (lambda texts: Tokenizer.train(texts, "bpe", 300), lambda texts: trained["bpe"].encode(texts, 4)):
        with refuses("must be a list", "'the cat'", "[text]"):
            call("the cat")
        with refuses("must be a string", "text 1 is 7 of type int", "Convert"):
            call(["the cat", 7])
        with refuses("without lone surrogates", "text 1 ('a\\ud800') holds U+D800 at character 1", "errors='replace'"):
            call(["a", "a\ud800"])


def test_bad_lengths_and_ids(refuses, trained):
    tokenizer = trained["bpe"]
    with refuses("must be at least 1", "received 0", "Raise it"):
        tokenizer.encode(["a"], 0)
    with refuses("must be at least 2", "received 1", "Raise it"):
        tokenizer.encode(["a"], 1, bos=True, eos=True)
    size = tokenizer.vocab_size
    for wrong in (size, -1):
        with refuses(f"0 … {size - 1}", f"row 1 has {wrong} at token 0", "Decode with the tokenizer"):
            tokenizer.decode(torch.tensor([[5, 6], [wrong, 5]]))
    for ids in (torch.zeros(3, dtype=torch.long), torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool)):
        with refuses("integers of shape [n, L]", str(list(ids.shape)), "one row a text"):
            tokenizer.decode(ids)


def test_folders_that_hold_no_tokenizer(tmp_path, refuses, trained):
    with refuses("must be an existing directory", "missing", "Check the path", FileNotFoundError):
        Tokenizer.load(tmp_path / "missing" / "tokenizer")
    with refuses("must hold its vocabulary", "none of them", "Save the tokenizer", FileNotFoundError):
        Tokenizer.load(tmp_path)
    with refuses("chooses a version", "'main'", "Leave `revision` out"):
        Tokenizer.load(tmp_path, revision="main")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with refuses("must hold its vocabulary", str(tmp_path), "Save the tokenizer", FileNotFoundError):
        Tokenizer.load(tmp_path)
    (tmp_path / "file").touch()
    with refuses("can be written", str(tmp_path / "file"), "another directory"):
        trained["bpe"].save(tmp_path / "file")


def test_damaged_and_half_written_folders(tmp_path, refuses, trained):
    trained["bpe"].save(tmp_path / "whole")
    for name, keep in (("half", 0.5), ("nothing", 0.0)):
        cut = Path(shutil.copytree(tmp_path / "whole", tmp_path / name)) / "tokenizer.json"
        cut.write_bytes(cut.read_bytes()[: int(keep * cut.stat().st_size)])
        with refuses("must be loadable", str(tmp_path / name), "Save the tokenizer again"):
            Tokenizer.load(tmp_path / name)
    config = Path(shutil.copytree(tmp_path / "whole", tmp_path / "config")) / "tokenizer_config.json"
    config.unlink()
    with refuses("padding or an end-of-text token", str(tmp_path / "config"), "save it again"):
        Tokenizer.load(tmp_path / "config")


def test_an_interrupted_save_is_recognised(tmp_path, refuses, trained, monkeypatch):
    """Killed before the last file is moved, the folder must not pass for the tokenizer that lay there before."""
    import os

    trained["bpe"].save(tmp_path)
    replace = os.replace

    def killed(source, target):
        if Path(target).name == "tokenizer.json":
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        trained["unigram"].save(tmp_path)
    with refuses("must hold its vocabulary", "saving it was interrupted", "Save the tokenizer", FileNotFoundError):
        Tokenizer.load(tmp_path)


def test_a_token_that_is_not_there(tmp_path, refuses, tiny):
    tokenizer = Tokenizer.load(tiny())
    assert tokenizer.bos_id is None
    with refuses("a token that the tokenizer must have", "bos=True", "Leave it out"):
        tokenizer.encode(["the cat"], 4, bos=True)
    with refuses("padding or an end-of-text token", "neither", "Set its pad_token"):
        Tokenizer.load(tiny(pad=False, eos=False))
