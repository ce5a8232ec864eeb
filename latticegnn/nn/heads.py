"""Decoders that predict every token by itself, and the one that only counts."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from latticegnn.nn.decoder import TextDecoder
from latticegnn.nn.generation import Generation, until_end
from latticegnn.nn.token_decoder import TokenDecoder, check_whole


class LinearHead(TokenDecoder):
    r"""One affine map from the code to all logits: :math:`z_k = W_k c + b_k`.

    Places do not see each other's tokens, here and in the heads below, so a row's most probable tokens are also its
    most probable row: strategy "beam" gives what "greedy" does.

    Args:
        width: W, numbers of the code, ≥ 1.
        vocab_size: V, number of token ids, ≥ 2.
        length: L, tokens of a row, the end included, ≥ 1.
        pad_id: Id of padding.
        eos_id: Id of a text's end.
        seed: Of the random start.

    Shapes:
        - input: code [B, W]
        - output: logits [B, L, V]
    """

    def __init__(self, width: int, vocab_size: int, length: int, pad_id: int, eos_id: int, seed: int = 0) -> None:
        super().__init__(_settings("linear", locals()))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.map = nn.Linear(width, length * vocab_size)

    def forward(self, code: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Give the logits of all places; ``tokens`` are not looked at."""
        self.check_code(code)
        return self.map(code).unflatten(1, (self.length, self.vocab_size))

    def rows(self, code: Tensor, generation: Generation, seeds: Tensor | None) -> Tensor:
        """Choose a token at each place, see `TokenDecoder.rows`."""
        return _chosen(self, code, generation, seeds)


class MLPHead(TokenDecoder):
    r"""A perceptron with one hidden layer: :math:`z = V\, \mathrm{Dropout}(\mathrm{SiLU}(W c + a)) + b`.

    Args:
        width: W, numbers of the code, ≥ 1.
        vocab_size: V, number of token ids, ≥ 2.
        length: L, tokens of a row, the end included, ≥ 1.
        pad_id: Id of padding.
        eos_id: Id of a text's end.
        hidden: Width of the hidden layer, ≥ 1.
        dropout: On the hidden layer in training, in [0, 1).
        seed: Of the random start.

    Shapes:
        - input: code [B, W]
        - output: logits [B, L, V]
    """

    def __init__(
        self,
        width: int,
        vocab_size: int,
        length: int,
        pad_id: int,
        eos_id: int,
        hidden: int = 128,
        dropout: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(_settings("mlp", locals()))
        check_whole("hidden", hidden, 1)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be a share from 0 and below 1; got {dropout!r}; 0.1 is the default.")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.map = nn.Sequential(
                nn.Linear(width, hidden), nn.SiLU(), nn.Dropout(dropout), nn.Linear(hidden, length * vocab_size)
            )

    def forward(self, code: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Give the logits of all places; ``tokens`` are not looked at."""
        self.check_code(code)
        return self.map(code).unflatten(1, (self.length, self.vocab_size))

    def rows(self, code: Tensor, generation: Generation, seeds: Tensor | None) -> Tensor:
        """Choose a token at each place, see `TokenDecoder.rows`."""
        return _chosen(self, code, generation, seeds)


class PortHead(TokenDecoder):
    r"""One affine map shared by all ports: :math:`z_k = W s_k + b`; port k gives token k.

    Args:
        width: P·F, numbers of the code: the states of the output ports as a `LatticeToEmbeddingExtractor` with readout
            "ports_full" gives them, port by port.
        vocab_size: V, number of token ids, ≥ 2.
        length: L ≤ P, tokens of a row, the end included; the ports beyond are not looked at.
        pad_id: Id of padding.
        eos_id: Id of a text's end.
        channels: F, numbers of a port.
        seed: Of the random start.

    Shapes:
        - input: code [B, P·F]
        - output: logits [B, L, V]

    Raises:
        ValueError: When there are more tokens than ports, or the code is no whole number of ports.
    """

    def __init__(
        self, width: int, vocab_size: int, length: int, pad_id: int, eos_id: int, channels: int, seed: int = 0
    ) -> None:
        super().__init__(_settings("ports", locals()))
        check_whole("channels", channels, 1)
        if width % channels or width // channels < length:
            raise ValueError(
                f"each token needs an output port of its own, read with all its channels; got length {length} with a "
                f"code of {width} numbers, {channels} a port; set readout: ports_full, and length to "
                f"{width // channels} or less."
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.map = nn.Linear(channels, vocab_size)

    def forward(self, code: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Give the logits of the first L ports; ``tokens`` are not looked at."""
        self.check_code(code)
        return self.map(code.unflatten(1, (-1, self.map.in_features))[:, : self.length])

    def rows(self, code: Tensor, generation: Generation, seeds: Tensor | None) -> Tensor:
        """Choose a token at each place, see `TokenDecoder.rows`."""
        return _chosen(self, code, generation, seeds)


class MajorityHead(TokenDecoder):
    r"""How often each token was seen at each place, whatever the code: :math:`z_{kv} = \log(n_{kv} + 1)`.

    Ends are not counted, so that its row, ended by the length alone, is the constant row of greatest token accuracy.

    Args:
        width: W, numbers of the code, ≥ 1.
        vocab_size: V, number of token ids, ≥ 2.
        length: L, tokens of a row, the end included, ≥ 1.
        pad_id: Id of padding.
        eos_id: Id of a text's end.

    Shapes:
        - input: code [B, W]
        - output: logits [B, L, V]
    """

    logits: Tensor

    def __init__(self, width: int, vocab_size: int, length: int, pad_id: int, eos_id: int) -> None:
        super().__init__(_settings("majority", locals()))
        self.register_buffer("logits", torch.zeros(length, vocab_size))

    @torch.no_grad()
    def fit(self, tokens: Tensor) -> MajorityHead:
        """Count the tokens of rows [n, L], those of a text alone, in place of what was counted before."""
        self.check_tokens(tokens, len(tokens))
        counted = until_end(tokens, self.eos_id) & (tokens != self.eos_id)
        places = torch.arange(self.length, device=tokens.device).expand_as(tokens)
        counts = torch.zeros_like(self.logits)
        ones = torch.ones(int(counted.sum())).to(counts)
        counts.index_put_((places[counted], tokens[counted].long()), ones, accumulate=True)
        self.logits.copy_(counts.log1p())
        return self

    def forward(self, code: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Give the same logits for every code; ``tokens`` are not looked at."""
        self.check_code(code)
        return self.logits.expand(len(code), -1, -1)

    def rows(self, code: Tensor, generation: Generation, seeds: Tensor | None) -> Tensor:
        """Choose a token at each place, see `TokenDecoder.rows`."""
        return _chosen(self, code, generation, seeds)


DECODERS: dict[str, type[TokenDecoder]] = {
    "transformer": TextDecoder,
    "linear": LinearHead,
    "mlp": MLPHead,
    "ports": PortHead,
    "majority": MajorityHead,
}
"""The decoders by their kind."""


def build_decoder(settings: Mapping[str, Any]) -> TokenDecoder:
    """Build a decoder from settings, as `TokenDecoder.settings` holds them: its "kind" and its arguments.

    Raises:
        ValueError: For an unknown kind or argument, one that is missing, or a value out of range.
    """
    given = dict(settings)
    kind = given.pop("kind", None)
    if kind not in DECODERS:
        near = difflib.get_close_matches(str(kind), DECODERS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else "choose one of them."
        raise ValueError(f"a decoder's kind must be one of {', '.join(DECODERS)}; got {kind!r}; {hint}")
    known = inspect.signature(DECODERS[kind]).parameters
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}."
            raise ValueError(f"a decoder of kind {kind} has arguments of its own; got {key!r}; {hint}")
    missing = [name for name, p in known.items() if p.default is inspect.Parameter.empty and name not in given]
    if missing:
        raise ValueError(
            f"a decoder of kind {kind} needs {', '.join(known)}; got none of {', '.join(missing)}; give what its "
            "tokenizer and the code say."
        )
    return DECODERS[kind](**given)


def _settings(kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    return {"kind": kind} | {name: value for name, value in given.items() if name not in ("self", "__class__")}


def _chosen(head: TokenDecoder, code: Tensor, generation: Generation, seeds: Tensor | None) -> Tensor:
    """Choose at each place what `Generation.processors` say of its logits, which see no other place's token."""
    never = sorted({head.pad_id} - {head.eos_id})
    scores = generation.processors(head.length, never, head.eos_id, seeds, len(code))
    rows = torch.full((len(code), 1), head.eos_id, device=code.device)
    for logits in head(code, rows).unbind(dim=1):
        rows = torch.cat([rows, scores(rows, logits).argmax(dim=-1, keepdim=True)], dim=1)
    return rows[:, 1:]
