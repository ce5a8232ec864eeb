"""The effective graph of a run: that of its model on its own test rows."""

import torch

from latticegnn.analysis import effective_graph
from latticegnn.lattice import from_networkx
from latticegnn.training.analyses import FinishedRun
from latticegnn.training.run_graph import graph_of_run


def test_the_graph_is_that_of_the_saved_model_on_test_rows(finished, refuses, tmp_path) -> None:
    run = FinishedRun(finished.folder)
    expected = from_networkx(effective_graph(run.model, run.data.splits["test"].tensors(5)[0]))
    found = from_networkx(graph_of_run(finished.folder, rows=5))
    assert set(found.keys()) == set(expected.keys()) >= {"gate", "arrival", "edge_weight", "state"}
    assert torch.equal(found.edge_weight, expected.edge_weight)
    assert torch.equal(found.state, expected.state)
    assert int(found.arrival[found.output_mask].max()) <= run.model.steps
    with refuses("at least one row", "got rows 0", "write 32"):
        graph_of_run(finished.folder, rows=0)
    with refuses("a run that is done", "has no", "runs/latest", FileNotFoundError):
        graph_of_run(tmp_path)
