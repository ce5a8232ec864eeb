"""Every configuration that is shipped parses, builds and takes a training step; the default one states every key."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from latticegnn.training.configuration import BASELINES, RunCLI
from latticegnn.training.experiment import load_experiment
from latticegnn.training.fit import Run
from latticegnn.training.losses import loss_terms
from latticegnn.training.optim import configure
from latticegnn.training.search import run_search
from latticegnn.training.text import TokenRows, attached

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
RUNS = sorted([*CONFIGS.glob("*.yaml"), *CONFIGS.glob("text/*.yaml")])
EXPERIMENTS = sorted(CONFIGS.glob("experiments/*.yaml"))
SMALL = ["--model.spec.shape", "[5, 5, 5]", "--model.spec.radii", "[0.5, 1.0, 1.5]", "--model.steps", "5"]
FAST = ["--model.embedding_dim", "24", *SMALL]


def flat(content: dict, prefix: str = "") -> set[str]:
    """The dotted keys of a nested mapping."""
    keys = set()
    for key, value in content.items():
        keys |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}"}
    return keys


def step(cli: RunCLI) -> None:
    """Take one training step on random embeddings or texts, and see that every part of the model moves."""
    model, generator = cli.model, torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(2, 8, model.lattice.embedding_dim, generator=generator)
    model.lattice.fit_maps(inputs, targets)
    if cli.decoding is not None:
        attach(cli)
        if model.lattice.tokens is not None:
            inputs = model.text.rows.inputs["train"][:8]
    optimizer = configure(model, model.optim, 10)["optimizer"]
    before = {name: value.clone() for name, value in model.named_parameters()}
    out = model.model(inputs)
    terms = loss_terms(out.embedding, targets, model.loss)
    if model.text is not None:
        terms["tokens"] = model.text.term(model.text.read(out), torch.arange(8))
    loss = sum(terms.values())
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    moved = {name for name, value in model.named_parameters() if not torch.equal(before[name], value)}
    maps = {"model.mapper.table" if model.lattice.tokens is not None else "model.transformer.encoder"}
    maps |= {"model.transformer.decoder"} if model.loss.embeds else set()
    maps |= {"text.decoder"} if model.text is not None else set()
    for part in ("model.cell.gate", "model.cell.experts.functional", *maps):
        assert any(name.startswith(part) for name in moved), f"{part} has not moved"


def attach(cli: RunCLI) -> None:
    """Put a decoder of some made-up texts beside the model, with as many tokens as the configuration asks for."""
    decoding, model = cli.decoding, cli.model
    tokens = model.lattice.tokens
    words = [" ".join(f"word{10 * k + j}" for j in range(10)) for k in range(100)]
    texts = dict.fromkeys(("train", "validation", "test"), (words, words))
    if tokens is not None:  # they must fit each other, and words of one length have few parts
        decoding = replace(decoding, length=5, tokenizer={"kind": "whitespace", "vocab_size": tokens["vocab_size"]})
    rows = TokenRows(decoding, texts, tokens)
    example = torch.randn(2, model.lattice.embedding_dim) if tokens is None else rows.inputs["train"][:2]
    weight, channels = model.loss.tokens, model.lattice.channels
    model.attach(attached(model.lattice, decoding, rows, example, weight, channels, model.seed))


def test_there_are_configurations() -> None:
    assert {"default.yaml", "smoke.yaml"} <= {file.name for file in RUNS}
    assert EXPERIMENTS


@pytest.mark.parametrize("file", RUNS, ids=lambda file: file.stem)
def test_a_configuration_builds_and_takes_a_step(file, tmp_path) -> None:
    cli = RunCLI(["--config", str(file), *FAST], tmp_path / "run")
    step(cli)
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    wanted = content.get("data", {}).get("task", "qa")
    assert (cli.datamodule.content.task, cli.trainer.max_epochs) == (wanted, content["trainer"]["max_epochs"])


@pytest.mark.parametrize("file", RUNS, ids=lambda file: file.stem)
def test_a_configuration_builds_as_it_stands(file, tmp_path) -> None:
    cli = RunCLI(["--config", str(file)], tmp_path / "run")
    assert cli.model.lattice.embedding_dim == 384, "of the teacher that is packaged"
    cli.save()
    again = RunCLI(["--config", str(tmp_path / "run" / "config.yaml")], tmp_path / "again")
    assert again.model.lattice.settings == cli.model.lattice.settings


@pytest.mark.slow
def test_the_search_that_is_shipped_builds_at_both_ends_of_its_space(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Run, "execute", lambda run: {"validation": {"loss": float(run.module.optim.lr_cell)}})
    found = load_experiment(CONFIGS / "experiments" / "search.yaml")
    assert found.search is not None
    rows = run_search(found.search, found.base, found.settings, tmp_path / "search")
    assert len(rows) == found.search.trials
    assert rows[0]["loss"] == min(row["optim.lr_cell"] for row in rows)


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.stem)
def test_every_variant_of_an_experiment_builds_and_takes_a_step(file, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(CONFIGS.parent)
    experiment = load_experiment(file)
    counts = {}
    for name, variant in experiment.variants.items():
        overrides = tmp_path / f"{name}.yaml"
        overrides.write_text(yaml.safe_dump(experiment.settings | variant), encoding="utf-8")
        words = ["--config", str(experiment.base), "--config", str(overrides), *FAST]
        # The small face has fewer ports than the prefixes and the image that are shipped.
        model = variant.get("model", {})
        words += ["--model.prefixes", "[5, 25]"] if "prefixes" in model else []
        words += ["--model.code_shape", "[5, 5]"] if "code_shape" in model else []
        cli = RunCLI(words, tmp_path / name)
        step(cli)
        counts[name] = cli.model.lattice.parameter_counts()["cell"]
    assert len(set(map(str, experiment.variants.values()))) == len(counts), "two variants are the same"


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> tuple[set[str], set[str]]:
    """The keys that default.yaml states, and those that the parser knows."""
    cli = RunCLI(["--config", str(CONFIGS / "default.yaml")], tmp_path_factory.mktemp("run"))
    stated = flat(yaml.safe_load((CONFIGS / "default.yaml").read_text(encoding="utf-8")))
    return stated, flat(cli.config.clone().as_dict())


def test_the_default_states_keys_that_exist(keys) -> None:
    stated, known = keys
    assert stated <= known | {"model.experts"}


def test_the_default_states_every_key_of_model_data_loss_and_optimiser(keys) -> None:
    stated, known = keys
    linked = {"data.expected_dim", "data.order_seed", "model.seed"}  # follow from other keys
    ours = {key for key in known if key.partition(".")[0] in ("data", "model", "loss", "optim", "damage", "pool")}
    assert len(ours) > 30
    assert ours - stated == linked


def test_the_default_asks_for_every_baseline() -> None:
    content = yaml.safe_load((CONFIGS / "default.yaml").read_text(encoding="utf-8"))
    assert content["baselines"] == list(BASELINES)
