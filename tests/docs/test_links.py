"""Links between the files of the repository lead to files and headings that exist; others are at least addresses."""

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("latticegnn", "docs", "examples", "configs", "scripts", "benchmarks", "tests")
FILES = [*ROOT.glob("*"), *(file for room in ROOMS for file in (ROOT / room).rglob("*"))]
PAGES = sorted(file for file in FILES if file.suffix == ".md")
TEXTS = sorted(
    file for file in FILES if file.suffix in (".md", ".rst", ".py", ".yaml") and ROOT / "tests" not in file.parents
)
#: Folders whose files are named in prose and docstrings.
NAMED = re.compile(
    r"(?<![\w/.-])(?:latticegnn|configs|examples|scripts|docs|benchmarks|tests)/[\w/]+\.(?:py|md|yaml|tsv|png|sh)\b"
)


def without_code(page: str) -> str:
    """A page without its blocks and its literals, whose brackets are no links."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^( *)```.*?^\1```$", "", page, flags=re.DOTALL | re.MULTILINE))


def anchors(page: str) -> set[str]:
    """The names by which GitHub and the site link a page's headings."""
    bare = re.sub(r"^( *)```.*?^\1```$", "", page, flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.*)$", bare, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def links(page: str) -> list[str]:
    """The targets of a page's links and pictures."""
    return re.findall(r"\]\(([^()\s]+(?:\([^()]*\))?)\)", without_code(page))


def broken(link: str, file: Path) -> bool:
    """Whether a link on a page leads nowhere; an address elsewhere need only be one."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return parts.scheme not in ("http", "https") or "." not in parts.netloc
    target = (file.parent / parts.path) if parts.path else file
    if not target.exists():
        return True
    return bool(parts.fragment) and parts.fragment not in anchors(target.read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", PAGES, ids=lambda file: str(file.relative_to(ROOT)))
def test_links_lead_somewhere(file) -> None:
    assert [link for link in links(file.read_text(encoding="utf-8")) if broken(link, file)] == []


@pytest.mark.parametrize(
    "link", ["nowhere.md", "README.md#nowhere", "#nowhere", "docs/nowhere/", "htp://a.b", "https://nowhere", "mailto:x"]
)
def test_a_broken_link_is_found(link) -> None:
    assert links(f"a [link]({link}) and `no [link](x)`") == [link]
    assert broken(link, ROOT / "README.md")


def test_links_that_are_sound_are_taken() -> None:
    page = ROOT / "README.md"
    assert not any(
        broken(link, page) for link in ("docs/data.md#the-cache", "#ask-it", "docs", "https://pytorch.org/a")
    )


def test_files_that_are_named_exist() -> None:
    named = {(name, file.name) for file in TEXTS for name in NAMED.findall(file.read_text(encoding="utf-8"))}
    assert len(named) > 100
    assert [(name, file) for name, file in sorted(named) if not (ROOT / name).is_file()] == []


def test_targets_that_are_named_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = {target for page in PAGES for target in re.findall(r"`make ([\w-]+)", page.read_text(encoding="utf-8"))}
    assert len(named) > 5
    assert [target for target in sorted(named) if not re.search(rf"^{target}:", makefile, flags=re.MULTILINE)] == []
