"""From a class path in a configuration to an instance, with errors that name the key."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

TRUSTED = ("latticegnn.", "torch_geometric.nn.", "torch.nn.")
"""Where the classes live that a saved model may name without being trusted by its user."""


def resolve(path: str, names: Mapping[str, type]) -> type:
    """Find a class by a short name, a dotted path, or a file: ``folder/file.py:ClassName``.

    Args:
        path: What to look for.
        names: The short names.

    Raises:
        ValueError: When nothing of that name exists.
    """
    if path in names:
        return names[path]
    if ".py:" in path:
        file, _, attribute = path.rpartition(":")
        module = _from_file(Path(file), path)
    elif "." in path:
        dotted, _, attribute = path.rpartition(".")
        try:
            module = importlib.import_module(dotted)
        except (ImportError, ValueError, TypeError) as error:  # the last two: an empty or a relative name
            raise ValueError(
                f"class_path must name an importable class; got {path!r}: {error}; "
                "check the spelling, or write folder/file.py:ClassName for a class in a file of yours."
            ) from error
    else:
        near = difflib.get_close_matches(path, names, n=1)
        hint = f"did you mean '{near[0]}'?" if near else "choose one of them."
        raise ValueError(
            f"class_path must be one of {', '.join(names)}, a dotted path or folder/file.py:ClassName; "
            f"got {path!r}; {hint}"
        )
    found = getattr(module, attribute, None)
    if not isinstance(found, type):
        classes = [name for name, value in vars(module).items() if isinstance(value, type)]
        near = difflib.get_close_matches(attribute, classes, n=1)
        hint = f"did you mean '{near[0]}'?" if near else "check the spelling."
        raise ValueError(f"class_path must name a class; {path!r} has no class {attribute!r}; {hint}")
    return found


def build(setting: Any, names: Mapping[str, type], **offered: Any) -> Any:
    """Make an instance from ``"name"`` or ``{"class_path": …, "init_args": {…}}``.

    Arguments that the constructor names and the setting leaves out are taken from ``offered``. A setting among the
    ``init_args`` is built first.

    Raises:
        ValueError: For a malformed setting, an unknown class, or an argument that the class does not take.
    """
    if isinstance(setting, str):
        setting = {"class_path": setting}
    if not isinstance(setting, Mapping) or "class_path" not in setting or set(setting) - {"class_path", "init_args"}:
        raise ValueError(
            "a class is set as a name or as a mapping of class_path and init_args; "
            f"got {setting!r}; write {{class_path: …, init_args: {{…}}}}."
        )
    given = setting.get("init_args") or {}
    if not isinstance(setting["class_path"], str) or not isinstance(given, Mapping):
        raise ValueError(
            "class_path is a text and init_args a mapping of argument names to values; "
            f"got {setting!r}; write {{class_path: …, init_args: {{…}}}}."
        )
    cls = resolve(setting["class_path"], names)
    if not issubclass(cls, nn.Module):
        raise ValueError(
            f"class_path must name a torch module; {setting['class_path']!r} is a {cls.__name__}, which is none; "
            "name a layer's class."
        )
    given = {
        key: build(value, {}) if isinstance(value, Mapping) and "class_path" in value else value
        for key, value in given.items()
    }
    parameters = inspect.signature(cls).parameters
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        for key in given:
            if key not in parameters:
                near = difflib.get_close_matches(key, parameters, n=1)
                hint = f"did you mean '{near[0]}'?" if near else f"it takes {', '.join(parameters)}."
                raise ValueError(f"init_args of {cls.__name__} must be arguments it takes; got {key!r}; {hint}")
    arguments = {key: value for key, value in offered.items() if key in parameters} | given
    try:
        return cls(**arguments)
    except Exception as error:  # whatever a foreign constructor raises is the configuration's mistake
        raise ValueError(
            f"{cls.__name__} must be buildable from its init_args; got {given or 'none'}: {error}; correct them."
        ) from error


def foreign(setting: Any, names: Mapping[str, type]) -> list[str]:
    """List the class paths in a setting that lead outside `TRUSTED`: code that building it would run."""
    if isinstance(setting, str):
        setting = {"class_path": setting}
    if not isinstance(setting, Mapping):
        return []
    path = setting.get("class_path")
    own = path is None or path in names or str(path).startswith(TRUSTED)
    inner = setting.get("init_args") or {}
    values = inner.values() if isinstance(inner, Mapping) else ()
    nested = [p for value in values if isinstance(value, Mapping) for p in foreign(value, {})]
    return ([] if own else [str(path)]) + nested


def _from_file(file: Path, path: str) -> Any:
    if not file.is_file():
        raise ValueError(f"class_path must name an existing file; {path!r} has no file {file}; check the path.")
    name = f"latticegnn_user_{file.resolve().as_posix().replace('/', '_').replace('.', '_')}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException as error:
            del sys.modules[name]
            if not isinstance(error, Exception):
                raise
            raise ValueError(
                f"class_path must name a file that can be run; {file} raised {type(error).__name__}: {error}; mend it."
            ) from error
    return sys.modules[name]
