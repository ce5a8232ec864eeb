"""What docs/serve.md says is what the service does."""

import dataclasses
import functools
import re
from pathlib import Path

import pytest
import yaml

from latticegnn.cli import main
from latticegnn.service import Limits, Service, run

PAGE = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_snippets_run(predictor, serving, client, capsys) -> None:
    (code,), (_, line) = blocks("python"), blocks("bash")
    with serving(predictor) as port:
        names: dict = {}
        exec(compile(code.replace(":8000/", f":{port}/"), "docs/serve.md", "exec"), names)
        address, header, body = re.fullmatch(r"curl localhost:8000(\S+) -H '(.*)' -d '(.*)'\n", line).groups()
        name, _, value = header.partition(": ")
        status, answer = client(port)(body.encode(), address, **{name.lower(): value})
    assert (status, len(answer["rows"]), answer["rows"]) == (200, 2, names["rows"])
    scores = [float(line.split()[0]) for line in capsys.readouterr().out.splitlines()]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)


def test_the_defaults_are_those_of_the_code(tmp_path, monkeypatch) -> None:
    (text,) = blocks("yaml")
    content = yaml.safe_load(text)
    assert content["limits"] == dataclasses.asdict(Limits())
    given: dict = {}
    monkeypatch.setattr("latticegnn.service.run", functools.wraps(run)(lambda **settings: given.update(settings)))
    (tmp_path / "serve.yaml").write_text(text)
    assert main(["serve", "--config", str(tmp_path / "serve.yaml")]) == 0
    from_file = dict(given)
    assert main(["serve", "--model", "runs/latest"]) == 0
    assert from_file == given
    assert from_file["limits"] == Limits()
    assert content == {name: value for name, value in given.items() if name != "limits"} | {
        "model": str(given["model"]), "limits": content["limits"]
    }  # fmt: skip


def test_every_address_and_setting_is_told() -> None:
    told = re.findall(r"^\| `(?:GET|POST) (\S+)` \|", PAGE, flags=re.MULTILINE)
    assert told == [route.path for route in Service(None, Limits(), {}).app.routes]
    assert set(re.findall(r"^  (\w+):", blocks("yaml")[0], flags=re.MULTILINE)) == set(dataclasses.asdict(Limits()))


def test_mistakes_on_the_command_line_are_told_in_a_line(tmp_path, capsys) -> None:
    for words, told in (
        (["--model", str(tmp_path)], "is neither"),
        (["--model", str(tmp_path), "--limits.batch_rowz", "3"], "did you mean 'limits.batch_rows'?"),
        (["--model", str(tmp_path), "--limits.wait_ms", "-3"], "wait_ms must be a number, 0 or more; got -3"),
        ([], "model"),
    ):
        try:
            status = main(["serve", *words, "--port", "0"])
        except SystemExit as ended:
            status = ended.code
        err = capsys.readouterr().err
        assert (status, err.count("\n")) == (2, 1)
        assert told in err


def test_without_the_extra_it_says_what_to_install(monkeypatch) -> None:
    import builtins
    import importlib
    import sys

    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "uvicorn":
            raise ModuleNotFoundError("No module named 'uvicorn'", name="uvicorn")
        return real(name, *args, **kwargs)

    for name in [name for name in sys.modules if name.startswith("latticegnn.service")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match=r"uvicorn is not installed; pip install 'latticegnn\[serve\]'"):
        importlib.import_module("latticegnn.service")
