"""Settings of a run's text decoder, and what they ask of the other settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from latticegnn.data import Tokenizer
from latticegnn.nn.heads import build_decoder
from latticegnn.nn.token_decoder import TokenDecoder
from latticegnn.text_model import Source

TEXT_BASELINES = ("linear_full", "linear_code", "mlp_code", "decoder_full", "majority", "bigram")
"""Rows of the honest table that give text and no embedding, see `latticegnn.analysis.text_baselines`."""
TOKEN_METRIC = "validation/token_accuracy"
"""What a run with a text decoder logs after each epoch beside the other metrics."""

DecoderKind = Literal["transformer", "linear", "mlp", "ports"]


def _words() -> dict[str, Any]:
    return {"kind": "whitespace", "vocab_size": 1000}


@dataclass(frozen=True)
class Decoding:
    """A text decoder that a run trains on what its model gives.

    Args:
        kind: "transformer" (`TextDecoder`), "linear", "mlp" or "ports" (`LinearHead`, `MLPHead`, `PortHead`).
        source: What it reads of the model's output: "code", what the linear readout reads (all states of the output
            ports with ``readout: ports_full``), or "embedding", the answer in the teacher's space.
        tokenizer: ``{kind: …, vocab_size: …}`` trains one on the run's training texts, see `Tokenizer.train`;
            ``{source: …}`` loads one, see `Tokenizer.load`.
        length: L, tokens of a row, the end included, ≥ 2; longer texts are cut and counted.
        dim: Width of the transformer, or of the MLP's hidden layer.
        layers: Depth of the transformer.
        heads: Its attention heads.
        memory: Vectors that it lays the code out as.
        dropout: Of transformer and MLP in training, in [0, 1).
        freeze: Train it on the lattice as it is; baselines train whole.

    Raises:
        ValueError: For a value out of range, or settings of a tokenizer that are neither of the two forms.
    """

    kind: DecoderKind = "transformer"
    source: Source = "code"
    # A plain dict: the parser would mix the two forms.
    tokenizer: dict = field(default_factory=_words)
    length: int = 8
    dim: int = 128
    layers: int = 2
    heads: int = 4
    memory: int = 8
    dropout: float = 0.1
    freeze: bool = False

    def __post_init__(self) -> None:
        """Check the settings; what the decoder itself asks for is checked where it is built."""
        for name, value, known in (
            ("kind", self.kind, get_args(DecoderKind)),
            ("source", self.source, ("embedding", "code")),
        ):
            if value not in known:
                raise ValueError(
                    f"decoder.{name} must be one of {', '.join(known)}; got {value!r}; choose one of them."
                )
        if self.length < 2:
            raise ValueError(
                f"decoder.length counts the tokens of a row with its end, 2 at least; got {self.length}; raise it."
            )
        if set(self.tokenizer) not in ({"source"}, {"kind", "vocab_size"}):
            raise ValueError(
                "decoder.tokenizer must be {kind: …, vocab_size: …}, which trains one, or {source: …}, which loads "
                f"one; got {self.tokenizer}; {_words()} is the default."
            )

    def build(self, width: int, tokenizer: Tokenizer, channels: int, seed: int) -> TokenDecoder:
        """Build a decoder, random at first.

        Args:
            width: W, numbers it reads.
            tokenizer: Whose tokens it gives.
            channels: F of the lattice, numbers of a port.
            seed: Of the random start.

        Raises:
            ValueError: When the tokenizer knows no end, or width and settings do not fit each other.
        """
        if tokenizer.eos_id is None:
            raise ValueError(
                f"a text decoder ends its rows with the tokenizer's end-of-text token; got {tokenizer!r}, which has "
                "none; set its eos_token and save it again, or train one."
            )
        # What T5 starts its rows from is padding, too.
        start = tokenizer.pad_id if tokenizer.bos_id is None else tokenizer.bos_id
        of_kind: dict[str, dict[str, Any]] = {
            "transformer": {
                "bos_id": start, "dim": self.dim, "layers": self.layers, "heads": self.heads, "memory": self.memory,
                "dropout": self.dropout, "seed": seed,
            },
            "linear": {"seed": seed},
            "mlp": {"hidden": self.dim, "dropout": self.dropout, "seed": seed},
            "ports": {"channels": channels, "seed": seed},
        }  # fmt: skip
        return build_decoder(
            {
                "kind": self.kind, "width": width, "vocab_size": tokenizer.vocab_size, "length": self.length,
                "pad_id": tokenizer.pad_id, "eos_id": tokenizer.eos_id, **of_kind[self.kind],
            }
        )  # fmt: skip

    def build_tokenizer(self, texts: Sequence[str]) -> Tokenizer:
        """Load the tokenizer, or train it on texts."""
        if "source" in self.tokenizer:
            return Tokenizer.load(self.tokenizer["source"])
        return Tokenizer.train(texts, **self.tokenizer)
