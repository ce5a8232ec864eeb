"""What the pages for newcomers say is there, runs, and is what the code holds."""

import inspect
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from latticegnn.cli import COMMANDS
from latticegnn.nn import EXPERTS
from latticegnn.nn.classpath import resolve
from latticegnn.nn.modes import MODES
from latticegnn.testing import LayerContract

ROOT = Path(__file__).resolve().parent.parent
QUICKSTART, LAYER, CONTRIBUTING = (
    (ROOT / name).read_text(encoding="utf-8")
    for name in ("docs/quickstart.md", "docs/writing_a_layer.md", "CONTRIBUTING.md")
)
NEWCOMER = runpy.run_path(str(ROOT / "scripts" / "newcomer.py"))
STEPS = NEWCOMER["steps"](QUICKSTART)
FIFTH = [command for title, command in STEPS if title.startswith("5.")]
TEMPLATE = ROOT / "examples" / "templates" / "layer.py"
CONTRACT = [name for name in vars(LayerContract) if name.startswith("test_")]
# The template's own tests, collected here too.
TestMyLayer = resolve(f"{TEMPLATE}:TestMyLayer", {})


def blocks(page: str, language: str) -> list[str]:
    """The page's blocks of code in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def snippets(tmp_path_factory) -> dict:
    """The names that the Python of the page on layers defines, run as a file of the reader's."""
    file = tmp_path_factory.mktemp("page") / "page.py"
    file.write_text("\n\n".join(blocks(LAYER, "python")))
    return vars(sys.modules[resolve(f"{file}:TestSlope", {}).__module__])


def test_the_code_on_the_page_is_that_of_the_files() -> None:
    shown = [" ".join(block.split()) for block in blocks(LAYER, "python")]
    assert shown[0] == " ".join(TEMPLATE.read_text(encoding="utf-8").split())
    example = resolve(f"{ROOT / 'examples' / '10_swap_a_layer.py'}:Diffuse", {})
    for name in ("Diffuse", "TestDiffuse"):
        source = inspect.getsource(getattr(sys.modules[example.__module__], name))
        assert " ".join(source.split()) in shown[1]


@pytest.mark.parametrize("test", CONTRACT)
def test_the_layer_that_knows_its_place_keeps_the_contract(test, snippets) -> None:
    getattr(snippets["TestSlope"](), test)()


def test_the_gate_and_the_update_rule_of_the_page_are_in_use(snippets) -> None:
    model = snippets["model"]
    assert type(model.cell.gate).__name__ == "Sharp"
    assert type(model.dynamics).__name__ == "Leak"
    x = snippets["torch"].randn(1, 125, 8)
    taken, _ = model.dynamics(model.cell, x, (), 0)
    assert taken.equal(model.cell(x) - 0.1 * x)


def test_every_test_flag_expert_and_mode_is_told() -> None:
    assert re.findall(r"^\| `(test_\w+)` \|", LAYER, flags=re.MULTILINE) == CONTRACT
    flags = [name for name, value in vars(LayerContract).items() if value is True]
    names = [*flags, "init_args", *EXPERTS, *MODES]
    assert [name for name in names if f"`{name}`" not in LAYER] == []


def test_the_commands_of_the_quickstart_are_commands() -> None:
    titles = list(dict.fromkeys(title for title, _ in STEPS))
    assert [title[:2] for title in titles] == [f"{k}." for k in range(1, 7)]
    lines = [line for _, command in STEPS for line in command.splitlines()]
    called = [line.split()[1] for line in lines if line.startswith("latticegnn ")]
    assert set(called) <= set(COMMANDS)
    assert {"predict", "describe", "doctor", "fit", "experiment"} <= set(called)


def test_the_experiment_of_the_quickstart_compares_two_cells(tmp_path) -> None:
    (text,) = [command for _, command in STEPS if "<<'END'" in command]
    written = yaml.safe_load(text.partition("<<'END'\n")[2].partition("\nEND")[0])
    assert list(written["variants"]) == ["default", "sine"]
    assert (ROOT / written["base"]).is_file()
    named = written["variants"]["sine"]["model"]["experts"]["functional"]["class_path"]
    assert any(named in command for _, command in STEPS if command.startswith("latticegnn fit"))


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    """A folder with what the commands of section 5 name, and the layer that the first of them makes."""
    folder = tmp_path_factory.mktemp("own")
    for name in ("configs", "examples", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    subprocess.run(["bash", "-euc", FIFTH[0]], cwd=folder, check=True)
    return folder


def test_the_layer_of_the_quickstart_is_another_and_keeps_the_contract(own) -> None:
    assert FIFTH[1] == "python -m pytest my_layer.py"
    assert "torch.sin(" in (own / "my_layer.py").read_text()
    suite = resolve(f"{own / 'my_layer.py'}:TestMyLayer", {})
    for name in CONTRACT:
        getattr(suite(), name)()


@pytest.mark.slow
def test_the_layer_of_the_quickstart_is_trained(own) -> None:
    command = FIFTH[2].replace("latticegnn ", f"{sys.executable} -m latticegnn ", 1)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(["bash", "-euc", command], cwd=own, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "my_layer.py:MyLayer" in (own / "runs" / "latest" / "config.yaml").read_text()
    assert (own / "runs" / "latest" / "report.html").is_file()


def test_the_rules_of_contributing_name_what_is_there() -> None:
    """Names in the section on adding are defined in a file that the same paragraph names."""
    adding = CONTRIBUTING.partition("## Adding")[2].split("\n\n")[1:]
    assert len(adding) == 7
    for paragraph in adding:
        files = [ROOT / name for name in re.findall(r"(?:latticegnn|tests)/[\w/]+\.py", paragraph)]
        text = "".join(file.read_text(encoding="utf-8") for file in files)
        names = re.findall(r"`([A-Z]\w+)`", paragraph)
        assert [name for name in names if not re.search(rf"^(class )?{name}\b", text, re.MULTILINE)] == []


def test_the_path_is_timed_and_ends_at_what_fails(tmp_path) -> None:
    """A path of two commands in a clone: what fails is told with what it printed."""
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "quickstart.md"
    page.write_text("## Set up\n```bash\nexit 3\n```\n## 1. One\n```bash\necho $PYTHONPATH\n```\n")
    rows = NEWCOMER["walk"](tmp_path, tmp_path)
    assert [row[:2] for row in rows] == [("1. One", "echo $PYTHONPATH")]
    assert (tmp_path / "01.txt").read_text() == f"$ echo $PYTHONPATH\n{tmp_path}\n"
    assert 0 < rows[0][2] < 60
    page.write_text("## 1. One\n```bash\necho before; false\n```\n")
    with pytest.raises(RuntimeError, match=r"(?s)must succeed; 'echo before; false' ended with 1; .*before"):
        NEWCOMER["walk"](tmp_path, tmp_path)


def test_an_environment_that_is_lent_needs_no_set_up(tmp_path, monkeypatch, refuses) -> None:
    monkeypatch.setenv("PYTHON", "/bin/false")  # set-up that found anything to do would end at once
    clone, environment = tmp_path / "clone", tmp_path / "environment"
    for file in ("scripts/setup.sh", "pyproject.toml", "constraints.txt"):
        (clone / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, clone / file)
    with refuses("must be set up", f"{environment} has no bin/python", "--environment", FileNotFoundError):
        NEWCOMER["lend"](environment, clone)
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python").symlink_to(sys.executable)
    set_up = ["bash", str(clone / "scripts" / "setup.sh")]
    assert "is not one" in subprocess.run(set_up, capture_output=True, text=True).stderr
    NEWCOMER["lend"](environment, clone)
    done = subprocess.run(set_up, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [file.name for file in environment.rglob("*")] == ["bin", "python"]
