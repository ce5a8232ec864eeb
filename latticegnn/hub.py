"""Saved models and the Hugging Face hub: where a model is found, how it is pushed, and the card that goes with it."""

from __future__ import annotations

import filecmp
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelHubMixin, snapshot_download

from latticegnn.pretrained import CONFIG_FILE, WEIGHTS_FILE

CARD_FILE = "README.md"
COMPANIONS = (CARD_FILE, "teacher.json")
"""What belongs to a model's weights, and goes where they go."""


class HubModel(
    ModelHubMixin, library_name="latticegnn", tags=["cellular-automata", "embeddings", "graph-neural-networks"]
):
    """A model that is saved as `_save_pretrained` writes it, and pushed to the hub so.

    Of the mixin, ``push_to_hub`` and the interface remain. Its own configuration, a copy of the constructor's
    arguments, is not kept: a model's ``config.json`` is strict, and holds all that there is to know.

    Attributes:
        origin: The folder that the model was loaded from; None for a new one. `COMPANIONS` found there go where the
            model is saved, as long as its weights are still the same, so that no card speaks of others.
    """

    # Anything but None keeps the mixin from collecting arguments.
    _hub_mixin_config: dict[str, Any] | None = {}  # noqa: RUF012
    origin: Path | None = None
    settings: dict[str, Any]

    def save_pretrained(  # type: ignore[override]
        self, path: str | os.PathLike[str], *, config: None = None, model_card_kwargs: Mapping[str, Any] | None = None
    ) -> None:
        """Write ``config.json`` and ``model.safetensors`` into a folder; each file appears whole or not at all.

        Args:
            path: The folder.
            config: For the mixin, which passes none.
            model_card_kwargs: Likewise, ``{}`` from ``push_to_hub``: write a card, too, where there is none.
        """
        _refuse(config=config, model_card_kwargs=model_card_kwargs)
        folder = Path(path)
        self._save_pretrained(folder)
        origin = self.origin
        if origin is not None and origin.resolve() != folder.resolve() and _same_weights(origin, folder):
            for name in COMPANIONS:
                if (origin / name).is_file():
                    shutil.copyfile(origin / name, folder / name)
        if model_card_kwargs is not None and not (folder / CARD_FILE).exists():
            self.generate_model_card().save(folder / CARD_FILE)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Save the model into a repository of the hub, made where there is none, as one commit.

        The card is the one that the model was loaded with; for a new or a changed model, one that says that it comes
        without results.

        Args:
            repo_id: ``owner/name``.
            options: Those of huggingface_hub's ``ModelHubMixin.push_to_hub``: ``private``, ``token``, ``branch``,
                ``commit_message``, ``create_pr``, ``allow_patterns``, ``ignore_patterns``, ``delete_patterns``.

        Returns:
            The commit's address.
        """
        _refuse(**options)
        return super().push_to_hub(repo_id, **({"model_card_kwargs": {}} | options))

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """Write a card that says what the model is and how it is loaded, and that it comes without results."""
        body = f"{described(self.settings, self.parameter_counts())}\n## Results\n\n{NO_RESULTS}\n"
        return ModelCard(f"---\n{self._hub_mixin_info.model_card_data.to_yaml()}\n---\n\n{body}")

    def parameter_counts(self) -> dict[str, int]:
        """Count trainable numbers by part."""
        raise NotImplementedError


NO_RESULTS = (
    "No table of results comes with this model: it was not saved by a run that measured it, or its weights have "
    "changed since."
)


def _refuse(config: Any = None, model_card_kwargs: Any = None, **_: Any) -> None:
    for name, value in (("config", config), ("model_card_kwargs", model_card_kwargs)):
        if value:
            raise ValueError(
                f"a model's configuration is its settings, and its card is made of them; got {name}={value!r}; leave "
                "it out."
            )


def _same_weights(origin: Path, folder: Path) -> bool:
    before = origin / WEIGHTS_FILE
    return before.is_file() and filecmp.cmp(before, folder / WEIGHTS_FILE, shallow=False)


def described(settings: Mapping[str, Any], counts: Mapping[str, int]) -> str:
    """Say in Markdown what a lattice is and how it is loaded.

    Args:
        settings: A model's, as in its ``config.json``.
        counts: Trainable numbers by part.
    """
    shape = " × ".join(map(str, settings["spec"]["shape"]))
    tokens, dim = settings.get("tokens"), settings["embedding_dim"]
    taken = f"Tokens, of {tokens['vocab_size']:,} kinds, are" if tokens else f"An embedding of {dim} numbers is"
    inputs = "token ids [B, L]" if tokens else f"embeddings [B, {dim}], of what teacher.json names where it is there"
    ends = f"an answer of {dim} numbers" + (", to which the input is added" if settings["skip"] else "")
    steps = f"{settings['steps']} steps"
    if settings["stopping"]:
        steps = f"as many steps as each sample needs to settle, {settings['steps']} in training"
    parts = ", ".join(f"{part} {count:,}" for part, count in counts.items() if part != "total")
    return f"""# A lattice of {shape} cells

A three-dimensional lattice of cells that share one small message-passing network, made with latticegnn. {taken}
laid on the input ports (face {settings["inputs"]["face"]}), the signal spreads for {steps},
and the output ports (face {settings["outputs"]["face"]}) are read and decoded: {ends}.
{settings["channels"]} channels a cell, {counts["total"]:,} trainable numbers ({parts}).

## Use

```python
import latticegnn as lg

model = lg.LatticeModel.from_pretrained("FOLDER OR REPOSITORY")
model(inputs).embedding  # inputs: {inputs}
```
"""


def located(
    path: str | os.PathLike[str],
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Path:
    """Return a saved model's folder, downloaded where its name is that of a repository and not of a folder.

    Args:
        path: A folder, or ``owner/name`` on the hub. Nothing is downloaded but the model's own files; none of them is
            code or a pickle.
        revision: Branch, tag or commit.
        token: Access token; by default the one of ``hf auth login``.
        cache_dir: Where downloads are kept, if not the hub's own cache.
        local_files_only: Take what is in the cache, without a request.
        force_download: Download anew what is in the cache.

    Raises:
        FileNotFoundError: When there is neither such a folder, nor a repository that can be had.
        ValueError: For a revision of a folder.
    """
    if not isinstance(path, str) or Path(path).is_dir() or not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", path):
        if revision is not None:
            raise ValueError(
                f"a revision is one of a repository on the hub; got revision={revision!r} for the folder {path}; leave "
                "it out."
            )
        return Path(path)
    try:
        folder = snapshot_download(
            path, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only,
            force_download=force_download, allow_patterns=[CONFIG_FILE, WEIGHTS_FILE, *COMPANIONS],
        )  # fmt: skip
    except (OSError, ValueError) as error:  # the hub's own errors are among these
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise FileNotFoundError(
            f"a saved model is a folder, or a repository on the hub that can be had; {path!r} is neither: {reason} "
            "Check the name, the network and hf auth login."
        ) from error
    return Path(folder)
