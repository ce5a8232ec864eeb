"""`latticegnn bench`: what it runs, prints and writes."""

import json
import time

import pytest

from latticegnn.benchmarks import suite, trainer
from latticegnn.benchmarks.results import Claim, Result, Table


@pytest.fixture
def measured(monkeypatch, tmp_path) -> list[tuple[str, bool]]:
    """What is asked for, in place of measuring it."""
    asked: list[tuple[str, bool]] = []

    def measure(name: str, quick: bool) -> Result:
        asked.append((name, quick))
        return Result(name, [Table(f"Table of {name}", "A note.", [{"a": "b", "ms": 1.5}])], [Claim(name, 1.0, 2.0)])

    monkeypatch.setattr(suite, "measure", measure)
    monkeypatch.setattr(trainer, "find", lambda name: name)
    monkeypatch.chdir(tmp_path)
    return asked


def test_all_benchmarks_run_and_are_printed(call, measured) -> None:
    status, out, err = call("bench")
    assert (status, err) == (0, [])
    assert measured == [(name, False) for name in suite.NAMES]
    assert "torch" in out[0]
    assert [line for line in out if line.startswith("Table of")] == [f"Table of {name}" for name in suite.NAMES]
    assert sum(line.startswith("holds: ") for line in out) == len(suite.NAMES)


def test_a_quick_run_leaves_the_peer_out_unless_it_is_named(call, measured) -> None:
    assert call("bench", "--quick")[0] == 0
    assert measured == [(name, True) for name in suite.QUICK]
    assert call("bench", "peer", "--quick")[0] == 0
    assert measured[-1] == ("peer", True)


def test_named_benchmarks_are_written(call, measured, tmp_path) -> None:
    status, _, err = call("bench", "step", "scaling", "step", "--json", "b.json", "--markdown", "b.md")
    assert (status, err, measured) == (0, [], [("step", False), ("scaling", False)])
    content = json.loads((tmp_path / "b.json").read_text())
    assert set(content["machine"]) == {"date", "processor", "cores", "memory_gb", "torch", "python", "threads"}
    assert [part["name"] for part in content["benchmarks"]] == ["step", "scaling"]
    assert content["benchmarks"][0]["claims"][0]["holds"] is True
    page = (tmp_path / "b.md").read_text()
    assert page.startswith(f"# Performance\n\n{content['machine']['date']}, ")
    assert "Of 2 claims 2 hold." in page
    assert page.count("| b | 1.5 |") == 2


def test_mistakes_are_told_before_anything_is_measured(call, measured) -> None:
    status, _, err = call("bench", "stp")
    assert (status, len(err)) == (2, 1)
    assert "got 'stp'. Did you mean 'step'?" in err[0]
    status, _, err = call("bench", "--markdown", "nowhere/b.md")
    assert status == 2
    assert "a folder that exists; got nowhere/b.md" in err[0]
    assert measured == []


@pytest.mark.slow
def test_quick_takes_less_than_a_minute(call, tmp_path) -> None:
    start = time.perf_counter()
    status, _, err = call("bench", "--quick", "--json", str(tmp_path / "b.json"))
    assert (status, err) == (0, [])
    content = json.loads((tmp_path / "b.json").read_text())
    assert [part["name"] for part in content["benchmarks"]] == list(suite.QUICK)
    assert all(claim["measured"] is not None for part in content["benchmarks"] for claim in part["claims"])
    print(f"{time.perf_counter() - start:.0f} s")
