"""TextModel: joined, saved and loaded bit for bit with every kind of tokenizer, and clear words for damaged parts."""

import json
import shutil

import pytest
import torch

import latticegnn as lg
from latticegnn.data import Tokenizer
from latticegnn.lattice import LatticeSpec
from latticegnn.model import LatticeModel
from latticegnn.nn import Generation, TextDecoder, build_decoder
from latticegnn.nn.generation import until_end
from latticegnn.text_model import TextModel

SPEC = LatticeSpec((3, 3, 4), radii=(0.5, 1.0, 1.5))
TEXTS = ["the cat sat on the mat", "a dog, a cat & a small bird!", "the red rug", "a bird sings"]
SIZES = {"wordpiece": 120, "bpe": 290, "unigram": 330, "whitespace": 40}
L = 9


def tokenizer_of(kind: str) -> Tokenizer:
    return Tokenizer.load("packaged:minilm") if kind == "minilm" else Tokenizer.train(TEXTS, kind, SIZES[kind])


def make(kind: str = "whitespace", decoder: str = "transformer", source: str = "embedding", **settings) -> TextModel:
    tokenizer = tokenizer_of(kind)
    fixed = {"embedding_dim": 6, "channels": 3, "hidden": 4, "steps": 4, "readout": "ports_full"}
    lattice = LatticeModel(SPEC, **fixed | settings)
    numbers = {"vocab_size": tokenizer.vocab_size, "pad_id": tokenizer.pad_id, "eos_id": tokenizer.eos_id}
    more = {"transformer": {"bos_id": tokenizer.bos_id, "dim": 8, "heads": 2, "layers": 1}, "ports": {"channels": 3}}
    width = 6 if source == "embedding" else lattice.extractor.width
    built = build_decoder({"kind": decoder, "width": width, "length": L} | numbers | more.get(decoder, {}))
    return TextModel(lattice, built, tokenizer, source)


def inputs(model: TextModel) -> torch.Tensor:
    if model.lattice.tokens is not None:
        return model.tokenizer.encode(TEXTS, 9, eos=True)[0]
    return torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


def tokens_of(tokenizer: Tokenizer) -> dict:
    return {"tokens": {"vocab_size": tokenizer.vocab_size, "pad_id": tokenizer.pad_id}}


CASES = {
    "wordpiece": ("wordpiece", "transformer", "embedding", False),
    "bpe": ("bpe", "transformer", "code", False),
    "unigram": ("unigram", "linear", "code", False),
    "whitespace, tokens in": ("whitespace", "ports", "code", True),
    "minilm, tokens in": ("minilm", "transformer", "code", True),
    "counting": ("whitespace", "majority", "embedding", False),
}


@pytest.mark.parametrize("case", CASES)
def test_a_model_comes_back_bit_for_bit(case, tmp_path) -> None:
    kind, decoder, source, takes_tokens = CASES[case]
    model = make(kind, decoder, source, **(tokens_of(tokenizer_of(kind)) if takes_tokens else {})).eval()
    model.save_pretrained(tmp_path / "new" / "model")
    again = TextModel.from_pretrained(str(tmp_path / "new" / "model"))
    assert again.source == source
    assert again.decoder.settings == model.decoder.settings
    assert again.lattice.settings == model.lattice.settings
    assert again.tokenizer.fingerprint == model.tokenizer.fingerprint
    assert list(again.state_dict()) == list(model.state_dict())
    assert all(torch.equal(again.state_dict()[key], value) for key, value in model.state_dict().items())
    given, rows = inputs(model), model.tokenizer.encode(TEXTS, L, eos=True)[0]
    assert torch.equal(again(given, rows), model(given, rows))
    for generation in (Generation(), Generation("beam", beams=2), Generation("sample", seed=3)):
        texts = model.generate(given, generation)
        assert again.generate(given, generation) == texts
        assert len(texts) == 4
        assert all(isinstance(text, str) for text in texts)
    assert not again.training
    alone = LatticeModel.from_pretrained(tmp_path / "new" / "model")
    assert torch.equal(alone(given).embedding, model.lattice(given).embedding)


def test_the_folder_holds_json_and_safetensors_alone(tmp_path) -> None:
    make().save_pretrained(tmp_path)
    files = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()}
    parts = {"config.json", "model.safetensors", "decoder/config.json", "decoder/model.safetensors"}
    assert {name for name in files if not name.startswith("tokenizer/")} == parts
    assert {name.rpartition(".")[2] for name in files} == {"json", "safetensors"}


@pytest.mark.parametrize("kind", [*SIZES, "minilm"])
def test_every_tokenizer_is_learned_to_be_spoken(kind) -> None:
    """A decoder behind fixed vectors learns four texts exactly, whatever their tokens are."""
    tokenizer = tokenizer_of(kind)
    rows = tokenizer.encode(TEXTS, 16, eos=True)[0]
    numbers = tokenizer.vocab_size, 16, tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id
    decoder = TextDecoder(6, *numbers, dim=16, layers=1, heads=2, dropout=0.0)
    code, kept = torch.eye(6)[:4], until_end(rows, tokenizer.eos_id)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=2e-2)
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(decoder(code, rows)[kept], rows[kept])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.equal(decoder.generate(code), rows)
    assert tokenizer.decode(decoder.generate(code, Generation("beam"))) == tokenizer.decode(rows)


@pytest.mark.parametrize("source", ["embedding", "code"])
def test_the_decoder_reads_what_its_source_says_and_the_gradient_reaches_all_that_it_reads(source) -> None:
    model = make(source=source)
    given, rows = inputs(model), model.tokenizer.encode(TEXTS, L, eos=True)[0]
    out = model.lattice(given)
    assert torch.equal(model.read(given), out.embedding if source == "embedding" else out.code)
    torch.testing.assert_close(model.eval()(given, rows), model.decoder(getattr(out, source), rows))
    model(given, rows).log_softmax(dim=-1).square().sum().backward()
    idle = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert {name.partition(".")[0] for name in idle} <= {"lattice"}
    if source == "code":  # the linear readout serves the embedding alone
        assert {"lattice.transformer.decoder.weight", "lattice.transformer.decoder.bias"} <= idle
    else:
        assert not {name for name in idle if "transformer" in name}


def test_generation_leaves_the_mode_and_the_batch_alone() -> None:
    model = make()
    given, seeds = inputs(model), torch.tensor([5, 1, 5, 0])
    sample = Generation("sample", temperature=2.0)
    texts = model.train().generate(given, sample, seeds)
    assert model.training
    assert model.decoder.training
    assert [model.generate(given[k : k + 1], sample, seeds[k : k + 1])[0] for k in range(4)] == texts
    assert model.generate(given[:0]) == []


def test_public_names() -> None:
    assert (lg.TextModel, lg.TextDecoder, lg.Generation) == (TextModel, TextDecoder, Generation)


def test_parts_that_do_not_fit_are_refused(refuses) -> None:
    model = make()
    with refuses("source must be one of embedding, code", "'state'", "choose one"):
        TextModel(model.lattice, model.decoder, model.tokenizer, "state")
    with refuses("27 numbers with source: code", "one of width 6", "width=27"):
        TextModel(model.lattice, model.decoder, model.tokenizer, "code")
    other = tokenizer_of("bpe")
    with refuses("decoder's token ids must be those of its tokenizer", f"'vocab_size': {other.vocab_size}", "numbers"):
        TextModel(model.lattice, model.decoder, other)
    with refuses("lattice's token ids must be those", "'vocab_size': 7", "build the lattice"):
        make(tokens={"vocab_size": 7, "pad_id": 0})


@pytest.fixture
def saved(tmp_path):
    make().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("part", ["decoder", "tokenizer"])
def test_a_missing_part_is_named(saved, part, refuses) -> None:
    shutil.rmtree(saved / part)
    with refuses("decoder and tokenizer in it", f"has no {part}", "LatticeModel.from_pretrained", FileNotFoundError):
        TextModel.from_pretrained(saved)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_of_the_decoder_is_named(saved, name, refuses) -> None:
    (saved / "decoder" / name).unlink()
    with refuses("config.json and model.safetensors", f"decoder has no {name}", "pass the folder", FileNotFoundError):
        TextModel.from_pretrained(saved)


def edit(saved, **changes) -> None:
    file = saved / "decoder" / "config.json"
    config = json.loads(file.read_text())
    config["model"] |= changes
    file.write_text(json.dumps(config))


def test_a_damaged_decoder_is_refused(saved, refuses) -> None:
    weights = saved / "decoder" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    with refuses("must be a safetensors file", "decoder", "copy or save it again"):
        TextModel.from_pretrained(saved)
    torch.save(make().decoder.state_dict(), weights)
    with refuses("must be a safetensors file", "decoder", "copy or save it again"):
        TextModel.from_pretrained(saved)
    weights.write_bytes(whole)
    settings = make().decoder.settings
    edit(saved, decoder=settings | {"dim": 16})
    with refuses("must belong together", "size mismatch", "save the model again"):
        TextModel.from_pretrained(saved)
    edit(saved, decoder=settings | {"dimm": 16})
    with refuses("arguments of its own", "'dimm'", "did you mean 'dim'?"):
        TextModel.from_pretrained(saved)
    edit(saved, decoder=[1])
    with refuses("must name source, tokenizer and decoder", "source", "save the text model again"):
        TextModel.from_pretrained(saved)
    (saved / "decoder" / "config.json").write_text("{")
    with refuses("must be a model's configuration", "cannot be read", "save the model again"):
        TextModel.from_pretrained(saved)


def test_another_tokenizer_is_refused(saved, refuses) -> None:
    shutil.rmtree(saved / "tokenizer")
    Tokenizer.train([text.upper() for text in TEXTS], "whitespace", 40).save(saved / "tokenizer")
    with refuses("the one it was trained with", "tokenizer has", "save the text model again"):
        TextModel.from_pretrained(saved)


def test_a_failed_save_leaves_the_old_decoder(saved, monkeypatch) -> None:
    before = (saved / "decoder" / "model.safetensors").read_bytes()

    def fail(tensors, file) -> None:
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("latticegnn.pretrained.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        make(seed=3).save_pretrained(saved)
    assert (saved / "decoder" / "model.safetensors").read_bytes() == before
    assert not list(saved.rglob(".*"))
