"""A tiny random teacher, and a lattice saved with the teacher's name and answers beside it."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import latticegnn as lg
from latticegnn.cli import main
from latticegnn.data.teacher_card import write_teacher

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "bird",
    "mat",
    "rug",
    "sits",
    "sings",
    "on",
    "under",
    "red",
    "blue",
    "small",
    "large",
]
ANSWERS = ["the cat sits", "a dog", "red bird sings", "small mat", "a large blue rug", "the bird", "dog under the rug"]


class Saved(NamedTuple):
    """A saved model, and its teacher's folder."""

    folder: Path
    teacher: Path


def _save_teacher(directory: Path, seed: int = 0) -> Path:
    """Write a random BERT, 32 channels wide, with its tokenizer."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(["[UNK]", "[PAD]", *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(directory)
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 160}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        BertModel(BertConfig(vocab_size=len(vocabulary), hidden_size=32, **sizes)).save_pretrained(directory)
    return directory


def _save_lattice(folder: Path, **settings: object) -> lg.LatticeModel:
    """Write a small lattice that does something to what it is given."""
    spec = lg.LatticeSpec(shape=(3, 4, 4), connectivity="full")
    model = lg.LatticeModel(spec, **({"embedding_dim": 32, "channels": 4, "steps": 3, "skip": True} | settings)).eval()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        torch.nn.init.normal_(model.decoder.weight, std=0.1)
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="session")
def save_teacher() -> Callable[..., Path]:
    """The function that writes a teacher."""
    return _save_teacher


@pytest.fixture(scope="session")
def save_lattice() -> Callable[..., lg.LatticeModel]:
    """The function that writes a lattice."""
    return _save_lattice


@pytest.fixture(scope="session")
def saved(tmp_path_factory) -> Saved:
    """A lattice on a tiny teacher, with seven answers."""
    base = tmp_path_factory.mktemp("saved")
    teacher = lg.Teacher(str(_save_teacher(base / "teacher")))
    _save_lattice(base / "run" / "model")
    write_teacher(base / "run" / "model", teacher)
    index = lg.AnswerIndex(ANSWERS, teacher.encode(ANSWERS), [f"title {k}" for k in range(7)], teacher.fingerprint)
    index.save(base / "run" / "model" / "answers")
    return Saved(base / "run" / "model", base / "teacher")


@pytest.fixture(scope="session")
def predictor(saved) -> lg.Predictor:
    """A predictor on it."""
    return lg.Predictor(saved.folder)


@pytest.fixture
def call(capfdbinary) -> Callable[..., tuple[int, list[bytes], list[str]]]:
    """Run a command in this process; give exit status, and the lines of both outputs."""

    def run(*words: object) -> tuple[int, list[bytes], list[str]]:
        try:
            status = main([str(word) for word in words])
        except SystemExit as ended:
            status = ended.code
        out, err = capfdbinary.readouterr()
        return status, out.splitlines(), err.decode().splitlines()

    return run
