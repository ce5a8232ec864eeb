"""A lattice with a decoder behind it: from embeddings, or token ids, to texts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from latticegnn.data import Tokenizer
from latticegnn.data.split import EmbeddingSplit
from latticegnn.model import LatticeModel
from latticegnn.nn import Generation, TokenDecoder, build_decoder
from latticegnn.pretrained import load_weights, read_settings, write

Source = Literal["embedding", "code"]
DECODER_FOLDER, TOKENIZER_FOLDER = "decoder", "tokenizer"
_GREEDY = Generation()


class TextModel(nn.Module):
    r"""What a lattice gives, read by a decoder of tokens: :math:`\mathrm{Dec}(y(x)), \; y = \hat e` or the code.

    Args:
        lattice: The lattice.
        decoder: The decoder.
        tokenizer: What turns its tokens into texts, and texts into ids for a lattice with ``tokens``.
        source: Which part of the `LatticeOutput` is decoded: "embedding", the answer in the teacher's space [B, D], or
            "code", what was read from the output ports, with readout "ports_full" their whole states [B, P·F].

    Shapes:
        - input: what the lattice takes, embeddings [B, D] or ids [B, L']; tokens [B, L]
        - output: logits [B, L, V]

    Raises:
        ValueError: For an unknown source, or parts that do not fit each other.
    """

    def __init__(
        self, lattice: LatticeModel, decoder: TokenDecoder, tokenizer: Tokenizer, source: Source = "embedding"
    ) -> None:
        super().__init__()
        if source not in get_args(Source):
            raise ValueError(
                f"source must be one of {', '.join(get_args(Source))}; got {source!r}; choose one of them."
            )
        width = lattice.embedding_dim if source == "embedding" else lattice.extractor.width
        if decoder.width != width:
            raise ValueError(
                f"a decoder must take what its lattice gives, {width} numbers with source: {source}; got one of width "
                f"{decoder.width}; build the decoder with width={width}, or choose the other source."
            )
        _check_same("decoder", decoder.settings, tokenizer, ["vocab_size", "pad_id", "eos_id"])
        if lattice.tokens is not None:
            _check_same("lattice", lattice.tokens, tokenizer, ["vocab_size", "pad_id"])
        self.lattice, self.decoder, self.tokenizer, self.source = lattice, decoder, tokenizer, source

    def forward(self, inputs: Tensor, tokens: Tensor) -> Tensor:
        """Give the logits of each token after those before it, see `TokenDecoder.forward`."""
        return self.decoder(self.read(inputs), tokens)

    def read(self, inputs: Tensor) -> Tensor:
        """Carry inputs through the lattice and give what the decoder reads of them [B, W]."""
        out: Tensor = getattr(self.lattice(inputs), self.source)
        return out

    @torch.no_grad()
    def generate(self, inputs: Tensor, generation: Generation = _GREEDY, seeds: Tensor | None = None) -> list[str]:
        """Decode a text for each input, in evaluation mode; the arguments are those of `TokenDecoder.generate`.

        Shapes:
            inputs, embeddings [B, D] or ids [B, L'] -> B texts
        """
        training = self.training
        self.eval()
        try:
            rows = self.decoder.generate(self.read(inputs), generation, seeds)
        finally:
            self.train(training)
        return self.tokenizer.decode(rows.cpu())

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write the lattice into a folder as `LatticeModel.save_pretrained` does, ``decoder`` and ``tokenizer`` in it.

        Each file appears whole or not at all. The folder is also one for `LatticeModel.from_pretrained`.
        """
        folder = Path(path)
        self.lattice.save_pretrained(folder)
        self.tokenizer.save(folder / TOKENIZER_FOLDER)
        settings = {
            "source": self.source, "tokenizer": self.tokenizer.fingerprint, "decoder": self.decoder.settings
        }  # fmt: skip
        write(folder / DECODER_FOLDER, settings, self.decoder.state_dict())

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], trust_code: bool = False) -> TextModel:
        """Build the model that `save_pretrained` wrote, in evaluation mode. Nothing pickled is read.

        Args:
            path: The folder.
            trust_code: Allow experts from outside latticegnn, torch and PyG; importing them runs their code.

        Raises:
            FileNotFoundError: When a part or a file is missing.
            ValueError: When a file is damaged, of another format, or the parts do not belong together.
        """
        folder = Path(path)
        lattice = LatticeModel.from_pretrained(folder, trust_code)
        for name in (DECODER_FOLDER, TOKENIZER_FOLDER):
            if not (folder / name).is_dir():
                raise FileNotFoundError(
                    f"a saved text model is a lattice's folder with {DECODER_FOLDER} and {TOKENIZER_FOLDER} in it; "
                    f"{folder} has no {name}; load the lattice alone with LatticeModel.from_pretrained, or save the "
                    "text model again."
                )
        settings = read_settings(folder / DECODER_FOLDER, trust_code=False)
        if set(settings) != {"source", "tokenizer", "decoder"} or not isinstance(settings["decoder"], dict):
            raise ValueError(
                f"the configuration in {folder / DECODER_FOLDER} must name source, tokenizer and decoder; got "
                f"{', '.join(settings) or 'nothing'}; save the text model again."
            )
        decoder = build_decoder(settings["decoder"])
        load_weights(decoder, folder / DECODER_FOLDER)
        tokenizer = Tokenizer.load(folder / TOKENIZER_FOLDER)
        if tokenizer.fingerprint != settings["tokenizer"]:
            raise ValueError(
                f"a decoder's tokenizer must be the one it was trained with, of fingerprint {settings['tokenizer']}; "
                f"{folder / TOKENIZER_FOLDER} has {tokenizer.fingerprint}; save the text model again."
            )
        return cls(lattice, decoder, tokenizer, settings["source"]).eval()


def inputs_of(model: LatticeModel | TextModel, split: EmbeddingSplit, rows: Tensor) -> Tensor:
    """Give what a model takes of some rows of a split: embeddings [n, D], or the ids of their input texts [n, L]."""
    if not isinstance(model, TextModel) or model.lattice.tokens is None:
        return split.inputs[rows]
    texts = [split.input_texts[row] for row in rows.tolist()]
    return model.tokenizer.encode(texts, model.decoder.length, eos=True)[0]


def _check_same(part: str, settings: dict, tokenizer: Tokenizer, names: list[str]) -> None:
    given, own = ({n: get(n) for n in names} for get in (settings.__getitem__, lambda n: getattr(tokenizer, n)))
    if given != own:
        raise ValueError(
            f"the {part}'s token ids must be those of its tokenizer, {own}; got {given}; build the {part} with the "
            "tokenizer's numbers."
        )
