"""A teacher from what a configuration says of it."""

from __future__ import annotations

import inspect
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from latticegnn.data.teacher import Teacher
from latticegnn.data.words import WordVectors


def build_teacher(settings: str | Mapping[str, Any]) -> Teacher | WordVectors:
    """Build a `Teacher` from its source or its settings, or `WordVectors` from settings with a `path`.

    Raises:
        ValueError: As `check_settings` and the two classes.
        FileNotFoundError: When a file is missing.
    """
    if isinstance(settings, str):
        return Teacher(settings)
    check_settings(settings)
    return _class_of(settings)(**settings)


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse a setting that is unknown or of another type; nothing is read."""
    make = _class_of(settings)
    hints, known = get_type_hints(make.__init__), inspect.signature(make).parameters
    for name, value in settings.items():
        if name not in known:
            raise ValueError(
                f"`teacher` must hold settings of {make.__name__}, {', '.join(known)}; received {name!r}. Use these "
                "names."
            )
        if not _fits(value, hints[name]):
            wanted = inspect.formatannotation(known[name].annotation)
            raise ValueError(f"`teacher.{name}` must be {wanted}; received {value!r}. Give it as that.")


def _class_of(settings: Mapping[str, Any]) -> type[Teacher] | type[WordVectors]:
    return WordVectors if "path" in settings else Teacher


def _fits(value: Any, wanted: Any) -> bool:
    if get_origin(wanted) in (Union, types.UnionType):
        return any(_fits(value, one) for one in get_args(wanted))
    if get_origin(wanted) is Literal:
        return value in get_args(wanted)
    return isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool))
