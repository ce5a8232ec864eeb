"""Verdicts, tables, and the process of one measurement."""

import json
import math

import pytest
import torch

from latticegnn.benchmarks.alone import alone, peak_bytes, process_peak_bytes
from latticegnn.benchmarks.results import Claim, Result, Table

TABLE = Table(
    "Times", "How.", [{"variant": "one", "ms": 1234.5, "÷": 2.0}, {"variant": "two", "ms": None, "÷": 0.12345}]
)


@pytest.mark.parametrize(
    ("measured", "at_most", "holds"),
    [(2.0, True, True), (2.01, True, False), (2.0, False, True), (1.99, False, False), (math.nan, True, False)],
)
def test_a_claim_holds_up_to_its_limit_and_not_without_a_figure(measured, at_most, holds) -> None:
    assert Claim("c", measured, 2.0, at_most).holds is holds
    assert Claim("c", math.nan, 2.0, at_most=False).holds is False


def test_a_claim_says_both_figures() -> None:
    assert str(Claim("memory", 3.456, 4.0, unit="GB")) == "holds: memory: 3.46 GB, claimed at most 4 GB"
    assert str(Claim("rate", 3.0, 4.0, at_most=False)) == "does not hold: rate: 3 ×, claimed at least 4 ×"


def test_a_result_as_text_as_a_page_and_as_json() -> None:
    result = Result("times", [TABLE], [Claim("rate", 3.0, 4.0), Claim("gone", math.nan, 1.0)])
    lines = result.text().splitlines()
    assert [line.split() for line in lines[2:3] + lines[4:6]] == [
        ["variant", "ms", "÷"], ["one", "1,234", "2"], ["two", "–", "0.123"]
    ]  # fmt: skip
    page = result.markdown().splitlines()
    assert page[:7] == [
        "## Times",
        "",
        "How.",
        "",
        "| variant | ms | ÷ |",
        "| :-- | --: | --: |",
        "| one | 1,234 | 2 |",
    ]
    assert page[-2:] == [f"- {claim}" for claim in result.claims]
    content = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert content["tables"][0]["rows"][1] == {"variant": "two", "ms": None, "÷": 0.12345}
    assert [(claim["measured"], claim["holds"]) for claim in content["claims"]] == [(3.0, True), (None, False)]


def test_peak_memory_is_what_an_action_adds() -> None:
    kept = torch.ones(1_000_000)
    peak, whole = peak_bytes(lambda: torch.ones(10_000_000).sum()), process_peak_bytes()
    if peak is None or whole is None:
        pytest.skip("no marks of memory on this system")
    assert 0.9 * 40e6 < peak < 2 * 40e6
    assert whole > peak + kept.nbytes


@pytest.mark.slow
def test_a_measurement_alone_has_one_thread_and_tells_how_it_failed(monkeypatch, tmp_path) -> None:
    (tmp_path / "asked.py").write_text(
        "import torch\ndef report(text):\n    assert text != 'fail', 'no such thing'\n"
        "    return {'text': text, 'threads': torch.get_num_threads()}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    import asked

    assert alone(asked.report, text="a") == {"text": "a", "threads": 1}
    with pytest.raises(ChildProcessError) as caught:
        alone(asked.report, text="fail")
    for part in ("must end well", "asked:report", "no such thing", "leave this benchmark out"):
        assert part in str(caught.value)
