"""Runs that train a text decoder: small ones on two-word texts whose words a teacher of word vectors tells apart."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from latticegnn.analysis.metrics import paired_difference
from latticegnn.analysis.text_metrics import token_statistics
from latticegnn.cli import main
from latticegnn.data import Tokenizer
from latticegnn.lattice import from_networkx
from latticegnn.model import LatticeModel
from latticegnn.report.experiment import draw_experiment
from latticegnn.report.html import write_report
from latticegnn.report.run import read_history
from latticegnn.text_model import TextModel
from latticegnn.training import callbacks
from latticegnn.training.analyses import Analyses, analyse
from latticegnn.training.checkpoints import saved
from latticegnn.training.decoding import TEXT_BASELINES, Decoding
from latticegnn.training.experiment import gather
from latticegnn.training.fit import Run
from latticegnn.training.run_graph import graph_of_run
from latticegnn.training.text import TextSide, TokenRows

BOTH = "--loss.reconstruction 1 --loss.cosine 1"
TOKENS = '--model.tokens {"vocab_size":29,"pad_id":0}'


@pytest.fixture(scope="session")
def text_config(tmp_path_factory) -> Path:
    """150 texts "a3 b7" whose vectors are the means of their words'; combinations are held out."""
    folder = tmp_path_factory.mktemp("texts")
    words = [f"{side}{k}" for side in "ab" for k in range(13)]
    vectors = np.random.default_rng(0).normal(size=(len(words), 12))
    lines = [f"{word} {' '.join(f'{x:.4f}' for x in row)}" for word, row in zip(words, vectors, strict=True)]
    (folder / "vectors.txt").write_text(f"{len(words)} 12\n" + "\n".join(lines) + "\n", encoding="utf-8")
    texts = [f"a{i} b{j}" for i in range(13) for j in range(13)][:150]
    (folder / "texts.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    content = {
        "data": {
            "task": "file", "path": str(folder / "texts.txt"), "limit": None, "batch_size": 16,
            "teacher": {"path": str(folder / "vectors.txt")}, "cache_dir": str(folder / "cache"),
        },
        "model": {
            "spec": {"shape": [4, 4, 4], "radii": [0.5, 1.0, 1.5]}, "embedding_dim": 12, "channels": 4, "hidden": 4,
            "steps": 4, "readout": "ports_full",
        },
        "decoder": {
            "kind": "linear", "length": 3, "dim": 16, "heads": 2,
            "tokenizer": {"kind": "whitespace", "vocab_size": 100},
        },
        "loss": {"reconstruction": 0, "cosine": 0, "tokens": 1},
        "optim": {"lr_text": 0.02, "weight_decay_text": 0.01},
        "early_stopping": {"monitor": "validation/token_accuracy", "mode": "max"},
        "checkpoint": {"monitor": "validation/token_accuracy", "mode": "max"},
        "trainer": {
            "max_epochs": 2, "accelerator": "cpu", "devices": 1, "enable_progress_bar": False, "log_every_n_steps": 2,
        },
        "refit_readout": False, "baselines": [], "log_level": "warning",
    }  # fmt: skip
    file = folder / "text.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return file


Begin = Callable[..., Run]


@pytest.fixture(scope="session")
def begin(text_config) -> Begin:
    """Build the small run, below a folder, with further arguments."""
    return lambda runs, *words: Run(["--config", str(text_config), "--run_dir", str(runs), *words])


@pytest.fixture(scope="module")
def learned(begin, tmp_path_factory) -> Run:
    """A run that has learned its texts, with baselines of every kind."""
    baselines = ["mean", "projection_only", *(set(TEXT_BASELINES) - {"bigram"})]
    words = [*BOTH.split(), "--trainer.max_epochs", "16", "--optim.lr_text", "0.05"]
    run = begin(tmp_path_factory.mktemp("learned"), *words, "--baselines", json.dumps(sorted(baselines)))
    run.execute()
    return run


@pytest.fixture(scope="module")
def table(learned) -> dict[str, dict]:
    return {row["model"]: row for row in json.loads((learned.folder / "metrics.json").read_text())["table"]}


def test_held_out_texts_are_written_and_the_majority_s_are_not(table) -> None:
    assert table["lattice"]["token_accuracy"] > 0.6
    assert table["linear_full"]["token_accuracy"] > 0.6
    assert table["majority"]["token_accuracy"] < 0.2
    assert table["majority"]["lattice_minus_low"] > 0.3


def test_each_row_has_the_figures_that_its_model_gives(table) -> None:
    text = {"token_accuracy", "exact_match", "token_f1", "reembedded_cosine"}
    for name, row in table.items():
        assert (text <= set(row)) == (name != "mean"), name
        assert ("fvu" in row) == (name in ("lattice", "projection_only", "mean")), name
        assert ("lattice_minus" in row) == (name not in ("lattice", "mean")), name
        assert "bleu" not in row
    assert table["lattice"]["exact_match"] <= table["lattice"]["token_accuracy"] <= table["lattice"]["token_f1"]


def test_the_saved_model_writes_what_the_table_counts(learned, table) -> None:
    model = TextModel.from_pretrained(learned.folder / "model")
    split, tokenizer = learned.data.splits["test"], model.tokenizer
    texts = model.generate(split.tensors()[0])
    rows, _ = tokenizer.encode(texts, 3, eos=True)
    target, _ = tokenizer.encode(split.target_texts, 3, eos=True)
    shares = token_statistics(rows, target, tokenizer.eos_id, tokenizer.unk_id)["token_accuracy"]
    assert float(shares[:, 0].sum() / shares[:, 1].sum()) == table["lattice"]["token_accuracy"]
    content = json.loads((learned.folder / "metrics.json").read_text())
    found = content["text"]["examples"]
    assert [example["lattice"] for example in found] == texts[: len(found)]
    assert content["text"]["tokenizer"] == tokenizer.fingerprint
    assert content["text"]["cut"] == 0


def test_a_text_that_is_written_right_is_embedded_as_its_target(table) -> None:
    """The teacher of word vectors gives one vector for one text."""
    row = table["lattice"]
    assert row["exact_match"] <= row["reembedded_cosine"] <= 1


def test_the_lead_is_that_on_the_same_rows(learned, table) -> None:
    rows, tokenizer = learned.text.rows.targets["test"], learned.text.rows.tokenizer
    made = [learned.text.generated(learned.module), learned.text.counted("majority")[1]]
    shares = [token_statistics(rows_, rows, tokenizer.eos_id)["token_accuracy"] for rows_ in made]
    assert paired_difference(*shares)["value"] == pytest.approx(table["majority"]["lattice_minus"])


def test_validation_says_what_teacher_forcing_and_the_loss_say(learned) -> None:
    """Of a head that sees no other token, teacher-forced accuracy is that of what it writes."""
    history, text = read_history(learned.folder), learned.text
    assert max(value for _, value in history["validation/token_accuracy"]) > 0.6
    validation, tokenizer = learned.data.splits["validation"].tensors()[0], text.rows.tokenizer
    model = TextModel.from_pretrained(learned.folder / "model")
    rows = model.decoder.generate(model.read(validation))
    shares = token_statistics(rows, text.rows.targets["validation"], tokenizer.eos_id)["token_accuracy"]
    best = max(value for _, value in history["validation/token_accuracy"])
    assert float(shares[:, 0].sum() / shares[:, 1].sum()) == pytest.approx(best)


def test_the_figures_are_drawn(learned) -> None:
    from latticegnn.report.run import draw_run

    draw_run(learned.folder)
    assert (learned.folder / "figures" / "table_token_accuracy.png").is_file()


def test_the_table_is_printed_with_the_verdicts(learned, capsys) -> None:
    from latticegnn.report.tables import format_table, format_verdict

    rows = json.loads((learned.folder / "metrics.json").read_text())["table"]
    assert "token_accuracy" in format_table(rows).splitlines()[0]
    verdicts = format_verdict(rows)
    assert "lattice − majority: token_accuracy" in verdicts
    assert "− mean" not in verdicts


@pytest.mark.parametrize("kind", ["transformer", "mlp", "ports"])
def test_every_kind_of_decoder_trains(kind, begin, tmp_path) -> None:
    run = begin(tmp_path, "--decoder.kind", kind)
    before = {}
    attach = run.module.attach

    def noted(text, freeze=False) -> None:
        attach(text, freeze)
        before.update({name: value.clone() for name, value in run.module.named_parameters()})

    run.module.attach = noted
    result = run.execute()
    assert result["table"][0]["token_accuracy"] >= 0
    moved = {name for name, value in run.module.named_parameters() if not torch.equal(before[name], value)}
    assert any(name.startswith("text.") for name in moved)
    assert any(name.startswith("model.cell") for name in moved)
    assert any(name.startswith("model.transformer.encoder") for name in moved)
    kept = set(before) - moved
    assert kept >= {"model.transformer.decoder.weight"}, "no term looks at the embedding"


def test_a_frozen_lattice_is_the_one_it_started_from(learned, begin, tmp_path) -> None:
    words = "--decoder.freeze true --decoder.kind mlp --model_from"
    run = begin(tmp_path, *words.split(), str(learned.folder / "model"))
    result = run.execute()
    before, after = (load_file(folder / "model" / "model.safetensors") for folder in (learned.folder, run.folder))
    assert all(torch.equal(before[name], value) for name, value in after.items())
    numbers = sum(p.numel() for p in run.module.text.parameters())
    assert result["table"][0]["parameters"] == numbers, "what was fitted in this run"


def test_a_run_starts_from_a_saved_lattice_of_its_settings_alone(learned, begin, tmp_path, refuses) -> None:
    start = learned.folder / "model"
    with refuses("of the run's own settings", "hidden was 4, is 5", "under model:"):
        begin(tmp_path, "--model_from", str(start), "--model.hidden", "5")
    run = begin(tmp_path, "--model_from", str(start), "--seed_everything", "3", "--trainer.max_epochs", "1")
    saved_model = LatticeModel.from_pretrained(start)
    run.module.trainer = None
    run.data.prepare()
    run.execute()
    assert run._start is not None
    assert all(torch.equal(value, saved_model.state_dict()[name]) for name, value in run._start.items())


def test_token_ids_go_in_and_rows_of_tokens_come_out(begin, tmp_path) -> None:
    run = begin(tmp_path, *TOKENS.split(), "--decoder.kind", "ports", "--baselines", "[majority]")
    table = run.execute()["table"]
    assert [row["model"] for row in table] == ["lattice", "majority"]
    assert "fvu" not in table[0]
    model = TextModel.from_pretrained(run.folder / "model")
    ids, split = run.text.rows.inputs["test"], run.data.splits["test"]
    assert model.tokenizer.decode(ids) == split.input_texts
    assert torch.equal(model.decoder.generate(model.read(ids)), run.text.generated(run.module))


@pytest.mark.slow
def test_tokens_are_carried_across(begin, tmp_path) -> None:
    words = [*TOKENS.split(), "--decoder.kind", "ports", "--trainer.max_epochs", "30", "--optim.lr_maps", "0.02"]
    run = begin(tmp_path, *words)
    assert run.execute()["table"][0]["token_accuracy"] > 0.9
    model = TextModel.from_pretrained(run.folder / "model")
    assert model.generate(model.tokenizer.encode(["a3 b7"], 3, eos=True)[0]) == ["a3 b7"]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("--decoder null", ("tokens are a text decoder's", "loss.tokens 1.0", "describe one")),
        (
            "--decoder null --loss.tokens 0 --loss.cosine 1 --baselines [majority]",
            ("tokens are a text decoder's", "['majority']", "describe one"),
        ),
        (
            f"--decoder null --loss.tokens 0 --loss.cosine 1 {TOKENS}",
            ("is trained by a text decoder", "29", "describe one"),
        ),
        ("--loss.cosine 1 --loss.tokens 0", ("by its term of the loss", "loss.tokens 0.0", "above 0")),
        ("--data.task vectors --data.teacher packaged:minilm", ("learns from texts", "['vectors']", "tasks of texts")),
        ("--pool.size 8", ("have no texts", "pool.size 8", "set it to 0")),
        ("--refit_readout true", ("needs a loss on embeddings", "refit_readout true", "to false")),
        (
            f"{BOTH} --decoder.source embedding --refit_readout true",
            ("must not move what a decoder reads", "source embedding", "to false"),
        ),
        (f"{BOTH} {TOKENS}", ("by loss.tokens alone", "'cosine'", "set them to 0")),
        (
            f"{TOKENS} --baselines [projection_only]",
            ("no embedding to start a baseline", "projection_only", "majority alone"),
        ),
        ("--baselines [bigram]", ("a bigram is of next words", "['file']", "leave it out")),
        ("--checkpoint.monitor validation/fvu --checkpoint.mode min", ("must be one of", "validation/fvu", "choose")),
        ("--checkpoint.mode min", ("checkpoint.mode must be max", "min", "set it to max")),
        ('--model.stopping {"halting":{"prior":0.1}}', ("every step has an answer", "got both", "leave out")),
    ],
)
def test_settings_that_contradict_each_other_are_refused(words, parts, begin, tmp_path, refuses) -> None:
    with refuses(*parts):
        begin(tmp_path, *words.split())
    assert not list(tmp_path.iterdir()), "no folder is left behind"


def test_a_lattice_whose_ids_are_not_the_tokenizer_s_is_refused_before_training(begin, tmp_path, refuses) -> None:
    words = ["--model.tokens", '{"vocab_size":30,"pad_id":0}', "--decoder.kind", "ports"]
    with refuses("those of the run's tokenizer", "'vocab_size': 30", "set model.tokens"):
        begin(tmp_path, *words).execute()


def test_settings_out_of_range_are_refused(refuses) -> None:
    with refuses("decoder.kind must be one of", "'lstm'", "choose one"):
        Decoding(kind="lstm")  # type: ignore[arg-type]
    with refuses("decoder.source must be one of", "'state'", "choose one"):
        Decoding(source="state")  # type: ignore[arg-type]
    with refuses("2 at least", "got 1", "raise it"):
        Decoding(length=1)
    with refuses("{source: …}, which loads one", "{'kind': 'bpe'}", "is the default"):
        Decoding(tokenizer={"kind": "bpe"})


def test_a_tokenizer_without_an_end_is_refused(refuses) -> None:
    tokenizer = Tokenizer.train(["a b"], "whitespace", 10)
    tokenizer.eos_id = None
    with refuses("end-of-text token", "vocab_size=6", "set its eos_token"):
        Decoding().build(4, tokenizer, channels=1, seed=0)


def test_a_tokenizer_is_loaded_where_one_is_named(learned, begin, tmp_path) -> None:
    source = learned.folder / "model" / "tokenizer"
    run = begin(tmp_path, "--decoder.tokenizer", f"{{source: {source}}}", "--trainer.max_epochs", "1")
    assert run.execute()["text"]["tokenizer"] == learned.text.rows.tokenizer.fingerprint


def outcome(folder: Path) -> tuple:
    """All that must be the same: weights of both parts, table without the clock, what validation said."""
    content = json.loads((folder / "metrics.json").read_text())
    rows = [{k: v for k, v in row.items() if k not in ("seconds", "ms_per_update")} for row in content["table"]]
    files = [folder / "model" / "model.safetensors", folder / "model" / "decoder" / "model.safetensors"]
    weights = [{name: value.numpy().tobytes() for name, value in load_file(file).items()} for file in files]
    return weights, rows, content["validation"], read_history(folder)["validation/token_accuracy"]


def test_a_run_that_was_broken_off_goes_on_to_the_same_end(begin, tmp_path, monkeypatch) -> None:
    """With dropout in the decoder, whose draws must come back, too."""
    monkeypatch.setattr(callbacks, "KEPT", 1000)
    words = "--decoder.kind transformer --save_every 0"
    run = begin(tmp_path, *words.split(), *BOTH.split())
    run.execute()
    expected = outcome(run.folder)
    files = saved(run.folder / "checkpoints")
    for file in (files[-1], files[len(files) // 2]):
        (run.folder / "metrics.json").unlink()
        assert main(["fit", "--resume", str(file)]) == 0
        assert outcome(run.folder) == expected


def test_the_doctor_looks_at_the_texts_and_times_the_decoder(text_config, capsys) -> None:
    assert main(["doctor", "--config", str(text_config)]) == 0
    told = capsys.readouterr().out
    assert "ok    text decoder: linear," in told
    assert "29 token ids, rows of 3 tokens; 0 longer texts are cut" in told
    assert main(["doctor", "--config", str(text_config), *TOKENS.split(), "--decoder.kind", "ports"]) == 0
    assert "gradient at token table through the volume" in capsys.readouterr().out
    wrong = ["--model.tokens", '{"vocab_size":30,"pad_id":0}', "--decoder.kind", "ports"]
    assert main(["doctor", "--config", str(text_config), *wrong]) == 1
    assert "FAIL  text decoder: a lattice's token ids must be those" in capsys.readouterr().out


def test_a_finished_run_is_analysed_as_others_are(learned) -> None:
    assert main(["analyse", str(learned.folder), "--steps", "4"]) == 0


def test_a_vocabulary_knows_the_frequent_words_and_the_unknown_is_neither_taught_nor_answered() -> None:
    targets = ["the"] * 4 + ["a"] * 3 + [f"rare{k}" for k in range(6)]
    inputs = [f"row {k}" for k in range(len(targets))]
    decoding = Decoding("linear", length=2, tokenizer={"kind": "whitespace", "vocab_size": 6})
    rows = TokenRows(decoding, {"train": (inputs, targets), "validation": (inputs, targets)}, None)
    tokenizer = rows.tokenizer
    assert tokenizer.decode(rows.targets["train"][[0, 4]]) == ["the", "a"], "by how often they come"
    unknown = rows.targets["train"] == tokenizer.unk_id
    assert int(unknown.sum()) == 6
    side = TextSide(decoding.build(3, tokenizer, channels=1, seed=0), rows, "code", weight=1.0)
    with torch.no_grad():
        side.decoder.map.weight.zero_()
        side.decoder.map.bias.zero_().view(2, -1)[0, tokenizer.unk_id] = 9.0
    shares = side.shares(torch.zeros(13, 3), torch.arange(13))
    assert shares[:, 0].tolist() == [0.0] * 13, "the unknown is no right answer"
    assert shares[:, 1].tolist() == [1.0] * 13, "but wanted"
    assert shares[:, 3].tolist() == [2.0] * 7 + [1.0] * 6, "and of its rows the end alone is learned"
    side.term(torch.zeros(13, 3), torch.arange(13)).backward()
    assert float(side.decoder.map.bias.grad.view(2, -1)[0, tokenizer.unk_id]) > 0, "pushed down, never up"


def test_pages_and_pictures_tell_of_rows_with_and_without_embeddings(learned, tmp_path) -> None:
    page = write_report(learned, output=tmp_path / "page.html").read_text(encoding="utf-8")
    assert '<th scope="col">written</th>' in page
    assert '<th scope="col">nearest held-out target</th>' in page
    result = json.loads((learned.folder / "metrics.json").read_text())
    rows = gather({("one", 0): result, ("two", 0): result})
    assert [file.name for file in draw_experiment(tmp_path, rows, {})] == ["ablation_token_accuracy.png"]


def test_a_run_that_takes_tokens_is_shown_and_looked_at_by_its_tokens(text_config, tmp_path, refuses) -> None:
    words = [*TOKENS.split(), "--decoder.kind", "ports", "--trainer.max_epochs", "1", "--run_name", "run"]
    assert main(["fit", "--config", str(text_config), "--run_dir", str(tmp_path), *words]) == 0
    folder = tmp_path / "run"
    assert (folder / "figures" / "signal.png").is_file()
    assert list((folder / "logs").glob("events*"))
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert '<th scope="col">written</th>' in page
    assert "nearest held-out target" not in page, "no embedding was trained"
    graph = from_networkx(graph_of_run(folder, rows=2))
    assert int(graph.arrival[graph.input_mask].min()) == 0
    with refuses("judges a lattice's embeddings", "by loss.tokens alone", "give loss.reconstruction a weight"):
        analyse(folder, Analyses(steps=2))


@pytest.mark.slow
def test_two_processes_train_what_one_does(text_config, tmp_path) -> None:
    for count in (1, 2):
        words = [*BOTH.split(), "--run_dir", tmp_path, "--run_name", str(count), "--trainer.devices", str(count)]
        command = [sys.executable, "-m", "latticegnn", "fit", "--config", text_config, *words]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    for part in ("model", "model/decoder"):
        one, two = (load_file(tmp_path / name / part / "model.safetensors") for name in "12")
        for key, value in one.items():
            torch.testing.assert_close(two[key], value, rtol=1e-4, atol=1e-5 * float(value.abs().max()))
    one, two = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in "12")
    assert one["table"][0]["token_accuracy"] == pytest.approx(two["table"][0]["token_accuracy"], abs=0.03)
