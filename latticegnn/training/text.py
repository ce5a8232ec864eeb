"""Training a text decoder beside a model: the texts of a run as tokens, the decoder's term, and what it generates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from latticegnn.data import Tokenizer
from latticegnn.nn.generation import until_end
from latticegnn.nn.token_decoder import TokenDecoder
from latticegnn.training.decoding import Decoding
from latticegnn.training.losses import TokenCrossEntropy

IGNORED = -100
BATCH = 256


Texts = Mapping[str, tuple[Sequence[str], Sequence[str]]]
"""Split → n inputs and n targets."""


class TokenRows:
    """The texts of all splits as rows of token ids.

    Args:
        decoding: Says tokenizer and length; the tokenizer is trained on training rows alone.
        texts: Of all splits.
        tokens: The lattice's setting: what it takes, where that are the input texts' tokens and not their embeddings.

    Attributes:
        tokenizer: Of all rows.
        targets: Split → rows wanted [n, L].
        inputs: Split → rows that the model takes [n, L]; None where it takes embeddings.
        cut: Targets that were longer than a row, of all splits.

    Raises:
        ValueError: When the lattice takes other ids than the tokenizer gives.
    """

    def __init__(self, decoding: Decoding, texts: Texts, tokens: Mapping[str, int] | None) -> None:
        inputs, targets = texts["train"]
        known = targets if tokens is None else [*inputs, *targets]
        self.tokenizer: Tokenizer = decoding.build_tokenizer(list(dict.fromkeys(known)))
        own = {"vocab_size": self.tokenizer.vocab_size, "pad_id": self.tokenizer.pad_id}
        if tokens is not None and tokens != own:
            raise ValueError(
                f"a lattice's token ids must be those of the run's tokenizer, {own}; got {dict(tokens)}; set "
                "model.tokens to the tokenizer's numbers."
            )
        self.targets, self.cut = {}, 0
        for name, (_, wanted) in texts.items():
            self.targets[name] = self._rows(wanted, decoding)
            self.cut += self.tokenizer.truncated
        self.inputs: dict[str, Tensor] | None = None
        if tokens is not None:
            self.inputs = {name: self._rows(given, decoding) for name, (given, _) in texts.items()}

    def unknown(self, tokens: Tensor) -> Tensor:
        """Tell tokens that stand for what the vocabulary cannot write: nobody should learn to say them."""
        unknown = self.tokenizer.unk_id
        return torch.zeros_like(tokens, dtype=torch.bool) if unknown is None else tokens == unknown

    def _rows(self, texts: Sequence[str], decoding: Decoding) -> Tensor:
        return self.tokenizer.encode(texts, decoding.length, eos=True)[0]


class TextSide(nn.Module):
    r"""A text decoder beside a model, trained by the cross-entropy of the rows wanted, their ends included.

    Args:
        decoder: From what is read to tokens.
        rows: The run's texts.
        source: What is read of a model's output, "code" or "embedding".
        weight: Of its term.
    """

    def __init__(self, decoder: TokenDecoder, rows: TokenRows, source: str, weight: float) -> None:
        super().__init__()
        self.decoder, self.source, self.weight = decoder, source, weight
        self.criterion = TokenCrossEntropy(ignore_index=IGNORED)
        self.rows = rows

    def read(self, output: Any) -> Tensor:
        """Give what the decoder reads of a model's output: [B, W]."""
        read: Tensor = getattr(output, self.source)
        return read

    def given(self, batch: dict[str, Tensor], split: str) -> Tensor:
        """Give what the model takes of a batch: embeddings [B, D], or token ids [B, L]."""
        if self.rows.inputs is None:
            return batch["input"]
        return self.rows.inputs[split][batch["index"].cpu()].to(batch["index"].device)

    def term(self, code: Tensor, index: Tensor) -> Tensor:
        """Compute the weighted cross-entropy of training rows.

        Args:
            code: What was read [B, W].
            index: Their places in the split [B].
        """
        tokens, labels = self._wanted("train", index, code)
        return self.weight * self.criterion(self.decoder(code, tokens), labels)

    def shares(self, code: Tensor, index: Tensor) -> Tensor:
        """Judge validation rows with the tokens wanted given (teacher forcing).

        Returns:
            Of each row the tokens right, the tokens wanted (ends are neither), the sum of cross-entropies, and the
            number of these [B, 4]; see `figures`.
        """
        tokens, labels = self._wanted("validation", index, code)
        logits = self.decoder(code, tokens).float()
        counted = until_end(tokens, self.decoder.eos_id) & (tokens != self.decoder.eos_id)
        right = (logits.argmax(dim=-1) == labels) & counted
        each = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none")
        sums = each.view_as(labels).sum(dim=1)
        return torch.stack([right.sum(dim=1), counted.sum(dim=1), sums, (labels != IGNORED).sum(dim=1)], dim=1)

    def figures(self, shares: Tensor) -> tuple[float, float]:
        """Give the weighted cross-entropy and the token accuracy of rows from their `shares` [n, 4]."""
        right, counted, sums, each = shares.double().sum(dim=0).tolist()
        return self.weight * sums / each, right / counted

    def _wanted(self, split: str, index: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        """Give rows of tokens, and the same as labels, in which padding and the unknown are ignored."""
        tokens = self.rows.targets[split][index.cpu()].to(code.device)
        labels = tokens.masked_fill(~until_end(tokens, self.decoder.eos_id), IGNORED)
        return tokens, labels.masked_fill(self.rows.unknown(tokens), IGNORED)


def attached(
    model: nn.Module, decoding: Decoding, rows: TokenRows, example: Tensor, weight: float, channels: int, seed: int
) -> TextSide:
    """Make a text decoder for what a model gives.

    Args:
        model: Its output has ``code`` and ``embedding``.
        decoding: See `Decoding`.
        rows: The run's texts.
        example: Input of the model.
        weight: Of the decoder's term.
        channels: F of the lattice.
        seed: Of the decoder's start.
    """
    training = model.training
    width = getattr(next(_outputs(model, example)), decoding.source).shape[1]
    model.train(training)
    return TextSide(decoding.build(width, rows.tokenizer, channels, seed), rows, decoding.source, weight)


@torch.no_grad()
def generated(model: nn.Module, text: TextSide, inputs: Tensor) -> Tensor:
    """Generate a row for each input, the most probable token at each place: [n, L]."""
    return torch.cat([text.decoder.generate(text.read(output)) for output in _outputs(model, inputs)])


@torch.no_grad()
def judged(model: nn.Module, text: TextSide, inputs: Tensor) -> tuple[float, float]:
    """Give the weighted cross-entropy and the token accuracy of the validation rows, see `TextSide.figures`."""
    text.eval()
    shares, start = [], 0
    for output in _outputs(model, inputs):
        code = text.read(output)
        shares.append(text.shares(code, torch.arange(start, start + len(code))))
        start += len(code)
    return text.figures(torch.cat(shares))


@torch.no_grad()
def _outputs(model: nn.Module, inputs: Tensor) -> Iterator[Any]:
    """Yield a model's outputs in evaluation mode, a batch at a time."""
    model.eval()
    for batch in inputs.split(BATCH):
        yield model(batch)
