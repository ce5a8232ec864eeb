"""What a sentence-transformers directory says about how its embeddings are made."""

import json
from pathlib import Path
from typing import Any, NamedTuple, get_args

from latticegnn.data.pooling import Pooling

MODULES_FILE = "modules.json"
_POOLING: dict[str, Pooling] = {"mean": "mean", "cls": "cls", "lasttoken": "last", "max": "max"}
#: Keys of a Pooling module's configuration as written before sentence-transformers 5, by today's name of the mode.
_OLD_POOLING = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
_REMEDY = (
    "Embed with sentence-transformers and read the vectors from a file (task 'vectors'), or choose another teacher."
)


class Declared(NamedTuple):
    """Settings of a teacher as its directory gives them; None where it says nothing."""

    pooling: Pooling | None = None
    normalize: bool | None = None
    max_length: int | None = None
    prefix: str | None = None


def declared(directory: Path, source: str, pooling_given: bool) -> Declared:
    """Read the settings that sentence-transformers would use for a directory; nothing without `modules.json`.

    Only its modules Transformer, Pooling and Normalize, in this order, can be followed. Its length is the first of
    `max_seq_length`, the tokenizer's own limit and the table of positions that there is.

    Args:
        directory: The teacher's files.
        source: What the user calls it, for errors.
        pooling_given: The user chose a pooling: the directory's need not be one of ours.

    Raises:
        FileNotFoundError: When the Pooling module's configuration is missing.
        ValueError: When a file is damaged, or says anything that a Teacher does not do.
    """
    if not (directory / MODULES_FILE).is_file():
        return Declared()
    modules = _read(directory / MODULES_FILE, list)
    types = [str(module.get("type", "")) if isinstance(module, dict) else str(module) for module in modules]
    names = [name.rpartition(".")[2] for name in types if name.startswith("sentence_transformers.")]
    if len(names) != len(types) or names[:2] != ["Transformer", "Pooling"] or names[2:] not in ([], ["Normalize"]):
        raise ValueError(
            "A teacher's sentence-transformers modules must be Transformer, Pooling and, where wanted, Normalize; "
            f"{MODULES_FILE} of {source!r} in {directory} lists {types}. {_REMEDY}"
        )
    transformer = _transformer(directory, source)
    return Declared(
        pooling=None if pooling_given else _pooling(directory, str(modules[1].get("path", "")), source),
        normalize=names[2:] == ["Normalize"],
        max_length=_max_length(directory, transformer),
        prefix=_default_prompt(directory),
    )


def _pooling(directory: Path, folder: str, source: str) -> Pooling:
    file = directory / folder / "config.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"A Pooling module must have its configuration; {MODULES_FILE} of {source!r} names the folder {folder!r}, "
            f"and {file} is missing. Copy or fetch the whole directory again, or set `pooling`."
        )
    config = _read(file, dict)
    modes = config.get("pooling_mode", [mode for key, mode in _OLD_POOLING.items() if config.get(key)] or "mean")
    modes = [modes] if isinstance(modes, str) else modes
    if len(modes) != 1 or modes[0] not in _POOLING:
        raise ValueError(
            f"A teacher's pooling must be one of {list(get_args(Pooling))}; {file} of {source!r} asks for "
            f"{' and '.join(map(str, modes))}. Set `pooling` to one of these, or: {_REMEDY}"
        )
    if not config.get("include_prompt", True):
        raise ValueError(
            f"A teacher pools over all tokens; {file} of {source!r} leaves out those of the prompt (include_prompt is "
            f"false). Set `pooling` to pool over all of them, or: {_REMEDY}"
        )
    return _POOLING[modes[0]]


def _transformer(directory: Path, source: str) -> dict[str, Any]:
    files = sorted(directory.glob("sentence_*_config.json"))
    config: dict[str, Any] = _read(files[0], dict) if files else {}
    for key, followed in {"do_lower_case": False, "transformer_task": "feature-extraction"}.items():
        if config.get(key, followed) != followed:
            raise ValueError(
                f"A teacher's Transformer module must have {key} {followed!r}; {files[0]} of {source!r} has "
                f"{config[key]!r}. {_REMEDY}"
            )
    return config


def _max_length(directory: Path, transformer: dict[str, Any]) -> int | None:
    if transformer.get("max_seq_length"):
        return int(transformer["max_seq_length"])
    tokenizer = directory / "tokenizer_config.json"
    model = _read(directory / "config.json", dict)
    limits = [
        _read(tokenizer, dict).get("model_max_length") if tokenizer.is_file() else None,
        model.get("max_position_embeddings", model.get("n_positions")),
    ]
    known = [int(limit) for limit in limits if limit and 0 < limit < 1e9]  # "no limit" is written as 1e30
    return min(known, default=None)


def _default_prompt(directory: Path) -> str | None:
    file = directory / "config_sentence_transformers.json"
    config = _read(file, dict) if file.is_file() else {}
    name = config.get("default_prompt_name")
    return None if name is None else (config.get("prompts") or {}).get(name)


def _read(file: Path, kind: type) -> Any:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, kind):
            raise ValueError(f"it holds a {type(content).__name__}, not a {kind.__name__}")
    except ValueError as error:
        raise ValueError(
            f"A sentence-transformers directory's settings must be readable JSON; {file} is not: {error}. Copy or "
            "fetch it again."
        ) from error
    return content
