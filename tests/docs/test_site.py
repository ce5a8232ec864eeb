"""The site holds every page, every module and every command."""

import json
import re
from pathlib import Path

import pytest

from latticegnn.cli import COMMANDS
from latticegnn.lattice import LatticeSpec, Ports, degrees, steps_needed, tier_report

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for file in (ROOT / "latticegnn").rglob("*.py")
    if file.name != "__main__.py"
} - {"latticegnn"}


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def test_every_page_is_in_the_table_of_contents() -> None:
    trees = re.findall(r"```{toctree}\n(.*?)```", page("index.md"), flags=re.DOTALL)
    lines = [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]
    listed = [re.sub(r".*<(.*)>", r"\1", line) for line in lines]
    there = [str(file.relative_to(DOCS).with_suffix("")) for file in (*DOCS.glob("*.md"), *DOCS.glob("api/*.rst"))]
    assert sorted([*listed, "index"]) == sorted(there)


def test_every_module_stands_on_one_page() -> None:
    text = "\n".join(file.read_text(encoding="utf-8") for file in DOCS.glob("api/*.rst"))
    told = re.findall(r"^\.\. automodule:: (\S+)$|^\.\. autoclass:: (\S+)\.\w+$", text, flags=re.MULTILINE)
    names = [module or holder for module, holder in told]
    assert sorted(names) == sorted(MODULES)


def test_every_command_is_told_with_its_own_help() -> None:
    assert re.findall(r"^## (\w+)$", page("cli.md"), flags=re.MULTILINE) == list(COMMANDS)
    assert [name for name in COMMANDS if f"```{{command-help}} {name}\n" not in page("cli.md")] == []


@pytest.mark.parametrize("row", re.findall(r"^\| `(\{.*\})` \| (.*) \|$", page("lattice.md"), flags=re.MULTILINE))
def test_the_worked_numbers_are_those_of_the_lattice(row) -> None:
    settings, told = json.loads(row[0]), row[1].split(" | ")
    spec = LatticeSpec.from_dict(settings)
    tiers = [f"{tier['min_degree']}–{tier['max_degree']}" for tier in tier_report(spec)[1:]]
    total = degrees(spec).sum(dim=1)
    steps = steps_needed(spec, Ports("z-"), Ports("z+"))
    ends = " / ".join(f"{radius:.2f}" for radius in spec.thresholds)
    assert told == [ends, *tiers, f"{int(total.min())}–{int(total.max())}", str(steps)]


def test_every_example_and_experiment_is_listed() -> None:
    examples = {file.name for file in (ROOT / "examples").glob("*.py")}
    assert set(re.findall(r"^\| \[(\w+\.py)\]", page("examples.md"), flags=re.MULTILINE)) == examples
    experiments = {f"configs/experiments/{file.name}" for file in (ROOT / "configs" / "experiments").glob("*.yaml")}
    assert {name for name in experiments if f"`{name}`" not in page("experiments.md")} == set()


def test_every_section_of_a_configuration_is_told() -> None:
    default = (ROOT / "configs" / "default.yaml").read_text(encoding="utf-8")
    keys = re.findall(r"^(\w+):", default, flags=re.MULTILINE)
    assert len(keys) > 15
    assert [key for key in keys if f"`{key}`" not in page("configs.md") and key != "resume"] == []


def test_headline_figures_are_those_of_one_full_table() -> None:
    tables = re.findall(r"(?:^\|.*\n)+", page("results.md"), flags=re.MULTILINE)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.partition("\n## Does the cube earn its keep?\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")][2:]
    assert len(rows) == 11
    for row in rows:
        figures = re.findall(r"(?<!\w)[01]?\.\d{3,4}\b", row)
        assert len(figures) >= 2
        sought = [rf"(?<!\d){re.escape(figure)}\b" for figure in figures]
        assert any(all(re.search(figure, table) for figure in sought) for table in tables), row
