"""The effective graph of a run that is done."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from latticegnn.analysis.effective import effective_graph
from latticegnn.text_model import inputs_of
from latticegnn.training.analyses import FinishedRun

if TYPE_CHECKING:
    import networkx as nx


def graph_of_run(folder: Path, rows: int = 32) -> nx.DiGraph:
    """Return `latticegnn.analysis.effective_graph` of a run's saved model on rows of its test split.

    Args:
        folder: The run's.
        rows: How many, evenly spaced over the split, ≥ 1; all there are where there are fewer.

    Raises:
        FileNotFoundError: When the folder holds no run that is done.
        ValueError: When there is to be no row, or the run's data has changed since.
    """
    if rows < 1:
        raise ValueError(f"an effective graph is that of at least one row; got rows {rows}; write 32.")
    run = FinishedRun(folder)
    split = run.data.splits["test"]
    return effective_graph(run.model, inputs_of(run.whole, split, split.spread(rows)))
