"""The eight families of teachers, each as a tiny random model: a batch on disk against one text at a time in memory."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from latticegnn.data import Teacher

TEXTS = [
    "the cat",
    "under the old bridge a small red bird sings of the long river and of the rain that is still to come",
    "dogs",
    "a river runs under the bridge",
    "rain",
]
MODES = ["mean", "cls", "last", "max"]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
Family = tuple[Any, Any, dict[str, str]]


def trained(kind: str) -> Any:
    """Train a tokenizer of the kind a family uses: WordPiece, byte-level BPE, or BPE over words with spaces marked."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    specials = {
        "wordpiece": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        "roberta": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        "gpt2": ["<|endoftext|>"],
        "llama": ["<unk>", "<s>", "</s>"],
        "llama3": ["<|begin_of_text|>", "<|end_of_text|>"],
    }[kind]
    sizes = {"vocab_size": 300, "special_tokens": specials, "show_progress": False}
    if kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer: Any = trainers.WordPieceTrainer(**sizes)
    elif kind == "llama":
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.BpeTrainer(**sizes)
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(**sizes)
    tokenizer.train_from_iterator(TEXTS, trainer)
    frame = {
        "wordpiece": "[CLS] $A [SEP]",
        "roberta": "<s> $A </s>",
        "llama": "<s> $A",
        "llama3": "<|begin_of_text|> $A",
    }.get(kind)
    if frame:
        used = [(token, tokenizer.token_to_id(token)) for token in frame.split() if token != "$A"]
        tokenizer.post_processor = processors.TemplateProcessing(single=frame, special_tokens=used)
    return tokenizer


def family(name: str) -> Family:
    """Build a random model, its tokenizer and the tokenizer's special tokens."""
    import transformers as tf

    words = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    ends = {"bos_token": "<s>", "eos_token": "</s>"}
    one = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    ends3 = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}
    small = {"vocab_size": 300, "max_position_embeddings": 160, **SIZES}
    distil = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 160}
    gpt = {"vocab_size": 300, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 160}
    grouped = {"num_key_value_heads": 2}
    roberta = {**small, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    gpt2 = {**gpt, "bos_token_id": 0, "eos_token_id": 0}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, kind, special = {
            "bert": lambda: (tf.BertModel(tf.BertConfig(**small)), "wordpiece", words),
            "distilbert": lambda: (
                tf.DistilBertModel(tf.DistilBertConfig(vocab_size=300, **distil)),
                "wordpiece",
                words,
            ),
            "roberta": lambda: (
                tf.RobertaModel(tf.RobertaConfig(**roberta)),
                "roberta",
                {**ends, "pad_token": "<pad>", "unk_token": "<unk>"},
            ),
            "gpt2": lambda: (tf.GPT2Model(tf.GPT2Config(**gpt2)), "gpt2", one),
            "dialogpt": lambda: (tf.GPT2LMHeadModel(tf.GPT2Config(**gpt2)), "gpt2", one),
            "llama2": lambda: (tf.LlamaModel(tf.LlamaConfig(**small)), "llama", ends),
            "llama3": lambda: (tf.LlamaModel(tf.LlamaConfig(**small, **grouped, rope_theta=5e5)), "llama3", ends3),
            "mistral": lambda: (tf.MistralModel(tf.MistralConfig(**small, **grouped, sliding_window=8)), "llama", ends),
            "codellama": lambda: (tf.LlamaForCausalLM(tf.LlamaConfig(**small, rope_theta=1e6)), "llama", ends),
        }[name]()
    return model.eval(), trained(kind), special


FAMILIES = ["bert", "distilbert", "roberta", "gpt2", "dialogpt", "llama2", "llama3", "mistral", "codellama"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], tuple[Path, Any, Any]]:
    """Return a function that gives a family's directory for a padding side, with the model and tokenizer in memory."""
    from transformers import PreTrainedTokenizerFast

    known: dict[str, Family] = {}

    def directory(name: str, side: str) -> tuple[Path, Any, Any]:
        if name not in known:
            known[name] = family(name)
        model, tokenizer, special = known[name]
        folder = tmp_path_factory.mktemp(f"{name}-{side}")
        model.save_pretrained(folder)
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side=side, **special).save_pretrained(folder)
        return folder, model.base_model, tokenizer

    return directory


@torch.no_grad()
def twin(model: Any, tokenizer: Any, text: str, mode: str) -> np.ndarray:
    """One text alone, without padding, pooled token by token."""
    tokenizer.no_padding()
    ids = tokenizer.encode(text).ids
    states = model(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy()
    if mode == "cls":
        return states[0]
    if mode == "last":
        return states[len(ids) - 1]
    pooled = states[0].copy()
    for state in states[1:]:
        pooled = pooled + state if mode == "mean" else np.maximum(pooled, state)
    return pooled / len(ids) if mode == "mean" else pooled


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_and_pooling_equals_a_plain_twin(saved, name, side):
    folder, model, tokenizer = saved(name, side)
    on_disk = json.loads((folder / "tokenizer_config.json").read_text())
    assert on_disk["padding_side"] == side
    assert (on_disk.get("pad_token") is None) is (name not in ("bert", "distilbert", "roberta"))
    assert len({len(tokenizer.encode(text).ids) for text in TEXTS}) > 2
    for mode in MODES:
        expected = np.stack([twin(model, tokenizer, text, mode) for text in TEXTS])
        teacher = Teacher(str(folder), pooling=mode, normalize=False)
        together = teacher.encode(TEXTS)
        np.testing.assert_allclose(together, expected, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(teacher.encode(TEXTS, batch_size=1), together, rtol=1e-6, atol=1e-6)
        assert len(np.unique(together.round(4), axis=0)) == len(TEXTS) or mode == "cls"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama3"])
def test_half_precision_stays_near(saved, name, dtype):
    folder = str(saved(name, "right")[0])
    exact, half = Teacher(folder), Teacher(folder, dtype=dtype)
    vectors, near = exact.encode(TEXTS), half.encode(TEXTS)
    assert near.dtype == np.float32
    assert 0 < np.abs(near - vectors).max() < (3e-2 if dtype == "bfloat16" else 3e-3)
    np.testing.assert_allclose(np.linalg.norm(near, axis=1), 1, rtol=1e-6)
    assert half.fingerprint != exact.fingerprint


def test_a_prefix_is_part_of_every_text(saved):
    folder = str(saved("bert", "right")[0])
    plain, queries = Teacher(folder), Teacher(folder, prefix="rain: ")
    np.testing.assert_array_equal(queries.encode(TEXTS), plain.encode([f"rain: {text}" for text in TEXTS]))
    assert queries.fingerprint != plain.fingerprint
    assert queries.fingerprint != Teacher(folder, prefix="dogs: ").fingerprint
