"""What the README names exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_file_that_is_named_exists() -> None:
    named = set(re.findall(r"(?:configs|examples|scripts|docs|benchmarks|tests)/[\w/]+\.\w+", README))
    assert len(named) > 8
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_nothing_is_left_to_fill_in() -> None:
    assert not re.search(r"@@|TODO|TBD", README)


def test_the_tree_names_every_room() -> None:
    rooms = {path.name for path in (ROOT / "latticegnn").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms
    assert [room for room in sorted(rooms) if f"  {room}/" not in README] == []
