"""A saved model on disk: a configuration in JSON and weights in safetensors, and nothing that is code."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from latticegnn.lattice import LatticeSpec, Ports
from latticegnn.nn import EXPERTS
from latticegnn.nn.classpath import foreign

FORMAT = 1
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


def write(folder: Path, settings: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Write both files into a folder; each appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.dumps({"format": FORMAT, "model": settings}, indent=2)
    dense = {name: tensor.contiguous() for name, tensor in weights.items()}
    _replace(folder / WEIGHTS_FILE, lambda file: save_file(dense, file))
    _replace(folder / CONFIG_FILE, lambda file: file.write_text(config, encoding="utf-8"))


def read_settings(folder: Path, trust_code: bool) -> dict[str, Any]:
    """Read the settings of a saved model.

    Args:
        folder: Where `write` wrote.
        trust_code: Allow experts from outside latticegnn, torch and PyG.

    Raises:
        FileNotFoundError: When a file is missing.
        ValueError: When the configuration is damaged, of another format, or names code that is not trusted.
    """
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"a saved model is a folder with {CONFIG_FILE} and {WEIGHTS_FILE}; {folder} has no {name}; "
                "pass the folder `model` of a run, or what save_pretrained wrote."
            )
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        settings = dict(config["model"])
        version = config["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder / CONFIG_FILE} must be a model's configuration; it cannot be read: {error}; save the model again."
        ) from error
    if version != FORMAT:
        raise ValueError(
            f"the model's format must be {FORMAT}; {folder} has {version!r}; load it with the version that wrote it."
        )
    paths = [path for expert in (settings.get("experts") or {}).values() for path in foreign(expert, EXPERTS)]
    if paths and not trust_code:
        raise ValueError(
            f"a saved model's experts must come from latticegnn, torch or PyG; {folder} names {', '.join(paths)}; "
            "read that code, then pass trust_code=True (on the command line --trust_code)."
        )
    return settings


def decoded(settings: Mapping[str, Any], known: Sequence[str]) -> dict[str, Any]:
    """Return a model's arguments: settings as `read_settings` gives them, with spec and ports as objects.

    Args:
        settings: Name to value.
        known: Names that the model has.

    Raises:
        ValueError: For any other name, or a lattice or ports that break a rule.
    """
    settings = dict(settings)
    if settings.pop("checkpoint", False):  # how a configuration said it before there were other gradients
        settings["gradient"] = "checkpointed"
    for key in settings:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}."
            raise ValueError(f"a model's configuration has the arguments of LatticeModel; got {key!r}; {hint}")
    arguments = dict(settings)
    makers = {"spec": LatticeSpec.from_dict, "reference": LatticeSpec.from_dict}
    for key, make in {**makers, "inputs": Ports.from_dict, "outputs": Ports.from_dict}.items():
        if arguments.get(key) is not None:
            arguments[key] = make(arguments[key])
    return arguments


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read the weights of a saved model; a damaged file raises ValueError."""
    try:
        return load_file(folder / WEIGHTS_FILE)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{folder / WEIGHTS_FILE} must be a safetensors file; it cannot be read: {error}; copy or save it again."
        ) from error


def load_weights(module: nn.Module, folder: Path) -> None:
    """Put saved weights into a module built from the configuration beside them.

    Raises:
        ValueError: When the file is damaged, or weights and configuration do not belong together.
    """
    weights = read_weights(folder)
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"weights and configuration in {folder} must belong together; {error}; save the model again."
        ) from error


def _replace(file: Path, write: Callable[[Path], Any]) -> None:
    part = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        write(part)
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)
