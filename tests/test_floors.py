"""The house's walls: imports go down, rooms stay small, and no room is called after nothing in particular."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "latticegnn"
#: Rooms by floor, the ground first; on one floor a room may use the rooms before it.
FLOORS = [
    ["lattice"],
    ["aggregate"],
    ["nn"],
    [
        "pretrained",
        "hub",
        "rollout",
        "resizing",
        "model",
        "exporting",
        "data",
        "text_model",
        "correction",
        "answers",
        "screening",
        "predictor",
    ],
    ["analysis", "training", "inference", "benchmarks"],
    ["report"],
    ["__init__"],
    ["cli", "testing", "compressor"],
    ["__main__"],
]
#: Data knows nothing of lattices, and the model nothing of where its embeddings come from.
STRANGERS = {"data": {"lattice", "aggregate", "nn", "model"}, "model": {"data"}}
FACELESS = {"utils", "util", "helpers", "helper", "common", "core", "misc"}
LONGEST = 400
ORDER = [room for floor in FLOORS for room in floor]
FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(file: Path) -> str:
    """The dotted name of a module, without the package's own: ``nn.cell``; ``__init__`` for the package itself."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


NAMES = {name_of(file) for file in FILES}


def imported(source: str, module: str) -> Iterator[str]:
    """Yield the dotted name of everything a module imports, wherever in the file; relative names made absolute."""
    package = ["latticegnn", *module.split(".")]
    if module not in {name.rpartition(".")[0] for name in NAMES}:
        package = package[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            start = ".".join(part for part in (base, node.module) if part)
            yield from (f"{start}.{alias.name}" for alias in node.names)


def room_of(dotted: str) -> str | None:
    """The room that an imported name belongs to; None outside of this package."""
    package, _, inner = dotted.partition(".")
    if package != "latticegnn":
        return None
    first = inner.split(".")[0]
    return first if any(name.split(".")[0] == first for name in NAMES) else "__init__"


def offences(source: str, module: str) -> list[str]:
    """What one module imports against the rules."""
    own = module.split(".")[0]
    found = []
    for dotted in imported(source, module):
        room = room_of(dotted)
        if room is not None and room != own:
            strange = room in STRANGERS.get(own, set())
            if strange or ORDER.index(room) > ORDER.index(own):
                found.append(f"{module} imports {dotted}")
        if dotted.split(".")[0] in ("lightning", "pytorch_lightning") and ORDER.index(own) < ORDER.index("training"):
            found.append(f"{module} imports {dotted}")
    return found


def test_every_room_has_a_floor() -> None:
    assert {name.split(".")[0] for name in NAMES} <= set(ORDER)


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_go_down(file) -> None:
    assert offences(file.read_text(encoding="utf-8"), name_of(file)) == []


@pytest.mark.parametrize(
    ("module", "source", "caught"),
    [
        ("lattice.spec", "from latticegnn.nn import LatticeCell", True),
        ("lattice.spec", "def f():\n    import latticegnn.model", True),
        ("nn.cell", "from latticegnn import LatticeModel", True),
        ("nn.cell", "from latticegnn import model", True),
        ("nn.cell", "import latticegnn as lg", True),
        ("nn.cell", "from .. import training", True),
        ("nn.cell", "from ..model import LatticeModel", True),
        ("nn", "from ..model import LatticeModel", True),
        ("model", "from .data import Teacher", True),
        ("nn.cell", "from .experts import Expert", False),
        ("nn.cell", "from latticegnn.aggregate import aggregator", False),
        ("data.teacher", "from latticegnn.lattice import LatticeSpec", True),
        ("data.teacher", "from latticegnn.model import LatticeModel", True),
        ("model", "from latticegnn.data import Teacher", True),
        ("analysis.metrics", "from latticegnn.training import losses", True),
        ("training.callbacks", "from latticegnn.analysis import metrics", False),
        ("training.module", "import lightning.pytorch as pl", False),
        ("analysis.metrics", "from lightning.pytorch import Trainer", True),
        ("model", "import pytorch_lightning", True),
        ("cli", "from latticegnn.report import plots", False),
        ("cli", "from latticegnn import __version__", False),
        ("__init__", "from latticegnn.testing import LayerContract", True),
    ],
)
def test_the_check_catches_what_it_should(module, source, caught) -> None:
    assert bool(offences(source, module)) is caught


@pytest.mark.parametrize("folder", ["latticegnn", "scripts", "examples", "benchmarks", "tests"])
def test_rooms_are_small_and_named_for_what_they_do(folder) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    lengths = {str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}
    parts = {part for file in files for part in file.relative_to(ROOT).with_suffix("").parts}
    assert parts & FACELESS == set()
