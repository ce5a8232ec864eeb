"""What the README names exists, and what it is for stays a page long."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
HOUSE = (ROOT / "docs" / "house.md").read_text(encoding="utf-8")


def test_nothing_is_left_to_fill_in() -> None:
    assert not re.search(r"@@|TODO|TBD", README)


def test_it_is_a_front_page() -> None:
    assert len(README.splitlines()) <= 240
    pages = {f"docs/{file.name}" for file in (ROOT / "docs").glob("*.md")}
    inside = {f"docs/{name}.md" for name in ("index", "log", "changelog", "contributing")}
    assert [name for name in sorted(pages - inside) if f"({name})" not in README] == []


def test_every_room_is_named() -> None:
    rooms = {path.name for path in (ROOT / "latticegnn").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms
    assert [room for room in sorted(rooms) if f"  {room}/" not in HOUSE or f"`{room}/`" not in README] == []


def test_the_tree_names_every_file() -> None:
    files = {file.name for file in (ROOT / "latticegnn").rglob("*.py") if not file.name.startswith("__")}
    assert files == set(re.findall(r"\b\w+\.py\b", HOUSE)) - {"conf.py", "test_floors.py"}
