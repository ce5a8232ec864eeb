"""Token ids as lattice input: a text's k-th token is laid on the k-th input port."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from latticegnn.nn.embedding import EmbeddingToLatticeMapper, fourier, positional


class TokenToLatticeMapper(nn.Module):
    r"""From token ids to the states of the input ports: :math:`s_k = E_{id_k} + P\, \gamma(r_k)`.

    E is a table of one state a token; P γ(r) is the positional term of `EmbeddingToLatticeMapper` (Vaswani et al.,
    2017; Tancik et al., 2020), P starts at zero. Padding, and ports beyond a text's length, are zero: a text gives the
    same states however far it was padded.

    Args:
        vocab_size: V, number of token ids, ≥ 1.
        position: Positions of the input ports in [-1, 1], in the ports' order [P, 3].
        channels: F.
        pad_id: The id of padding, 0 … V - 1.

    Shapes:
        - input: ids [B, L], an integer type, L ≤ P
        - output: states [B, P, F]

    Raises:
        ValueError: When `pad_id` is outside the vocabulary; from `forward`, when ids are no integer matrix, lie outside
            the vocabulary, or are more than the ports.
    """

    features: Tensor

    def __init__(self, vocab_size: int, position: Tensor, channels: int, pad_id: int) -> None:
        super().__init__()
        if not 0 <= pad_id < vocab_size:
            raise ValueError(
                f"`pad_id` must be a token id, 0 … vocab_size - 1; received {pad_id} with vocab_size {vocab_size}. "
                "Take both from the same tokenizer."
            )
        self.pad_id = pad_id
        self.register_buffer("features", fourier(position), persistent=False)
        self.table = nn.Embedding(vocab_size, channels)
        self.position = positional(self.features, channels)

    def forward(self, ids: Tensor) -> Tensor:
        """Lay token ids on the ports."""
        ports = len(self.features)
        if ids.dim() != 2 or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
            raise ValueError(
                f"Token ids must be integers of shape [B, L]; received shape {list(ids.shape)} of type {ids.dtype}. "
                "Give the ids of Tokenizer.encode."
            )
        length = ids.shape[1]
        if length > ports:
            raise ValueError(
                f"Each token needs an input port of its own; received {length} tokens a text and {ports} ports. "
                f"Encode with length={ports}, or give the lattice more input ports."
            )
        ids = ids.long()
        wrong = (ids < 0) | (ids >= self.table.num_embeddings)
        if not torch.compiler.is_exporting() and wrong.any():  # a program cannot raise
            row, place = wrong.nonzero()[0].tolist()
            raise ValueError(
                f"Token ids must lie in 0 … {self.table.num_embeddings - 1}; text {row} has {int(ids[row, place])} at "
                f"token {place}. Encode with the tokenizer that vocab_size was taken from."
            )
        states = self.table(ids) + self.position(self.features[:length])
        states = states.masked_fill((ids == self.pad_id).unsqueeze(-1), 0)
        return nn.functional.pad(states, (0, 0, 0, ports - length))


def input_mapper(
    position: Tensor, channels: int, tokens: Mapping[str, Any] | None
) -> EmbeddingToLatticeMapper | TokenToLatticeMapper:
    """Make the map to the input ports, of codes or, where there are settings for them, of token ids.

    Args:
        position: Positions of the input ports in [-1, 1], in the ports' order [P, 3].
        channels: F.
        tokens: ``vocab_size`` and ``pad_id`` of a `TokenToLatticeMapper`; None for codes.
    """
    if tokens is None:
        return EmbeddingToLatticeMapper(position, channels)
    return TokenToLatticeMapper(tokens["vocab_size"], position, channels, tokens["pad_id"])


def silence(inputs: Tensor, tokens: Mapping[str, Any] | None) -> Tensor:
    """Make the row that tells a lattice nothing, like its inputs [B, …]: a zero embedding, or padding alone [1, …].

    Args:
        inputs: Embeddings [B, D], or token ids [B, L].
        tokens: As for `input_mapper`.
    """
    return torch.full_like(inputs[:1], 0 if tokens is None else tokens["pad_id"])


def check_tokens(tokens: Mapping[str, Any] | None, skip: bool, interior: str, zones: bool) -> None:
    """Raise ValueError unless a lattice with these settings can take token ids, where it is to.

    Args:
        tokens: ``vocab_size`` and ``pad_id``, whole numbers; None where it takes embeddings.
        skip: Whether the input is added to the output.
        interior: Initial state of the other cells.
        zones: Whether embeddings are routed to zones of the input ports.
    """
    if tokens is None:
        return
    whole = isinstance(tokens, Mapping) and all(isinstance(value, int) for value in tokens.values())
    if not whole or set(tokens) != {"vocab_size", "pad_id"} or tokens["vocab_size"] < 1:
        raise ValueError(
            "tokens must be a mapping of vocab_size, from 1, and pad_id, whole numbers of one tokenizer; got "
            f"{tokens!r}; write for example {{vocab_size: 2000, pad_id: 0}}."
        )
    barred = {"skip": skip, "interior: code": interior == "code", "inputs: {placement: zones}": zones}
    wrong = [name for name, given in barred.items() if given]
    if wrong:
        raise ValueError(
            "a lattice that takes token ids has no embedding to add, to start its cells from, or to route by; got "
            f"tokens with {', '.join(wrong)}; change that setting, or leave out tokens."
        )
