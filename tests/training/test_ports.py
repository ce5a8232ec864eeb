"""Ports in a run: usage of zones, where learned ports end, the readout solved for every prefix, the surface."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from latticegnn import cli
from latticegnn.analysis.surface import Surface
from latticegnn.data import EmbeddingData
from latticegnn.lattice import LatticeSpec, Ports
from latticegnn.model import LatticeModel
from latticegnn.report.run import read_history
from latticegnn.training.analyses import Analyses, analyse
from latticegnn.training.experiment import run_experiment
from latticegnn.training.losses import LossWeights, loss_terms
from latticegnn.training.readout import refit_readout

PLACEMENT = "latticegnn.lattice.ports"


def test_a_run_logs_how_zones_are_used(start, tmp_path) -> None:
    run = start(tmp_path, "--model.inputs.placement", "zones", "--trainer.max_epochs", "2")
    run.execute()
    history = read_history(run.folder)
    for epoch in range(2):
        shares = [history[f"zone/{zone}"][epoch][1] for zone in range(4)]
        assert sum(shares) == pytest.approx(1)
        assert len(set(shares)) == 4, "the router has learned nothing"
        assert 0 < history["zone/entropy"][epoch][1] < 1.3863


def test_a_run_says_where_learned_ports_end(start, tmp_path) -> None:
    words = [f"--model.{side}.placement={PLACEMENT}.Learned" for side in ("inputs", "outputs")]
    counts = ["--model.inputs.placement.init_args.count=5", "--model.outputs.placement.init_args.count=4"]
    run = start(tmp_path, words[0], counts[0], words[1], counts[1])
    began = {"inputs": run.model.entry.soft.places(), "outputs": run.model.exit.soft.places()}
    table = run.execute()["table"]
    ended = json.loads((run.folder / "metrics.json").read_text())["learned_ports"]
    saved = LatticeModel.from_pretrained(run.folder / "model")
    for side, surface in (("inputs", saved.entry), ("outputs", saved.exit)):
        assert torch.equal(torch.tensor(ended[side]), surface.soft.places())
        assert not torch.equal(torch.tensor(ended[side]), began[side])
    assert table[0]["fvu"] < 1


@pytest.fixture
def splits():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(300, 12, generator=generator) * 0.7 ** torch.arange(12)
    return EmbeddingData.from_arrays(rows.numpy()).splits


def of_prefixes(model: LatticeModel, split) -> list[float]:
    """The loss of each prefix."""
    model.eval()
    with torch.no_grad():
        found = [model.rollout(split.inputs, ports=k).embedding for k in model.exit.prefixes]
    return [float(sum(loss_terms(e, split.targets, LossWeights()).values())) for e in found]


def nested(prefixes: list[int]) -> LatticeModel:
    ends = {"inputs": Ports("z-", "nested"), "outputs": Ports("z+", "nested")}
    return LatticeModel(LatticeSpec((3, 3, 5), radii=(0.5, 1.0, 1.5)), 12, steps=5, **ends, prefixes=prefixes)


def test_the_readout_is_the_ridge_regression_over_all_prefixes(splits) -> None:
    model, train = nested([2, 4, 9]), splits["train"]
    model.fit_maps(train.inputs, train.targets)
    before = of_prefixes(model, splits["validation"])
    penalty = refit_readout(model, train, splits["validation"], LossWeights())
    assert penalty > 0
    assert sum(of_prefixes(model, splits["validation"])) < sum(before)
    with torch.no_grad():
        code = torch.cat([model.rollout(train.inputs, ports=k).code for k in (2, 4, 9)]).double()
    y = train.targets.double().repeat(3, 1)
    z = (code - code.mean(0)) / code.std(0)
    expected = torch.linalg.solve(z.T @ z + penalty * len(z) * torch.eye(9), z.T @ (y - y.mean(0))).T
    torch.testing.assert_close(model.decoder.weight.double() * code.std(0), expected, atol=1e-4, rtol=1e-3)


def test_solving_for_the_full_code_alone_spoils_the_short_prefixes(splits) -> None:
    losses = []
    for prefixes in ([2, 4, 9], [9]):
        model = nested(prefixes)
        model.fit_maps(splits["train"].inputs, splits["train"].targets)
        refit_readout(model, splits["train"], splits["validation"], LossWeights())
        model.exit.prefixes = [2, 4, 9]
        losses.append(of_prefixes(model, splits["validation"]))
    assert sum(losses[0][:2]) < sum(losses[1][:2])
    assert losses[0][2] > losses[1][2], "what it costs the whole"


NESTED = ["--model.inputs.placement=nested", "--model.outputs.placement=nested"]


def surface_of(folder: Path, ports: list[int], steps: list[int]) -> list[dict]:
    return analyse(folder, Analyses(surface=Surface(ports, steps)))["surface"]


def test_a_runs_surface_is_measured_printed_and_drawn(start, tmp_path, capsys) -> None:
    run = start(tmp_path, *NESTED, "--model.prefixes=[3,9]")
    table = run.execute()["table"]
    surface = surface_of(run.folder, [3, 9], [5, 6])
    assert [(row["steps"], row["ports"]) for row in surface] == [(5, 3), (5, 9), (6, 3), (6, 9)]
    assert surface[1]["fvu"] == pytest.approx(table[0]["fvu"], rel=1e-5)
    assert surface[0]["fvu"] > surface[1]["fvu"]
    assert cli.main(["analyse", str(run.folder), "--surface", json.dumps({"ports": [3, 9], "steps": [5, 6]})]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(run.folder / "analysis" / "surface_lattice.png")
    assert (run.folder / "analysis" / "surface_lattice.png").stat().st_size > 5000


def test_a_surface_that_cannot_be_measured_is_refused_before_training(tiny_config, tmp_path, refuses) -> None:
    asked = {"surface": {"ports": [3], "steps": [5]}}
    content = {
        "base": str(tiny_config),
        "variants": {"raster": {}},
        "run_dir": str(tmp_path / "runs"),
        "analyse": asked,
    }
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(content))
    with refuses("order", "3 of 9", "placement: nested"):
        run_experiment(file)
    assert not list(tmp_path.glob("runs/mine/*seed*"))


@pytest.mark.slow
def test_training_for_prefixes_pays_where_the_code_does_not_start_in_their_order(start, tmp_path) -> None:
    # Inputs in raster order: the first principal components arrive at ports that the nested order reads late.
    words = ["--model.outputs.placement=nested", "--trainer.max_epochs=8", "--optim.lr_maps=0.01"]
    found = {}
    for name, more in {"whole": [], "prefixes": ["--model.prefixes=[1, 3, 9]"]}.items():
        run = start(tmp_path / name, *words, *more)
        run.execute()
        found[name] = [row["fvu"] for row in surface_of(run.folder, [1, 3, 9], [5])]
    assert found["prefixes"][0] < 0.9 * found["whole"][0]
    assert found["prefixes"][1] < 0.5 * found["whole"][1]
    assert found["prefixes"][2] > found["whole"][2], "what it costs the whole"
