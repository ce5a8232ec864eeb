"""Write the notebooks of the first examples: ``notebooks/*.ipynb``, run, with their outputs.

An example is a script that ``# %%`` parts into cells, in jupytext's percent format. Its docstring becomes the
notebook's first text. A cell tagged ``active-ipynb`` runs in the notebook alone, so the script has it as a comment; one
tagged ``active-py`` stays out of the notebook, as ``main`` does.
"""

import argparse
import ast
import os
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"
EXAMPLES = ("00_first_lattice", "10_swap_a_layer", "20_self_autoencoding_digits")
SECONDS = 600
"""What a cell may take."""


def notebook(name: str) -> NotebookNode:
    """Make the notebook of an example, without outputs; the same file always gives the same notebook."""
    source = Path("examples") / f"{name}.py"
    docstring, *cells = jupytext.read(ROOT / source).cells
    title, _, text = ast.literal_eval(docstring.source).partition("\n")
    first = [
        new_markdown_cell(f"# {title}\n{text.replace('::', ':').rstrip()}"),
        new_code_cell(
            f'# From the repository\'s root, as the script.\n%matplotlib inline\n%cd -q ..\n__file__ = "{source}"'
        ),
    ]
    made = nbformat.v4.new_notebook(
        cells=[*first, *(cell for cell in cells if cell.cell_type != "raw")],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    for number, cell in enumerate(made.cells):
        cell.id, cell.metadata = f"cell-{number:02}", {}
    return made


def executed(made: NotebookNode) -> NotebookNode:
    """Run all cells in the environment that runs this, as Jupyter would from the folder of notebooks.

    Raises:
        nbclient.exceptions.CellExecutionError: When a cell fails.
    """
    where = {"metadata": {"path": str(FOLDER)}}
    client = NotebookClient(made, timeout=SECONDS, resources=where, record_timing=False, coalesce_streams=True)
    client.execute(env=os.environ | {"PYTHONWARNINGS": "ignore:IProgress not found"})  # no widgets, bars as text
    made.metadata.pop("language_info", None)  # holds the patch release of this Python
    return made


def main(arguments: list[str] | None = None) -> None:
    """Make, run and write."""
    parser = argparse.ArgumentParser(description="Write the notebooks of the first examples, run.")
    parser.add_argument("names", nargs="*", default=EXAMPLES, help=f"of {', '.join(EXAMPLES)}; all by default")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder of the notebooks")
    given = parser.parse_args(arguments)
    if unknown := set(given.names) - set(EXAMPLES):
        known = ", ".join(EXAMPLES)
        parser.error(f"names must be of {known}; got {', '.join(sorted(unknown))}; leave them out to write all")
    given.output.mkdir(parents=True, exist_ok=True)
    for name in given.names:
        file = given.output / f"{name}.ipynb"
        nbformat.write(executed(notebook(name)), file)
        print(file)


if __name__ == "__main__":
    main()
