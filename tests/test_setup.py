"""The set-up script refuses early, in one line, what would fail after minutes."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A checkout on a machine that has set nothing up."""
    (tmp_path / "scripts").mkdir()
    for file in ("scripts/setup.sh", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / file, tmp_path / file)
    return tmp_path


@pytest.mark.parametrize(
    ("given", "rule", "remedy"),
    [
        ({"PYTHON": "/bin/false"}, "latticegnn needs Python 3.11", "point PYTHON at a suitable interpreter"),
        ({"LATTICEGNN_WHEELS": "no/such/folder"}, "'no/such/folder' is not one", "unset it to compile instead"),
        ({"CXX": "no-such-compiler"}, "no C++ compiler 'no-such-compiler' is on PATH", "or set LATTICEGNN_WHEELS"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_missing_is_told_in_one_line(bare, given, rule, remedy) -> None:
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHON", "LATTICEGNN_WHEELS", "CXX")}
    environment = kept | {"XDG_CACHE_HOME": str(bare / "cache")} | given
    ended = subprocess.run(
        ["bash", str(bare / "scripts" / "setup.sh")], env=environment, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("setup: ")
    assert rule in ended.stderr
    assert remedy in ended.stderr
    assert not (bare / ".venv").exists()
