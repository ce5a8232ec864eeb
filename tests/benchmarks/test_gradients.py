"""The benchmark of gradients: its cosines are cosines, its cases run, and its claims say what the table says."""

import math

import pytest
import torch

from latticegnn.benchmarks import gradients
from latticegnn.benchmarks.gradients import CHECKPOINTED, FULL, IMPLICIT, Case


def test_cosines_are_those_of_all_parameters() -> None:
    exact = torch.tensor([3.0, 0.0])
    found = gradients.cosines({"same": exact.clone(), "half": torch.tensor([1.0, 1.0])}, exact)
    assert found == {"same": 1.0, "half": pytest.approx(math.sqrt(0.5))}


def test_a_case_of_the_default_model() -> None:
    table, claims = gradients.compare(Case(7, batch=2), rounds=1, memory=False)
    rows = {row["gradient"]: row for row in table.rows}
    assert list(rows) == [FULL, CHECKPOINTED, "truncated, 4 steps", "truncated, 16 steps"]
    assert (
        rows[FULL]["time ÷ full"] == rows[FULL]["cosine to full"] == rows["truncated, 16 steps"]["cosine to full"] == 1
    )
    assert 0 < rows["truncated, 4 steps"]["cosine to full"] < 1
    assert [claim.holds for claim in claims] == [True]


@pytest.mark.slow
def test_a_case_of_a_resting_model() -> None:
    table, claims = gradients.compare(Case(64, resting=True, batch=2), rounds=1, memory=False)
    rows = {row["gradient"]: row for row in table.rows}
    assert list(rows) == list(gradients.GRADIENTS)
    assert rows[IMPLICIT]["cosine to T = 256"] > 0.99
    assert rows["truncated, 4 steps"]["cosine to full"] < rows["truncated, 16 steps"]["cosine to full"]
    assert "the contraction factor" in table.note
    assert all(claim.holds for claim in claims)
    change, factor = gradients.rest(Case(64, resting=True, batch=2))
    assert change < 0.01
    assert 0.5 < factor < 1
