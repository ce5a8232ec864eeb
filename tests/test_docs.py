"""What the pages of docs say is what the code holds; that their code runs is tested in tests/docs."""

import re
from pathlib import Path
from typing import get_args

from latticegnn.data import PRESETS
from latticegnn.inference.command import add_predict_arguments
from latticegnn.lattice.placement import PLACEMENTS
from latticegnn.lattice.spec import Boundary
from latticegnn.nn.modes import MODES
from latticegnn.nn.stopping import CRITERIA
from latticegnn.training.errors import OneLineParser

ROOT = Path(__file__).parents[1]
DATA = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
DYNAMICS = (ROOT / "docs" / "dynamics.md").read_text(encoding="utf-8")
PREDICT = (ROOT / "docs" / "predict.md").read_text(encoding="utf-8")


def test_the_options_of_prediction_are_told() -> None:
    parser = OneLineParser(prog="latticegnn predict")
    add_predict_arguments(parser)
    options = {word.split(".")[0] for action in parser._actions for word in action.option_strings if "--" in word}
    assert {option for option in options if f"`{option}" not in PREDICT} == {"--help", "--device"}


def test_the_sections_of_dynamics_are_listed() -> None:
    top, *_ = DYNAMICS.partition("\n## ")
    titles = re.findall(r"^## (.*)$", DYNAMICS, flags=re.MULTILINE)
    assert re.findall(r"\]\(#([\w-]+)\)", top) == [title.lower().replace(" ", "-") for title in titles]


def test_every_mode_boundary_and_placement_is_told() -> None:
    def told(section: str) -> list[str]:
        page = DYNAMICS.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
        return re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`[^|]*) \|", page, flags=re.MULTILINE)))

    assert told("Propagation modes") == list(MODES)
    assert told("Boundaries") == list(get_args(Boundary))
    assert sorted(map(str.lower, told("Ports"))) == sorted(PLACEMENTS)


def test_every_criterion_of_stopping_is_told() -> None:
    page = DYNAMICS.partition("\n## Stopping\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE) == list(CRITERIA)


def test_the_presets_are_those_of_the_code() -> None:
    table = re.findall(r"^\| `preset:(\w+)` \| (\S+) \| (\d+) \| (\w+) \|$", DATA, flags=re.MULTILINE)
    assert table == [(name, found.hub_id, str(found.dim), found.pooling) for name, found in PRESETS.items()]
