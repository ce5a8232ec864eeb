"""The page's file: what it holds, what it forbids itself, and how it is called for."""

import base64
import hashlib
import html.parser
import json
import re
import shutil
import sys

import pytest

from latticegnn.cli import main
from latticegnn.report.html import ASSETS, write_report


class Outline(html.parser.HTMLParser):
    """Elements of a page, the texts of its table cells, and its scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.texts: dict[str, list[str]] = {}
        self._within: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "br", "input"):
            self._within.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag) -> None:
        assert self._within.pop() == tag, f"a stray </{tag}>"

    def handle_data(self, data) -> None:
        if self._within:
            for tag in set(self._within):
                self.texts[tag][-1] += data


@pytest.fixture(scope="module")
def run(finished):
    return finished((4, 4, 6), steps=6)


@pytest.fixture(scope="module")
def page(run) -> str:
    file = write_report(run)
    assert file == run.folder / "report.html"
    return file.read_text(encoding="utf-8")


def test_the_page_holds_table_verdict_rows_and_cards(page) -> None:
    outline = Outline(page)
    cells = outline.texts["td"]
    assert "1,234" in cells
    assert "0.500 [0.400, 0.600]" in cells
    assert outline.texts["li"] == ["lattice − mean: fvu -0.500 [-0.600, -0.400], the lattice wins"]
    assert [attributes for tag, attributes in outline.elements if tag == "li"] == [{"class": "wins"}], "and its mark"
    assert outline.texts["strong"] == ["0.500", "0.750"]
    assert {"seed_everything: 7" in text for text in outline.texts["pre"]} == {True}
    assert outline.texts["caption"] == [
        "The honest table of a-run",
        "What a-run answers to these rows of the test split",
    ]
    assert [attributes.get("scope") for tag, attributes in outline.elements if tag == "th"].count(None) == 0
    rows = json.loads(outline.texts["script"][0])["runs"][0]["rows"]
    assert [label.split(":")[0] for label in rows] == ["row 0", "row 6", "row 13"]


def test_what_users_wrote_stays_text(page) -> None:
    outline = Outline(page)
    assert "img" not in {tag for tag, _ in outline.elements}
    assert not [attributes for _, attributes in outline.elements if any(name.startswith("on") for name in attributes)]
    assert sum("</script><img src=x onerror=alert(1)> & \"so\" '$title'" in text for text in outline.texts["td"]) > 2


def test_the_page_asks_for_nothing_and_runs_its_own_scripts_alone(page) -> None:
    outline = Outline(page)
    policy = next(a["content"] for tag, a in outline.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; ")
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    own = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    assert {base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in own} == allowed
    assert len(allowed) == 2
    assert "unsafe-inline" not in policy.partition("style-src")[0]
    addresses = [a[key] for _, a in outline.elements for key in ("src", "href") if key in a]
    places = {"#" + attributes["id"] for _, attributes in outline.elements if "id" in attributes}
    assert [address for address in addresses if address not in places] == ["data:,"]


def test_numbers_that_are_not_finite_leave_gaps(page) -> None:
    content = json.loads(Outline(page).texts["script"][0], parse_constant=lambda name: pytest.fail(name))
    assert content["runs"][0]["curves"]["train/loss"] == [[9, 2.5], [19, None]]


def test_the_same_run_gives_the_same_page_and_two_share_one(run, finished, page, tmp_path) -> None:
    again = write_report(run, output=tmp_path / "deep" / "again.html")
    assert again.read_text(encoding="utf-8") == page
    other = finished((3, 3, 5), name="other-run", texts=False, steps=5)
    both = Outline(write_report(run, other, rows=[4, 2], output=tmp_path / "both.html").read_text(encoding="utf-8"))
    runs = json.loads(both.texts["script"][0])["runs"]
    assert [shown["name"] for shown in runs] == ["a-run", "other-run"]
    assert runs[1]["rows"] == ["row 4", "row 2"]
    assert len(both.texts["caption"]) == 4


def test_a_page_at_16_cubed_is_below_8_mb(finished, tmp_path) -> None:
    run = finished((16, 16, 16), steps=16)
    assert write_report(run, output=tmp_path / "16.html").stat().st_size < 8e6
    assert write_report(run, run, output=tmp_path / "two.html").stat().st_size < 8e6


def test_mistakes_are_told(run, monkeypatch, refuses) -> None:
    for rows in ([], [20], [-1], [3, 3]):
        with refuses("numbers of test rows, from 0 to 19", str(rows), "--rows"):
            write_report(run, rows=rows)
    for name in [name for name in sys.modules if name.split(".")[0] == "plotly"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "plotly", None)
    with refuses("plotly's", "not installed", "pip install 'latticegnn[viz]'", ModuleNotFoundError):
        write_report(run)


def test_fit_writes_the_page_that_report_writes_again(tiny_run, capsys, refuses) -> None:
    page = (tiny_run / "report.html").read_bytes()
    assert main(["report", str(tiny_run), "--output", str(tiny_run / "again.html")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tiny_run / "again.html")
    assert (tiny_run / "again.html").read_bytes() == page
    assert main(["report", str(tiny_run), "--other", str(tiny_run), "--rows", "[3]"]) == 0
    assert b"row 3" in (tiny_run / "report.html").read_bytes()
    assert main(["report", str(tiny_run / "nothing")]) == 2
    assert "runs/latest" in capsys.readouterr().err
    shutil.move(tiny_run.parent / "v.npy", tiny_run.parent / "gone.npy")
    try:
        assert main(["report", str(tiny_run)]) == 2
    finally:
        shutil.move(tiny_run.parent / "gone.npy", tiny_run.parent / "v.npy")
    assert "v.npy" in capsys.readouterr().err


def test_fit_goes_on_without_plotly_and_says_so(tiny_config, monkeypatch, capsys, tmp_path) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "plotly"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "plotly", None)
    assert main(["fit", "--config", str(tiny_config), "--run_dir", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert "no report.html was written" in err
    assert "pip install 'latticegnn[viz]'" in err
    assert not list(tmp_path.glob("*/report.html"))
    assert out.splitlines()[-1].startswith(str(tmp_path))


def luminance(colour: str) -> float:
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted([luminance(one), luminance(other)], reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_contrasts_satisfy_wcag_aa(scheme) -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    blocks = re.findall(r":root \{(.*?)\}", (ASSETS / "report.css").read_text(encoding="utf-8"), flags=re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", blocks[scheme]))
    for text in ("ink", "soft", "accent"):
        for ground in ("paper", "panel"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    assert contrast(colours["ink"], colours["ours"]) >= 4.5
    assert contrast(colours["soft"], colours["ours"]) >= 4.5
    assert contrast(colours["rim"], colours["panel"]) >= 3
