"""What docs/dynamics.md says of stopping runs, and its settings are settings."""

import re
from pathlib import Path

import pytest

from latticegnn.nn.stopping import CRITERIA
from latticegnn.training.configuration import RunCLI

ROOT = Path(__file__).parents[1]
SECTION = re.search(r"^## Stopping\n(.*?)(?=^## |\Z)", (ROOT / "docs" / "dynamics.md").read_text(), re.DOTALL | re.M)[1]
SETTINGS = re.findall(r"```yaml\n(.*?)```", SECTION, flags=re.DOTALL)


@pytest.mark.parametrize("text", SETTINGS, ids=range(len(SETTINGS)))
def test_the_settings_build(text, tmp_path) -> None:
    (tmp_path / "page.yaml").write_text(text)
    words = ["--config", str(ROOT / "configs" / "default.yaml"), "--config", str(tmp_path / "page.yaml")]
    cli = RunCLI([*words, "--run_dir", str(tmp_path)], tmp_path / "run")
    assert cli.model.lattice.stopping is not None
    assert cli.model.lattice.stopping.max_steps == 24


def test_the_snippet_runs(capsys) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", SECTION, flags=re.DOTALL)
    exec(compile(code, "docs/dynamics.md", "exec"), {})
    assert re.fullmatch(r"\[(\d+, ){3}\d+\] \[(\w+, ){3}\w+\]\n", capsys.readouterr().out)


def test_every_criterion_is_told() -> None:
    assert re.findall(r"^\| `(\w+)` \|", SECTION, flags=re.MULTILINE) == list(CRITERIA)


def test_the_script_that_is_named_exists() -> None:
    for name in re.findall(r"scripts/\w+\.py", SECTION):
        assert (ROOT / name).is_file()
