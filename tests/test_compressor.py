"""A lattice inside a SentenceTransformer: encodes, saves, loads, and refuses what does not fit."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import latticegnn as lg
from latticegnn import compressor
from latticegnn.compressor import LatticeCompressor
from latticegnn.data.teacher_card import write_teacher
from latticegnn.exporting import ENDINGS

TEXTS = ["the cat sits on the mat", "a dog", "a small red bird", "cat"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    """A tiny random BERT, 32 channels wide, with its tokenizer."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    directory = tmp_path_factory.mktemp("bert")
    words = ["[UNK]", "[PAD]", *sorted({word for text in TEXTS for word in text.split()})]
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(directory)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(directory)
    return directory


def lattice(**settings: Any) -> lg.LatticeModel:
    spec = lg.LatticeSpec(shape=(3, 4, 4), connectivity="full")
    return lg.LatticeModel(spec, **({"embedding_dim": 32, "steps": 3} | settings)).eval()


def joined(bert: Path, *last: Any) -> Any:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    modules = [Transformer(str(bert)), Pooling(32, "mean"), Normalize(), *last]
    return SentenceTransformer(modules=modules, device="cpu")


@pytest.mark.parametrize(
    ("output", "readout", "dim"), [("embedding", "ports", 32), ("code", "ports", 12), ("code", "ports_full", 12 * 8)]
)
def test_it_encodes_and_survives_saving(bert, tmp_path, output, readout, dim):
    from sentence_transformers import SentenceTransformer

    model = lattice(readout=readout, seed=1)
    st = joined(bert, LatticeCompressor(model, output=output))
    vectors = st.encode(TEXTS)
    with torch.no_grad():
        expected = getattr(model(torch.from_numpy(joined(bert).encode(TEXTS))), output).numpy()
    assert vectors.shape == (4, dim) == (4, st.get_embedding_dimension())
    np.testing.assert_allclose(vectors, expected, rtol=1e-5, atol=1e-6)
    assert len(np.unique(vectors.round(5), axis=0)) == 4

    st.save(str(tmp_path), create_model_card=False)
    again = SentenceTransformer(str(tmp_path), trust_remote_code=True, device="cpu")
    np.testing.assert_array_equal(again.encode(TEXTS), vectors)
    assert (again[-1].output, again.get_embedding_dimension()) == (output, dim)
    alone = lg.LatticeModel.from_pretrained(tmp_path / "3_LatticeCompressor")
    assert alone.settings == model.settings


def test_loading_needs_trust(bert, tmp_path):
    from sentence_transformers import SentenceTransformer

    joined(bert, LatticeCompressor(lattice())).save(str(tmp_path), create_model_card=False)
    with pytest.raises(ValueError, match=r"(?s)latticegnn\.compressor\.LatticeCompressor.*trust_remote_code=True"):
        SentenceTransformer(str(tmp_path))


def test_the_code_decodes_into_the_embedding(bert):
    model = lattice(seed=2)
    code = joined(bert, LatticeCompressor(model, output="code")).encode(TEXTS)
    answer = joined(bert, LatticeCompressor(model)).encode(TEXTS)
    np.testing.assert_allclose(model.decoder(torch.from_numpy(code)).detach(), answer, rtol=1e-5, atol=1e-6)


def test_a_loss_on_the_embedding_trains_the_cell(bert):
    st = joined(bert, LatticeCompressor(lattice())).train()
    st(st.preprocess(TEXTS))["sentence_embedding"].square().sum().backward()
    assert all(bool(p.grad.abs().sum() > 0) for p in st[-1].model.decoder.parameters())
    assert any(bool(p.grad.abs().sum() > 0) for p in st[-1].model.cell.parameters())


def test_what_does_not_fit_is_refused(bert, tmp_path, refuses):
    with refuses("must be one of ['embedding', 'code']", "'state'", "choose one"):
        LatticeCompressor(lattice(), output="state")
    with refuses("model's dimension, 16", "they give 32", "Put a model trained"):
        joined(bert, LatticeCompressor(lattice(embedding_dim=16)))
    with refuses("saved as safetensors", "safe_serialization=False", "leave that argument out"):
        LatticeCompressor(lattice()).save(str(tmp_path), safe_serialization=False)
    with refuses("a folder with compressor.json", "'3_Lost'", "save the SentenceTransformer again", FileNotFoundError):
        LatticeCompressor.load(str(tmp_path), subfolder="3_Lost")


def test_without_sentence_transformers_the_extra_is_named(monkeypatch, refuses):
    spec = importlib.util.spec_from_file_location("fresh", compressor.__file__)
    monkeypatch.setitem(sys.modules, "sentence_transformers.base.modules", None)
    with refuses("needs sentence-transformers 6", "is not installed", "latticegnn[sentence-t", ModuleNotFoundError):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_foreign_experts_need_trust(tmp_path, refuses):
    source = tmp_path / "mine.py"
    source.write_text("from torch_geometric.nn import SAGEConv\n\n\nclass Mine(SAGEConv):\n    pass\n")
    model = lattice(experts={"distant": {"class_path": f"{source}:Mine"}})
    folder = tmp_path / "saved"
    folder.mkdir()
    LatticeCompressor(model).save(str(folder))
    assert json.loads((folder / "compressor.json").read_text()) == {"output": "embedding"}
    with refuses("must come from latticegnn, torch or PyG", "mine.py", "trust_code=True"):
        LatticeCompressor.load(str(folder))
    again = LatticeCompressor.load(str(folder), trust_remote_code=True)
    assert again.model.settings == model.settings


def test_a_runs_lattice_joins_a_pipeline_in_one_line(bert, tmp_path, refuses):
    from sentence_transformers import SentenceTransformer

    joined(bert).save(str(tmp_path / "st"), create_model_card=False)
    model, run = lattice(seed=3), tmp_path / "run"
    model.save_pretrained(run / "model")
    write_teacher(run / "model", lg.Teacher(str(tmp_path / "st")))
    st = SentenceTransformer(str(tmp_path / "st"), device="cpu")
    before = st.encode(TEXTS)
    st.append(LatticeCompressor.from_run(run, output="code", source=str(tmp_path / "st")))
    vectors = st.encode(TEXTS)
    assert vectors.shape == (4, 12) == (4, st.get_embedding_dimension())
    with torch.no_grad():
        np.testing.assert_allclose(vectors, model(torch.from_numpy(before)).code, rtol=1e-5, atol=1e-6)
    st.save(str(tmp_path / "joined"), create_model_card=False)
    again = SentenceTransformer(str(tmp_path / "joined"), trust_remote_code=True, device="cpu")
    np.testing.assert_array_equal(again.encode(TEXTS), vectors)

    raw = joined(bert)
    del raw[2]  # without Normalize it is another teacher
    raw.save(str(tmp_path / "raw"), create_model_card=False)
    with refuses("must be the teacher that the model was trained with", "a teacher.json with", "leave source out"):
        LatticeCompressor.from_run(run, source=str(tmp_path / "raw"))
    (run / "model" / "teacher.json").unlink()
    with refuses("must be the teacher that the model was trained with", "no teacher.json", "leave source out"):
        LatticeCompressor.from_run(run, source=str(tmp_path / "st"))
    other = SentenceTransformer(str(tmp_path / "st"), device="cpu")
    lattice(embedding_dim=16).save_pretrained(run / "model")
    other.append(LatticeCompressor.from_run(run))
    with refuses("with D = 16", "got [4, 32]", "the teacher this model was built for"):
        other.encode(TEXTS)


def test_the_page_on_export_runs(bert, tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[1] / "docs" / "export.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    joined(bert).save("st", create_model_card=False)
    capsys.readouterr()
    names: dict = {}
    for code in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(compile(code, "docs/export.md", "exec"), names)
    told, shapes, dim = capsys.readouterr().out.splitlines()
    assert told.startswith("[{'name': 'embedding', 'shape': ['batch', 32], 'dtype': 'float32'}] [{'name': 'answer'")
    assert (shapes, dim) == ("(5, 32) (5, 16)", "(1, 16)")
    assert (tmp_path / "compressed" / "3_LatticeCompressor" / "config.json").is_file()


def test_the_page_on_export_names_every_section_and_ending():
    page = (Path(__file__).parents[1] / "docs" / "export.md").read_text(encoding="utf-8")
    top, *_ = page.partition("\n## ")
    titles = re.findall(r"^## (.*)$", page, flags=re.MULTILINE)
    assert re.findall(r"\]\(#([\w-]+)\)", top) == [title.lower().replace(" ", "-") for title in titles]
    assert sorted(re.findall(r"^\| `(\.[\w.]+)` \|", page, flags=re.MULTILINE)) == sorted(ENDINGS)
