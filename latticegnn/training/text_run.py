"""The text side of a whole run: one decoder for each model, and the baselines that give text alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from latticegnn.analysis.baselines import code_encoder
from latticegnn.analysis.text_baselines import bigram, principal_code, standardised
from latticegnn.data import EmbeddingData
from latticegnn.model import LatticeModel
from latticegnn.nn.heads import MajorityHead
from latticegnn.text_model import TextModel
from latticegnn.training.decoding import DecoderKind, Decoding
from latticegnn.training.module import EmbeddingModule
from latticegnn.training.text import TokenRows, attached, generated, judged

ON_FIXED_CODES: dict[str, tuple[DecoderKind, bool]] = {
    "linear_full": ("linear", False),
    "linear_code": ("linear", True),
    "mlp_code": ("mlp", True),
    "decoder_full": ("transformer", False),
}
"""Text baseline → kind of its decoder, and whether it reads a code of the lattice's size."""


class TextRun:
    """Gives each model of a run its text decoder, all of the same texts, weight and seed.

    Args:
        decoding: Settings of the decoders.
        data: Prepared.
        model: The run's lattice.

    Attributes:
        rows: The texts as tokens.

    Raises:
        ValueError: When a row has no text, or the lattice takes other ids than the tokenizer gives.
    """

    def __init__(self, decoding: Decoding, data: EmbeddingData, model: LatticeModel) -> None:
        self.decoding, self.data, self.lattice = decoding, data, model
        for name, split in data.splits.items():
            if len(split.target_texts) != len(split):
                raise ValueError(
                    f"a text decoder learns from texts; got {len(split)} {name} rows and {len(split.target_texts)} "
                    "texts, as prepared embeddings have none; take tasks of texts, or leave decoder out."
                )
        texts = {name: (split.input_texts, split.target_texts) for name, split in data.splits.items()}
        self.rows = TokenRows(decoding, texts, model.tokens)

    def inputs(self, split: str) -> Tensor:
        """Give what models take of a split's rows: embeddings [n, D], or token ids [n, L]."""
        return self.data.splits[split].tensors()[0] if self.rows.inputs is None else self.rows.inputs[split]

    def attach(self, module: EmbeddingModule, decoding: Decoding | None = None) -> None:
        """Put a decoder for what its model gives into a module; the lattice's own may be trained on it as it is."""
        settings = decoding or self.decoding
        text = attached(
            module.model, settings, self.rows, self.inputs("validation")[:2], module.loss.tokens, self.lattice.channels,
            module.seed,
        )  # fmt: skip
        module.attach(text, freeze=settings.freeze and module.model is self.lattice)

    def fixed(self, name: str, sample: Tensor) -> tuple[nn.Module, Decoding]:
        """Make a baseline of `ON_FIXED_CODES` from training inputs [n, D]: its code, and the decoder trained on it."""
        kind, small = ON_FIXED_CODES[name]
        code = principal_code(sample, code_encoder(self.lattice).out_features) if small else standardised(sample)
        return code, replace(self.decoding, kind=kind, source="embedding")

    def counted(self, name: str) -> tuple[int, Tensor]:
        """Answer the test rows by counts: the numbers that were counted, and the rows [n, L].

        Args:
            name: "majority", one row for all inputs, or "bigram".
        """
        train, test, rows = self.data.splits["train"], self.data.splits["test"], self.rows.targets["train"]
        unknown = self.rows.unknown(rows)
        if name == "bigram":
            whole = (~unknown.any(dim=1)).nonzero().flatten()
            answers, contexts = bigram([train.input_texts[i] for i in whole], rows[whole], test.input_texts)
            return contexts, answers
        tokenizer = self.rows.tokenizer
        assert tokenizer.eos_id is not None
        head = MajorityHead(1, tokenizer.vocab_size, self.decoding.length, tokenizer.pad_id, tokenizer.eos_id)
        head.fit(rows.masked_fill(unknown, tokenizer.pad_id))  # which it never chooses
        return head.logits.numel(), head.generate(self.inputs("test").new_zeros(len(test), 1).float())

    def generated(self, module: EmbeddingModule) -> Tensor:
        """Let a model write the test rows: [n, L]."""
        assert module.text is not None
        return generated(module.model, module.text, self.inputs("test"))

    def validation_loss(self, module: EmbeddingModule) -> float:
        """Compute the decoder's term on the validation split."""
        assert module.text is not None
        return judged(module.model, module.text, self.inputs("validation"))[0]

    def joined(self, module: EmbeddingModule) -> TextModel:
        """Put the lattice, its decoder and the tokenizer together, to be saved."""
        assert module.text is not None
        return TextModel(self.lattice, module.text.decoder, self.rows.tokenizer, self.decoding.source)

    def card(self) -> dict[str, Any]:
        """Describe the texts in plain numbers and strings, fit for JSON."""
        tokenizer = self.rows.tokenizer
        return {"tokenizer": tokenizer.fingerprint, "vocab_size": tokenizer.vocab_size, "cut": self.rows.cut}
