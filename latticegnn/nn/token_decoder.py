"""What every decoder from a code to tokens offers."""

from __future__ import annotations

import abc
from typing import Any

import torch
from torch import Tensor, nn

from latticegnn.nn.generation import Generation, until_end

_GREEDY = Generation()


class TokenDecoder(nn.Module, abc.ABC):
    r"""From a code to the logits of a row of tokens, :math:`\log p(t_k \mid c, t_1 \dots t_{k-1})`, and to rows.

    Rows are those of ``Tokenizer.encode(texts, L, eos=True)``: a text's tokens, the end, padding.

    Args:
        settings: Everything the decoder was built from, ready for JSON, with its "kind"; `build_decoder` builds it
            again. Holds at least the five that follow.

            - width: W, numbers of the code, ≥ 1.
            - vocab_size: V, number of token ids, ≥ 2.
            - length: L, tokens of a row, the end included, ≥ 1.
            - pad_id, eos_id: Ids of padding and of a text's end, 0 … V - 1; may be the same.

    Raises:
        ValueError: For a number that is out of range.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        self.settings = settings
        for name, least in {"width": 1, "vocab_size": 2, "length": 1}.items():
            check_whole(name, settings[name], least)
        self.width, self.vocab_size, self.length = (settings[name] for name in ("width", "vocab_size", "length"))
        self.pad_id, self.eos_id = (self._token(name) for name in ("pad_id", "eos_id"))

    @abc.abstractmethod
    def forward(self, code: Tensor, tokens: Tensor) -> Tensor:
        """Give the logits of each token after those before it (teacher forcing).

        Args:
            code: [B, W].
            tokens: The rows wanted [B, L]; ``logits[:, k]`` are those of ``tokens[:, k]`` and see the ones before it.

        Shapes:
            code [B, W], tokens [B, L] -> logits [B, L, V]
        """

    @abc.abstractmethod
    def rows(self, code: Tensor, generation: Generation, seeds: Tensor | None) -> Tensor:
        """Choose rows of at most L tokens, each with an end; what follows it is not looked at: [B, W] -> [B, ≤ L]."""

    @torch.no_grad()
    def generate(self, code: Tensor, generation: Generation = _GREEDY, seeds: Tensor | None = None) -> Tensor:
        """Choose a row of tokens for each code, in evaluation mode; what shares a row's batch does not change it.

        Args:
            code: [B, W].
            generation: How tokens are chosen.
            seeds: A seed for each row's draws [B], ≥ 0; by default its place in the batch.

        Returns:
            Rows [B, L], int64, each up to and with its first end, and padding from there on.

        Raises:
            ValueError: When the code is of another width or not finite, or the seeds do not fit it.
        """
        self.check_code(code)
        if not len(code):
            return torch.zeros(0, self.length, dtype=torch.long, device=code.device)
        training = self.training
        self.eval()
        try:
            rows = self.rows(code, generation, seeds)
        finally:
            self.train(training)
        rows = rows.masked_fill(~until_end(rows, self.eos_id), self.pad_id)
        return nn.functional.pad(rows, (0, self.length - rows.shape[1]), value=self.pad_id)

    def check_code(self, code: Tensor) -> None:
        """Raise ValueError unless a code is finite and has shape [B, W]."""
        if code.dim() != 2 or code.shape[1] != self.width:
            raise ValueError(
                f"the code must have shape [B, W] with W = {self.width}; got {list(code.shape)}; decode what the model "
                "gives that this decoder was trained on."
            )
        finite = torch.isfinite(code).all(dim=1)
        if not bool(finite.all()):
            raise ValueError(
                f"the code must be finite; got nan or inf in {int((~finite).sum())} of {len(finite)} rows, first in "
                f"row {int((~finite).nonzero()[0])}; look for the step at which the model's states diverge."
            )

    def check_tokens(self, tokens: Tensor, rows: int) -> None:
        """Raise ValueError unless tokens are ids of shape [B, L] with B rows."""
        whole = not (tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool)
        if tokens.shape != (rows, self.length) or not whole:
            raise ValueError(
                f"tokens must be whole numbers of shape [B, L], {[rows, self.length]}; got {tokens.dtype} of shape "
                f"{list(tokens.shape)}; give Tokenizer.encode(texts, {self.length}, eos=True)[0]."
            )
        if bool(((tokens < 0) | (tokens >= self.vocab_size)).any()):
            raise ValueError(
                f"tokens must lie in 0 … {self.vocab_size - 1}; got {int(tokens.min())} … {int(tokens.max())}; encode "
                "with the tokenizer that vocab_size was taken from."
            )

    def _token(self, name: str) -> int:
        value: int = self.settings[name]
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < self.vocab_size:
            raise ValueError(
                f"{name} must be a token id, 0 … vocab_size - 1; got {value!r} with vocab_size {self.vocab_size}; take "
                "both from the same tokenizer."
            )
        return value


def check_whole(name: str, value: Any, least: int) -> None:
    """Raise ValueError unless a setting is a whole number from a least one on."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number, at least {least}; got {value!r}; raise it.")
