"""The benchmark of gradients: its cosines are cosines, its cases run, and its claims say what the table says."""

import math

import pytest
import torch

from latticegnn.benchmarks import gradients
from latticegnn.benchmarks.gradients import CHECKPOINTED, FULL, IMPLICIT, Case


def test_cosines_by_part() -> None:
    exact, other = torch.tensor([3.0, 0.0]), torch.tensor([1.0, 1.0])
    found = gradients.cosines({"a": exact.clone(), "b": other, "c": 0 * other}, dict.fromkeys("abc", exact))
    assert found == {"a": 1.0, "b": pytest.approx(math.sqrt(0.5)), "c": 0.0}


def test_a_case_of_the_default_model() -> None:
    table, claims = gradients.compare(Case(7, batch=2), rounds=1, memory=False)
    rows = {row["gradient"]: row for row in table.rows}
    assert list(rows) == [FULL, CHECKPOINTED, "truncated, 4 steps", "truncated, 16 steps"]
    assert rows[FULL]["time ÷ full"] == rows[FULL]["cosine, all"] == rows["truncated, 16 steps"]["cosine, cell"] == 1
    assert 0 < rows["truncated, 4 steps"]["cosine, cell"] < 1
    assert rows["truncated, 4 steps"]["cosine, maps in"] == 0
    assert [claim.holds for claim in claims] == [True]


@pytest.mark.slow
def test_a_case_of_a_resting_model() -> None:
    table, claims = gradients.compare(Case(64, resting=True, batch=2), rounds=1, memory=False)
    rows = {row["gradient"]: row for row in table.rows}
    assert list(rows) == list(gradients.GRADIENTS)
    assert rows[IMPLICIT]["cosine, cell"] > 0.99
    assert rows["truncated, 4 steps"]["cosine, cell"] < rows["truncated, 16 steps"]["cosine, cell"]
    assert "the contraction factor" in table.note
    assert all(claim.holds for claim in claims)
    change, factor = gradients.rest(Case(64, resting=True, batch=2))
    assert change < 0.01
    assert 0.5 < factor < 1
