"""What settings amount to: a hash that changes whenever a run by them may."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any


def fingerprint(content: Any) -> str:
    """Hash settings, this package's version, and the content of the files that the settings name; hexadecimal digits.

    Args:
        content: Mappings, lists, numbers and strings.
    """
    files = {file: hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in sorted(_files(content))}
    parts = [version("latticegnn"), content, files]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _files(content: Any) -> set[str]:
    """Find the files that settings name, a layer's ``file.py:Class`` or data, so that a change in one is noticed."""
    if isinstance(content, str):
        file = content.rpartition(":")[0] if ".py:" in content else content
        return {file} if "." in file and Path(file).is_file() else set()
    values = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
    return set().union(*map(_files, values))
