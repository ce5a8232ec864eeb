"""From a code to text, one token after the other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from latticegnn.nn.generation import Generation
from latticegnn.nn.token_decoder import TokenDecoder, check_whole

_TIED = "gpt.lm_head.weight"


class TextDecoder(TokenDecoder):
    r"""A small transformer that reads the code by cross-attention.

    .. math::
        m_i = \mathrm{LayerNorm}(A_i c + a_i), \; i = 1 \dots M; \qquad
        p(t_k \mid c, t_{<k}) = \mathrm{softmax}(E\, \mathrm{GPT}(t_{<k};\, m)_k)

    The stack is GPT-2's (Radford et al., 2019) with a cross-attention in every layer (Vaswani et al., 2017), as
    transformers has it, started at random; E is the table of its token embeddings. Generation is transformers' own,
    with a cache.

    Args:
        width: W, numbers of the code, ≥ 1.
        vocab_size: V, number of token ids, ≥ 2.
        length: L, tokens of a row, the end included, ≥ 1.
        pad_id: Id of padding.
        bos_id: Id that every row starts from; it is not part of the row.
        eos_id: Id of a text's end.
        dim: Width of the stack, a multiple of ``heads``.
        layers: Its depth, ≥ 1.
        heads: Attention heads, ≥ 1.
        memory: M, vectors that the code is laid out as, ≥ 1.
        dropout: In training, on embeddings, attention and what each block adds; in [0, 1).
        seed: Of the random start.

    Shapes:
        - input: code [B, W], tokens [B, L]
        - output: logits [B, L, V]

    Raises:
        ValueError: For a value out of range, or a code or tokens of another shape.
    """

    def __init__(
        self,
        width: int,
        vocab_size: int,
        length: int,
        pad_id: int,
        bos_id: int,
        eos_id: int,
        dim: int = 128,
        layers: int = 2,
        heads: int = 4,
        memory: int = 8,
        dropout: float = 0.1,
        seed: int = 0,
    ) -> None:
        settings = {
            "kind": "transformer", "width": width, "vocab_size": vocab_size, "length": length, "pad_id": pad_id,
            "bos_id": bos_id, "eos_id": eos_id, "dim": dim, "layers": layers, "heads": heads, "memory": memory,
            "dropout": dropout, "seed": seed,
        }  # fmt: skip
        super().__init__(settings)
        self.bos_id = self._token("bos_id")
        for name, value in {"dim": dim, "layers": layers, "heads": heads, "memory": memory}.items():
            check_whole(name, value, 1)
        if dim % heads:
            raise ValueError(
                f"dim must be a multiple of heads, which share it; got dim {dim} with {heads} heads; take for example "
                f"dim {-(-dim // heads) * heads}."
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be a share from 0 and below 1; got {dropout!r}; 0.1 is the default.")
        from transformers import GPT2Config, GPT2LMHeadModel

        config = GPT2Config(
            vocab_size=vocab_size,
            n_positions=length + 1,  # the start and L tokens; the library warns where a row fills the last one
            n_embd=dim,
            n_layer=layers,
            n_head=heads,
            resid_pdrop=dropout,
            embd_pdrop=dropout,
            attn_pdrop=dropout,
            bos_token_id=bos_id,
            eos_token_id=eos_id,
            pad_token_id=None,  # else the library warns of padding in training, which no token ever attends to
            add_cross_attention=True,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.gpt = GPT2LMHeadModel(config)
            self.memory = nn.Sequential(
                nn.Linear(width, memory * dim), nn.Unflatten(1, (memory, dim)), nn.LayerNorm(dim)
            )
        # The table serves twice and is saved once: safetensors refuses a tensor of two names.
        self.register_state_dict_post_hook(_drop_tied)
        self.register_load_state_dict_pre_hook(_restore_tied)

    def forward(self, code: Tensor, tokens: Tensor) -> Tensor:
        """Give the logits of each token after those before it."""
        self.check_code(code)
        self.check_tokens(tokens, len(code))
        start = tokens.new_full((len(code), 1), self.bos_id)
        given = torch.cat([start, tokens[:, :-1]], dim=1).long()
        return self.gpt(given, encoder_hidden_states=self.memory(code), use_cache=False).logits

    def rows(self, code: Tensor, generation: Generation, seeds: Tensor | None) -> Tensor:
        """Generate rows, see `TokenDecoder.rows`."""
        from transformers import GenerationConfig

        beams = generation.beams if generation.strategy == "beam" else 1
        settings = GenerationConfig(
            max_new_tokens=self.length, num_beams=beams, do_sample=False,
            pad_token_id=self.pad_id, bos_token_id=self.bos_id, eos_token_id=self.eos_id,
        )  # fmt: skip
        start = torch.full((len(code), 1), self.bos_id, device=code.device)
        never = sorted({self.pad_id, self.bos_id} - {self.eos_id})
        made = self.gpt.generate(
            start,
            attention_mask=torch.ones_like(start),
            encoder_hidden_states=self.memory(code),
            generation_config=settings,
            logits_processor=generation.processors(self.length, never, self.eos_id, seeds, len(code)),
        )
        return made[:, 1:]


def _drop_tied(_: nn.Module, weights: dict[str, Any], prefix: str, *__: Any) -> None:
    weights.pop(prefix + _TIED)


def _restore_tied(_: nn.Module, weights: dict[str, Any], prefix: str, *__: Any) -> None:
    table = f"{prefix}gpt.transformer.wte.weight"
    if table in weights:
        weights[prefix + _TIED] = weights[table]
