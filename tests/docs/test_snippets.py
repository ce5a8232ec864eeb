"""Every block of code on every page: Python is run, settings are built, commands are run or parsed; none is left out.

A block's language says what becomes of it: ``python`` is run, all blocks of a page one after the other, and
``python network`` is compiled alone; ``yaml`` is built as the configuration that it is; ``bash`` holds commands, or a
script where it begins with ``#!``; ``text`` is what somebody sees. Another language, or none, is a failure.
"""

import re
import shlex
import subprocess
import tomllib
from ast import literal_eval
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

import latticegnn as lg
from latticegnn.cli import main
from latticegnn.data.teacher_card import write_teacher
from latticegnn.training.configuration import RunCLI
from latticegnn.training.errors import OneLineParser
from latticegnn.training.experiment import load_experiment

ROOT = Path(__file__).parents[2]
DEFAULT = ROOT / "configs" / "default.yaml"
EXPERIMENTS = (ROOT / "configs" / "experiments", ROOT)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
#: Sphinx's own, which `make docs` runs.
DIRECTIVES = ("{toctree}", "{include}", "{command-help}")
#: Blocks that need more than a folder, and the tests that provide it.
OWN = {
    ("docs/errors.md", "bash"): "tests/test_errors_page.py",
    ("docs/errors.md", "python"): "tests/test_errors_page.py",
    ("docs/export.md", "python"): "tests/test_compressor.py",
    ("docs/quickstart.md", "bash"): "tests/test_newcomer.py",
    ("docs/serve.md", "python"): "tests/service/test_page.py",
    ("docs/serve.md", "yaml"): "tests/service/test_page.py",
    ("docs/writing_a_layer.md", "python"): "tests/test_newcomer.py",
}
#: Programs of others, taken as they stand.
OTHERS = {"source", "cd", "ls", "git", "zcat", "head", "curl", "tensorboard", "sbatch"}
#: What takes no time, and is run.
QUICK = {("--help",), ("--version",), ("describe",), ("export", "--spec.shape"), ("cache", "ls"), ("cache", "verify")}


class Block(NamedTuple):
    """A fenced block: the page, the line it begins at, what follows the fence, and its text."""

    page: str
    line: int
    language: str
    text: str


def blocks() -> Iterator[Block]:
    """All blocks of all pages."""
    for file in PAGES:
        page = file.read_text(encoding="utf-8")
        for found in re.finditer(r"^( *)```([^\n]*)\n(.*?)^\1```$", page, flags=re.DOTALL | re.MULTILINE):
            line = page.count("\n", 0, found.start()) + 1
            yield Block(str(file.relative_to(ROOT)), line, found[2], found[3])


def of(language: str) -> list:
    """The blocks of a language that have no test of their own, as parameters."""
    found = [block for block in ALL if block.language == language and (block.page, language) not in OWN]
    return [pytest.param(block, id=f"{block.page}:{block.line}") for block in found]


ALL = list(blocks())


def test_every_block_has_a_language_that_is_tested() -> None:
    known = {"python", "python network", "yaml", "bash", "text"}
    assert [b[:3] for b in ALL if b.language not in known and not b.language.startswith(DIRECTIVES)] == []


@pytest.mark.parametrize("page", sorted({block.page for block in ALL if (block.page, block.language) in OWN}))
def test_what_is_tested_elsewhere_is_tested_there(page) -> None:
    for test in {test for (name, _), test in OWN.items() if name == page}:
        assert Path(page).name in (ROOT / test).read_text(encoding="utf-8")


# Python


def a_saved_model() -> None:
    """What ``runs/latest`` holds of a run's model."""
    lg.LatticeModel(embedding_dim=384, skip=True).save_pretrained("runs/latest/model")
    write_teacher("runs/latest/model", lg.Teacher("packaged:minilm"))


def data_is_as_told(printed: list[str], names: dict) -> None:
    assert printed[0] == "What is 0 plus one? → 0 plus one is 1."
    assert printed[2] == "(200, 12) float32"
    assert printed[3].startswith("{'train': 150, 'validation': 25, 'test': 25}")
    assert printed[-2:] == ["(1, 384)", "['one plus two']"]


def dynamics_are_as_told(printed: list[str], names: dict) -> None:
    assert {"recovery.png", "percolation.png", "wall.png"} <= {file.name for file in Path().iterdir()}
    stopping, size = printed
    assert re.fullmatch(r"\[(\d+, ){3}\d+\] \[(\w+, ){3}\w+\]", stopping)
    assert size == "35 20 True"


def the_lattice_is_as_told(printed: list[str], names: dict) -> None:
    *told, count, arrives, refused = printed
    assert told == ["512 1.6 (0.16, 1.04, 1.6)", "7904 [512, 2688, 4704]"]
    assert 5 <= int(count.split()[0]) <= 10
    assert (count.split()[1], arrives) == ("64", "[7] 7")
    assert "64 of 64 output ports are out of reach, 7 steps are needed. Set steps to 7 or more," in refused


def predictions_are_as_told(printed: list[str], names: dict) -> None:
    assert len(names["predictor"].predict(["a"])[0]["embedding"]) == names["predictor"].dim == 384
    answers, count = printed
    assert len(set(literal_eval(answers)) & set(names["answers"])) == 2
    assert count == "2"


def the_readme_is_as_told(printed: list[str], names: dict) -> None:
    assert names["spec"].thresholds == (0.16, 1.04, 1.6)
    assert names["out"].embedding.shape == (4, 384)
    assert (names["out"].state.shape, names["out"].trajectory.shape) == ((4, 512, 8), (9, 4, 512, 8))


PREPARED: dict[str, Callable[[], None]] = {"README.md": a_saved_model}
TOLD: dict[str, Callable[[list[str], dict], None]] = {
    "README.md": the_readme_is_as_told,
    "docs/data.md": data_is_as_told,
    "docs/dynamics.md": dynamics_are_as_told,
    "docs/lattice.md": the_lattice_is_as_told,
    "docs/predict.md": predictions_are_as_told,
}


@pytest.mark.parametrize("page", sorted({param.values[0].page for param in of("python")}))
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    PREPARED.get(page, lambda: None)()
    names: dict = {"__name__": "page"}
    for block in ALL:
        if (block.page, block.language) == (page, "python"):
            exec(compile("\n" * block.line + block.text, page, "exec"), names)
    printed = capsys.readouterr().out.splitlines()
    if page in TOLD:
        TOLD[page](printed, names)


@pytest.mark.parametrize("block", of("python network"))
def test_python_that_needs_the_network_is_python(block) -> None:
    compile(block.text, block.page, "exec")


# Settings


def holds(taken: object, given: object) -> bool:
    """Whether what was given is found in what was taken, where mappings may have gained their defaults."""
    if isinstance(given, dict):
        return isinstance(taken, dict) and all(key in taken and holds(taken[key], given[key]) for key in given)
    if isinstance(given, list):
        return isinstance(taken, list) and len(taken) == len(given) and all(map(holds, taken, given))
    return taken == given


@pytest.mark.parametrize("block", of("yaml"))
def test_settings_are_settings(block, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    given, file = yaml.safe_load(block.text), tmp_path / "page.yaml"
    experiment = set(given) & {"base", "variants", "search", "analyse"}
    if not experiment:
        file.write_text(block.text)
        cli = RunCLI(["--config", str(DEFAULT), "--config", str(file)], tmp_path / "run")
        assert holds(cli.settings(), given)
        return
    # A page's experiment lies where the shipped ones lie, or in the repository's root; a part of one is completed.
    given = given if "base" in given else given | {"base": "../default.yaml", "variants": {"it": {}}}
    (base,) = [found for place in EXPERIMENTS if (found := place / given["base"]).is_file()]
    file.write_text(yaml.safe_dump(given | {"base": str(base)}))
    found = load_experiment(file)
    for name, variant in found.variants.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(found.settings | variant))
        RunCLI(["--config", str(base), "--config", str(tmp_path / f"{name}.yaml")], tmp_path / name)


# Commands


class Parsed(BaseException):
    """The real parser has taken a command's words."""


@pytest.fixture
def parse(monkeypatch) -> Callable[[list[str]], None]:
    """Hand words to the program, and stop it when its parser has taken them."""
    real = OneLineParser.parse_args

    def stop(parser, *words, **settings):
        raise Parsed(real(parser, *words, **settings))

    def check(words: list[str]) -> None:
        if "--resume" in words:
            run = Path(words[words.index("--resume") + 1])
            if words[0] == "fit":
                (run / "checkpoints").mkdir(parents=True)
                (run / "checkpoints" / "progress-1.ckpt").touch()
                (run / "config.yaml").write_bytes(DEFAULT.read_bytes())
        monkeypatch.setattr(OneLineParser, "parse_args", stop)
        with pytest.raises(Parsed):
            main(words)
        monkeypatch.setattr(OneLineParser, "parse_args", real)
        if words[0] == "experiment":
            load_experiment(Path(words[words.index("--config") + 1]))

    return check


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with the repository's own, to call commands from."""
    for name in ("configs", "examples", "scripts", "benchmarks", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LATTICEGNN_CACHE", str(tmp_path / "cache"))
    return tmp_path


def commands(script: str) -> Iterator[list[str]]:
    """The commands of a block, as words: joined lines, without comments, pipes taken apart."""
    for line in script.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = min((words.index(sign) for sign in ("|", "&&") if sign in words), default=len(words))
            yield words[:end]
            words = words[end + 1 :]


def check_make(words: list[str], parse: Callable[[list[str]], None]) -> None:
    """See that a target exists, and that what it is given for a run can be parsed."""
    given = dict(word.split("=", 1) for word in words if "=" in word)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in [word for word in words if "=" not in word]:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
        if target == "train":
            parse(["fit", "--config", given.get("CONFIG", str(DEFAULT)), *shlex.split(given.get("ARGS", ""))])


def check_python(words: list[str], parse: Callable[[list[str]], None]) -> None:
    """See that a script exists and knows the options, or parse what ``-m latticegnn`` is given."""
    if words[:2] == ["-m", "latticegnn"]:
        return parse(words[2:])
    if words[0] == "-m":
        assert words[1] == "pytest", words
        return None
    text = (ROOT / words[0]).read_text(encoding="utf-8")
    options = [word.partition("=")[0] for word in words if word.startswith("--")]
    assert [option for option in options if f'"{option}"' not in text] == [], words
    return None


def check_pip(words: list[str]) -> None:
    """See that the extras that are installed exist."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name in re.findall(r"\[([\w,-]+)\]", " ".join(words)):
        assert set(name.split(",")) <= set(extras), words


@pytest.mark.parametrize("block", of("bash"))
def test_commands_are_commands(block, place, parse, capsys) -> None:
    if block.text.startswith("#!"):
        assert subprocess.run(["bash", "-n"], input=block.text, text=True, check=False).returncode == 0
        return
    for program, *words in commands(block.text):
        if program == "latticegnn" and any(tuple(words[: len(quick)]) == quick for quick in QUICK):
            assert main(words) == 0
        elif program in ("latticegnn", "torchrun"):
            parse(words[words.index("latticegnn") + 1 :] if program == "torchrun" else words)
        elif program == "make":
            check_make(words, parse)
        elif program == "python":
            check_python(words, parse)
        elif program == "pip":
            check_pip(words)
        else:
            assert program in OTHERS, f"{program} is a program that this test does not know"
