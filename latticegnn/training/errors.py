"""A mistake in a configuration, told in one line with the nearest key there is."""

from __future__ import annotations

import difflib
import re
import sys
from typing import NoReturn

from jsonargparse import ArgumentParser

_UNKNOWN = re.compile(r"(?:unrecognized arguments: -*|Key ['\"]|key ['\"]|Option ['\"])([\w.]+)", re.IGNORECASE)


def one_line(parser: ArgumentParser, message: str) -> NoReturn:
    """Print what is wrong with a configuration, with the nearest known key, and exit with status 2."""
    text = " ".join(message.split())
    known = sorted(action.dest for action in parser._actions if action.dest not in ("help", "config"))
    named = _UNKNOWN.search(text)
    hint = ""
    if named and named.group(1) not in known:
        key = named.group(1)
        last = [k for k in known if k.rpartition(".")[2] == key.rpartition(".")[2]]
        near = last[:1] or difflib.get_close_matches(key, known, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else " See --help for the keys there are."
    sys.stderr.write(f"latticegnn: {text}{hint}\n")
    sys.exit(2)


class OneLineParser(ArgumentParser):
    """A parser that reports a mistake in one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Report a mistake and exit."""
        one_line(self, message)
