"""The notebooks are the examples: the same cells in the same order, run, with pictures, and they still run."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
MAKER = runpy.run_path(str(ROOT / "scripts" / "notebooks.py"))


def kept(name: str, folder: Path = ROOT / "notebooks") -> nbformat.NotebookNode:
    """A notebook as it is in a folder."""
    return nbformat.read(folder / f"{name}.ipynb", as_version=4)


def sources(notebook: nbformat.NotebookNode) -> list[tuple[str, str, str]]:
    return [(cell.id, cell.cell_type, cell.source) for cell in notebook.cells]


def test_the_notebooks_are_those_of_the_first_examples() -> None:
    assert {file.stem for file in (ROOT / "notebooks").iterdir()} == set(MAKER["EXAMPLES"])
    assert list(MAKER["EXAMPLES"]) == [file.stem for file in sorted((ROOT / "examples").glob("*.py"))][:3]


@pytest.mark.parametrize("name", MAKER["EXAMPLES"])
def test_a_notebook_says_what_its_example_says(name) -> None:
    """Where this fails, an example has changed: make notebooks."""
    made = MAKER["notebook"](name)
    nbformat.validate(made)
    assert sources(kept(name)) == sources(made)
    script = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")
    lines = {line.removeprefix("# ") for line in script.splitlines()}
    for cell in made.cells[2:]:
        assert set(cell.source.splitlines()) <= lines | {""}
    assert not any("__main__" in cell.source and "main()" in cell.source for cell in made.cells)


@pytest.mark.parametrize("name", MAKER["EXAMPLES"])
def test_a_notebook_is_kept_with_its_outputs(name) -> None:
    cells = [cell for cell in kept(name).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert "error" not in {output.output_type for output in outputs}
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
    assert any("image/png" in output.get("data", {}) for output in outputs)
    told = [output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs]
    assert re.findall(r"(?<![\w.])/\w+", "\n".join(told)) == [], "no folder of the machine that it was run on"


def test_only_the_notebooks_there_are_can_be_written(capsys) -> None:
    with pytest.raises(SystemExit):
        MAKER["main"](["30_to_networkx"])
    assert "names must be of 00_first_lattice" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKER["EXAMPLES"])
def test_a_notebook_runs(name, tmp_path) -> None:
    """In a kernel of this environment, as `make notebooks` does; outputs are of the kinds that are kept."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, str(ROOT / "scripts" / "notebooks.py"), name, "--output", str(tmp_path)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    again = kept(name, tmp_path)
    assert sources(again) == sources(kept(name))

    def kinds(notebook: nbformat.NotebookNode) -> list[list[str]]:
        return [[output.output_type for output in cell.get("outputs", [])] for cell in notebook.cells]

    assert kinds(again) == kinds(kept(name))
