"""A lattice as the last module of a SentenceTransformer."""

import os
from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor

from latticegnn.data import Teacher
from latticegnn.data.teacher_card import read_teacher
from latticegnn.model import LatticeModel
from latticegnn.predictor import model_folder

try:
    from sentence_transformers.base.modules import Module
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"latticegnn.compressor needs sentence-transformers 6; {error.name} is not installed; "
        "pip install 'latticegnn[sentence-transformers]'."
    ) from error

Output = Literal["embedding", "code"]
_PLACE = ("token", "cache_folder", "revision", "local_files_only")


class LatticeCompressor(Module):
    r"""Carry a SentenceTransformer's embeddings through a lattice.

    .. math::
        e \leftarrow \hat e(e) \in \mathbb{R}^D \quad\text{or}\quad e \leftarrow \mathrm{Read}(x^T) \in \mathbb{R}^P

    With Transformer, Pooling and Normalize before it, and the model trained on what these give::

        st = SentenceTransformer(modules=[transformer, pooling, normalize, LatticeCompressor(model, output="code")])
        st.save(path)
        st = SentenceTransformer(path, trust_remote_code=True)

    sentence-transformers runs no class from outside its own package unasked: loading needs this package installed and
    `trust_remote_code=True`, for a local directory too. The flag covers all that the directory names: the lattice's
    experts, where their classes are not latticegnn's, torch's or PyG's, and code beside the other modules. Load so
    only what you would run. The saved folder, `3_LatticeCompressor` above, is also one for
    `LatticeModel.from_pretrained`.

    Args:
        model: The lattice.
        output: `"embedding"`: the answer in the teacher's space, D numbers. `"code"`: the numbers read at the output
            ports, P of them, or P·F with readout "ports_full": the compressed form, which `model.decoder` turns into
            the embedding (plus the input, with `skip`).

    Shapes:
        features["sentence_embedding"] [B, D] → [B, D], or [B, P] or [B, P·F].

    Raises:
        ValueError: For an unknown output, or where the modules before give another dimension than the model's.
    """

    config_file_name = "compressor.json"  # config.json is the lattice's own
    config_keys = ["output"]  # noqa: RUF012

    def __init__(self, model: LatticeModel, output: Output = "embedding") -> None:
        super().__init__()
        if output not in get_args(Output):
            raise ValueError(f"output must be one of {list(get_args(Output))}; got {output!r}; choose one of them.")
        self.model = model
        self.output = output

    @classmethod
    def from_run(
        cls,
        run: str | os.PathLike[str],
        output: Output = "embedding",
        source: str | None = None,
        trust_code: bool = False,
    ) -> "LatticeCompressor":
        """Take the model of a run, as in ``st.append(LatticeCompressor.from_run("runs/latest"))``.

        Embeddings of another dimension are refused when the first ones come; others of the same dimension look alike,
        and ``source`` is how to know.

        Args:
            run: A run's folder, or a saved model's.
            output: As for the class.
            source: What the SentenceTransformer is loaded from, a directory or hub id: the `Teacher` made of it must be
                the one that the run was trained with.
            trust_code: Allow experts from outside latticegnn, torch and PyG; importing them runs their code.

        Raises:
            FileNotFoundError: When there is no saved model.
            ValueError: When the source is another teacher than the run's, or the run's is not known.
        """
        folder = model_folder(Path(run))
        card = None if source is None else read_teacher(folder)
        if source is not None and (card is None or Teacher(source).fingerprint != card.fingerprint):
            known = (
                "no teacher.json" if card is None else f"a teacher.json with the fingerprint {card.fingerprint[:12]}…"
            )
            raise ValueError(
                f"source must be the teacher that the model was trained with; got {source!r} for {folder}, which has "
                f"{known}; train with data.teacher: {source}, or leave source out if you know that it fits."
            )
        return cls(LatticeModel.from_pretrained(folder, trust_code), output)

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Replace the sentence embedding; everything else passes."""
        answer: Tensor = getattr(self.model(features["sentence_embedding"]), self.output)
        return {**features, "sentence_embedding": answer}

    def get_embedding_dimension(self) -> int:
        """Numbers in what `forward` puts in the embedding's place."""
        return self.model.embedding_dim if self.output == "embedding" else self.model.extractor.width

    def on_model_ready(self, model: Any) -> None:
        """Hold the modules before this one to the lattice's dimension, once they are joined."""
        before = list(model)[: list(model).index(self)]
        dims = [module.get_embedding_dimension() for module in before if hasattr(module, "get_embedding_dimension")]
        if dims and dims[-1] != self.model.embedding_dim:
            raise ValueError(
                f"The modules before a LatticeCompressor must give its model's dimension, {self.model.embedding_dim}; "
                f"they give {dims[-1]}. Put a model trained on these embeddings there."
            )

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write the lattice as `LatticeModel.save_pretrained` does, and the setting beside it."""
        if not safe_serialization:
            raise ValueError(
                "A LatticeCompressor is saved as safetensors; got safe_serialization=False; leave that argument out."
            )
        self.model.save_pretrained(output_path)
        self.save_config(output_path)

    @classmethod
    def load(
        cls, model_name_or_path: str, subfolder: str = "", trust_remote_code: bool = False, **kwargs: Any
    ) -> "LatticeCompressor":
        """Read what `save` wrote, from a directory or the hub; SentenceTransformer calls this."""
        where = {key: kwargs[key] for key in _PLACE if key in kwargs}
        config = cls.load_config(model_name_or_path, subfolder=subfolder, **where)
        folder = cls.load_dir_path(model_name_or_path, subfolder=subfolder, **where)
        if folder is None or not config:
            raise FileNotFoundError(
                f"A saved LatticeCompressor is a folder with {cls.config_file_name} and its lattice; "
                f"{model_name_or_path!r} has none at {subfolder!r}; save the SentenceTransformer again."
            )
        return cls(LatticeModel.from_pretrained(folder, trust_code=trust_remote_code), **config)
