"""The honest table: every model of a run on the same test rows, with the lattice's lead over it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from latticegnn.analysis.metrics import evaluate, paired_difference, row_statistics
from latticegnn.analysis.text_metrics import evaluate_texts, token_statistics
from latticegnn.data import EmbeddingData
from latticegnn.data.build import build_teacher
from latticegnn.data.mixture import ranked
from latticegnn.training.text import TokenRows

EXAMPLES = 8


class HonestTable:
    """Rows of figures, the lattice's first.

    The main figure is token accuracy where the run has a text decoder, else MRR@10 where the right answer is looked
    for among others, else FVU; ``lattice_minus`` is the lattice's lead in it on the same rows, for rows that have it.

    Token accuracy, exact match and F1 hold what was generated against the target's tokens, cut at the decoder's length;
    BLEU and the re-embedded cosine against the whole target, for every model alike. Where texts are longer than a row,
    as ``cut`` of the run's texts counts them, perfect rows stay below 1 in these two: what a decoder cannot write is
    missing from its text.

    Args:
        data: Prepared.
        train_mean: Mean of the training targets [D].
        texts: The run's texts as tokens, where it has a text decoder.

    Attributes:
        rows: One a model, as in ``metrics.json``.
        examples: Some inputs and targets, with what the lattice generated.
    """

    def __init__(self, data: EmbeddingData, train_mean: Tensor, texts: TokenRows | None) -> None:
        self.split, self.train_mean, self.texts = data.splits["test"], train_mean, texts
        self.ranked = data.pairs and any(map(ranked, data.sources))
        self.main = "token_accuracy" if texts is not None else "mrr@10" if self.ranked else "fvu"
        self.rows: list[dict[str, Any]] = []
        self.examples: list[dict[str, str]] = []
        self._lattice: Tensor | None = None  # the lattice's figures row by row, which the others are paired with
        self._teacher: Any = None
        if texts is not None:
            self._teacher = build_teacher(data.teacher) if isinstance(data.teacher, str | Mapping) else data.teacher

    def add(
        self,
        name: str,
        parameters: int,
        prediction: Tensor | None = None,
        generated: Tensor | None = None,
        cost: Mapping[str, float] | None = None,
    ) -> None:
        """Judge a model on the test split.

        Args:
            name: The model's.
            parameters: Numbers that were fitted.
            prediction: Its embeddings [n, D]; None where it gives none.
            generated: Its rows of tokens [n, L]; None where it gives none.
            cost: What its training took.
        """
        figures, shares = {}, {}
        if prediction is not None:
            given = (self.split.tensors()[1], self.train_mean, self.ranked)
            figures, shares = evaluate(prediction, *given), row_statistics(prediction, *given)
        if generated is not None:
            assert self.texts is not None
            tokenizer = self.texts.tokenizer
            assert tokenizer.eos_id is not None
            own = token_statistics(generated, self.texts.targets["test"], tokenizer.eos_id, tokenizer.unk_id)
            written, shares = tokenizer.decode(generated), shares | own
            figures = figures | evaluate_texts(own, written, self.split.target_texts, self._reembedded(written))
            if not self.rows:
                found = zip(self.split.input_texts, self.split.target_texts, written, strict=True)
                self.examples = [dict(zip(("input", "target", "lattice"), row, strict=True)) for row in found][
                    :EXAMPLES
                ]
        row: dict[str, Any] = {"model": name, "parameters": parameters}
        for metric, figure in figures.items():
            row |= {metric: figure["value"], f"{metric}_low": figure["low"], f"{metric}_high": figure["high"]}
        if not self.rows:
            self._lattice = shares[self.main]
        elif self.main in shares:
            assert self._lattice is not None
            gap = paired_difference(self._lattice, shares[self.main])
            row |= {"lattice_minus": gap["value"], "lattice_minus_low": gap["low"], "lattice_minus_high": gap["high"]}
        self.rows.append(row | dict(cost or {}))

    def _reembedded(self, written: list[str]) -> tuple[Tensor, Tensor]:
        """Embed what was written, each text once; an empty one is a row of zeros."""
        texts = sorted({text for text in written if text.strip()})
        target = self.split.tensors()[1]
        vectors = torch.from_numpy(self._teacher.encode(texts)) if texts else target[:0]
        place = {text: row for row, text in enumerate(texts)}
        made = torch.zeros_like(target)
        for row, text in enumerate(written):
            if text in place:
                made[row] = vectors[place[text]]
        return made, target
