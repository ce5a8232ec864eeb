"""Tiny random teachers, saved to disk and loaded by the code that loads the real ones."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

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


def save_tokenizer(directory: Path, pad: bool = True, eos: bool = True, side: str = "right") -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(["[UNK]", "[PAD]", "[EOS]", *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    special = {"unk_token": "[UNK]"} | ({"pad_token": "[PAD]"} if pad else {}) | ({"eos_token": "[EOS]"} if eos else {})
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side=side, **special)
    fast.save_pretrained(directory)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that writes a tiny random model and tokenizer, and gives the directory."""
    from transformers import BertConfig, BertModel, GPT2Config, GPT2Model

    def build(kind: str = "bert", seed: int = 0, **tokenizer: bool | str) -> Path:
        directory = tmp_path_factory.mktemp(kind)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if kind == "bert":
                sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
                config = BertConfig(vocab_size=32, hidden_size=32, max_position_embeddings=160, **sizes)
                model = BertModel(config, add_pooling_layer=False)
            else:
                model = GPT2Model(GPT2Config(vocab_size=32, n_embd=32, n_layer=2, n_head=4, n_positions=160))
        model.save_pretrained(directory)
        save_tokenizer(directory, **tokenizer)
        return directory

    return build
