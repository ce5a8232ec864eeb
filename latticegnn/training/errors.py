"""A mistake in a configuration, told in one line: the rule, what was received, and what to do."""

from __future__ import annotations

import dataclasses
import difflib
import re
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentParser

_GROUP = re.compile(r"Group '([\w.]+)' does not accept option '([^']+)'")
_UNKNOWN = re.compile(r"(?:unrecognized arguments: -*|Option ')([^\s=']+)")
_SECTION = re.compile(r"""Parser key "([\w.]+)": Unable to load config '(.*?)' - (Parser key .*)$""")
_WITHIN = re.compile(r"^\s*- (.*)$", re.MULTILINE)
_WRONG = re.compile(r'Parser key "([\w.]+)":.*(?:Got|Given) value: (.*)$')
_FIELD = re.compile(r"""class_path '[\w.]+': Parser key "(\w+)": Expected .*? Got value: (.*?) - Expected""")
_RANGE = re.compile(r'Parser key "([\w.]+)": Not of type \w+: (.*) does not conform to restriction (\S.*)$')
_NAMES: dict[Any, str] = {
    bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path",
    dict: "a mapping", list: "a list", tuple: "a list", types.NoneType: "null",
}  # fmt: skip


def one_line(parser: ArgumentParser, message: str) -> NoReturn:
    """Print what is wrong with a configuration and what to do, and exit with status 2."""
    sys.stderr.write(f"latticegnn: {_three_parts(parser, ' '.join(message.split()))}\n")
    sys.exit(2)


class OneLineParser(ArgumentParser):
    """A parser that reports a mistake in one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Report a mistake and exit; inside a value, raise, as other readings of the value may be right."""
        if not self.exit_on_error:
            super().error(message, ex)
        one_line(self, message)

    def instantiate(self, namespace: Any, *args: Any, **kwargs: Any) -> Any:
        """Build what a configuration describes; of what may also be null, say what is wrong with it alone."""
        try:
            return super().instantiate(namespace, *args, **kwargs)
        except ValueError as error:
            within = _WITHIN.search(str(error)) if "Union subtypes" in str(error) else None
            if within is None:
                raise
            raise ValueError(within[1]) from error


def config_files(arguments: Sequence[str]) -> Iterator[Path]:
    """Name the files that ``--config`` (or ``-c``) gives, in their order."""
    for word, following in zip(arguments, [*arguments[1:], ""], strict=False):
        if word in ("--config", "-c") and following:
            yield Path(following)
        elif word.startswith("--config="):
            yield Path(word.partition("=")[2])


def option(arguments: Sequence[str], name: str) -> str | None:
    """Return what a command line gives for an option; None where it does not."""
    for word, following in zip(arguments, [*arguments[1:], ""], strict=False):
        if word == name and following:
            return following
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return None


def read_mapping(file: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping of keys.

    Raises:
        FileNotFoundError: When the file is missing.
        ValueError: When it is no text, no YAML or no mapping.
    """
    rule = "a configuration is a YAML file of keys and values"
    if not file.is_file():
        raise FileNotFoundError(f"{rule}; {file} is not a file; check the path.")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{rule}; {file} cannot be read: {error}; mend it there.") from error
    if not isinstance(content, dict):
        kind = "nothing" if content is None else f"a {type(content).__name__}"
        raise ValueError(f"{rule}; {file} holds {kind}; write `key: value` lines into it.")
    return content


def refuse_nulls(parser: ArgumentParser, content: Mapping[str, Any], above: str = "") -> None:
    """Refuse a file's null for a setting that cannot be null; the parser itself lets it through.

    Args:
        parser: It knows the settings.
        content: Of the file.
        above: Where in the file that is, a dotted key with a dot behind.

    Raises:
        ValueError: When there is one.
    """
    actions = {action.dest: action for action in parser._actions}
    for key, value in content.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping):
            refuse_nulls(parser, value, f"{name}.")
        elif value is None:
            hint = getattr(actions.get(name), "_typehint", None)
            section = any(dest.startswith(f"{name}.") and dest != f"{name}.help" for dest in actions)
            if section or not (hint is None or actions[name].default is None or _takes_null(hint)):
                wanted = "a mapping of settings" if section else _in_words(hint)
                raise ValueError(f"{name} must be {wanted}; got null; leave it out for its default.")


def _takes_null(hint: Any) -> bool:
    return hint in (Any, types.NoneType) or any(map(_takes_null, get_args(hint)))


def _three_parts(parser: ArgumentParser, text: str) -> str:
    help_line = f"see `{parser.prog} --help`."
    section = _SECTION.search(text)
    if section:
        if "Unable to load config" not in section[3]:
            return _three_parts(parser, section[3])
        return f"{section[1]} must be a mapping of settings, or a file with one; got {section[2]}; {help_line}"
    group, unknown, wrong = _GROUP.search(text), _UNKNOWN.search(text), _WRONG.search(text)
    actions = {action.dest: action for action in parser._actions if action.dest not in ("help", "print_config")}
    if group or unknown:
        key = f"{group[1]}.{group[2]}" if group else unknown[1] if unknown else ""
        near = _nearest(key, list(actions))
        remedy = f"did you mean '{near[0]}'?" if near else help_line
        return f"a setting must be a key that {parser.prog} knows; got '{key}'; {remedy}"
    beyond = _RANGE.search(text)
    if beyond:
        return f"{beyond[1]} must be a number v with {beyond[3]}; got {beyond[2]}; {help_line}"
    hint = getattr(actions.get(wrong[1]), "_typehint", None) if wrong else None
    if wrong and hint is not None:
        name, got, field = wrong[1], wrong[2], _FIELD.search(text)
        fields = _fields(hint)
        if field and field[1] in fields:
            name, got, hint = f"{name}.{field[1]}", field[2], fields[field[1]]
        near = difflib.get_close_matches(got.strip("[]"), list(_literals(hint)), n=1)
        remedy = f"did you mean '{near[0]}'?" if near else help_line
        return f"{name} must be {_in_words(hint)}; got {got}; {remedy}"
    return f"{text.rstrip('.')}; {help_line}"


def _fields(hint: Any) -> dict[str, Any]:
    """Name the fields of the only dataclass that a type hint allows, with their types."""
    found = [part for part in (hint, *get_args(hint)) if dataclasses.is_dataclass(part)]
    return get_type_hints(found[0]) if len(found) == 1 else {}


def _nearest(key: str, known: Sequence[str]) -> list[str]:
    """Find the known key that was meant: same last part, else alike, else alike up to where the key goes wrong."""
    last = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
    single = [name for name in known if not any(other.startswith(f"{name}.") for other in known)]
    near = last[:1] or difflib.get_close_matches(key, single, n=1)
    parts = key.split(".")
    for depth in range(1, len(parts) + 1):
        if near:
            break
        near = difflib.get_close_matches(".".join(parts[:depth]), single, n=1, cutoff=0.8)
    return near


def _in_words(hint: Any) -> str:
    """Say what a type hint allows."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}" if len(args) > 1 else str(args[0])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_in_words, args)))
    if origin is tuple and len(set(args)) == 1:
        return f"a list of {len(args)}, each {_in_words(args[0])}"
    if origin is list:
        return f"a list, each {_in_words(args[0])}"
    if dataclasses.is_dataclass(hint):
        return f"a mapping of {', '.join(field.name for field in dataclasses.fields(hint))}"
    return _NAMES.get(origin or hint) or str(getattr(hint, "__name__", hint))


def _literals(hint: Any) -> Iterator[str]:
    for arg in get_args(hint):
        if get_origin(hint) is Literal:
            yield str(arg)
        else:
            yield from _literals(arg)
