"""A mistake on the command line is one line with the rule, what was received and a remedy."""

import pytest

FIT = ("fit", "--config", "tiny.yaml")
TEXT = (*FIT, "--data.task", "sentences", "--data.path", "null", "--data.limit", "40")
MISTAKES: dict[str, tuple[tuple[str, ...], tuple[str, str, str]]] = {
    "unknown command": (("fti",), ("there are fit, describe", "unknown command 'fti'", "Did you mean 'fit'?")),
    "strange command": (("brew",), ("there are fit, describe", "'brew'", "See latticegnn --help.")),
    "unknown key": (
        (*FIT, "--config", "key.yaml"),
        ("must be a key that latticegnn fit knows", "got 'model.spec.shap'", "did you mean 'model.spec.shape'?"),
    ),
    "unknown group": (
        (*FIT, "--config", "top.yaml"),
        ("must be a key", "got 'modle.channels'", "did you mean 'model.channels'?"),
    ),
    "null for a section": (
        (*FIT, "--config", "section.yaml"),
        ("damage must be a mapping of settings", "got null", "leave it out for its default"),
    ),
    "null for a section, as an option": (
        (*FIT, "--damage", "null"),
        ("damage must be a mapping of settings", "got null", "see `latticegnn fit --help`"),
    ),
    "null for a setting": (
        (*FIT, "--config", "null.yaml"),
        ("model.clamp must be true or false", "got null", "leave it out for its default"),
    ),
    "no such placement": (
        (*FIT, "--model.outputs", "{face: z+, placement: {class_path: latticegnn.lattice.ports.Nestd}}"),
        ("model.outputs.placement must be a text or Placement", "latticegnn.lattice.ports.Nestd", "--help"),
    ),
    "more learned ports than cells": (
        (*FIT, "--model.outputs.placement", "learned"),
        ("cannot have more ports", "count=16 for a face of 9", "init_args: {count: 9}"),
    ),
    "a halting head with an implicit gradient": (
        (*FIT, "--model.gradient", "{implicit: {}}", "--model.clamp", "true", "--model.stopping", "{halting: {}}"),
        ("gradient: implicit keeps none of them", "got a loss on a trajectory", "and halting heads"),
    ),
    "a key that follows from another, as an option": (
        (*FIT, "--data.expected_dim", "7"),
        ("data.expected_dim follows from model.embedding_dim", "got 7", "set model.embedding_dim"),
    ),
    "a key that follows from another, in a file": (
        (*FIT, "--config", "follows.yaml"),
        ("model.seed follows from seed_everything", "got 3", "set seed_everything"),
    ),
    "unknown option": ((*FIT, "--model.stps", "4"), ("must be a key", "'model.stps'", "did you mean 'model.steps'?")),
    "strange option": ((*FIT, "--brew", "4"), ("must be a key", "got 'brew'", "see `latticegnn fit --help`")),
    "loose word": ((*FIT, "tea"), ("must be a key", "got 'tea'", "see `latticegnn fit --help`")),
    "no value": (("fit", "--config"), ("expected one argument", "--config", "see `latticegnn fit --help`")),
    "wrong type": (
        (*FIT, "--model.steps", "many"),
        ("model.steps must be a whole number", "got many", "see `latticegnn fit --help`"),
    ),
    "wrong length": (
        (*FIT, "--model.spec.shape", "[1, 2]"),
        ("model.spec.shape must be a list of 3, each a whole number", "got [1, 2]", "--help"),
    ),
    "wrong choice": (
        (*FIT, "--model.spec.connectivity", "ful"),
        ("model.spec.connectivity must be one of radius, full", "got ful", "did you mean 'full'?"),
    ),
    "wrong choice in a union": (
        (*FIT, "--model.spec.boundary", "opn"),
        ("one of open, periodic, reflecting, absorbing or a list of 3", "got opn", "did you mean 'open'?"),
    ),
    "wrong choice in a list": (
        (*FIT, "--baselines", "[men]"),
        ("baselines must be a list, each one of mean, raw_teacher", "got men", "did you mean 'mean'?"),
    ),
    "wrong flag": ((*FIT, "--model.skip", "perhaps"), ("must be true or false", "got perhaps", "--help")),
    "no number": ((*FIT, "--optim.lr_cell", "fast"), ("optim.lr_cell must be a number", "got fast", "--help")),
    "no mapping": ((*FIT, "--model.experts", "7"), ("model.experts must be a mapping or null", "got 7", "--help")),
    "out of range": ((*FIT, "--model.channels", "0"), ("channels must be", "got 0", "set it to 1 or more")),
    "bad rate": ((*FIT, "--optim.lr_maps", "-1"), ("optim.lr_maps must be above 0", "got -1.0", "default is 0.001")),
    "bad weight": ((*FIT, "--loss.cosine", "-1"), ("loss.cosine must be 0 or more", "got -1.0", "set it to 0")),
    "bad seed": ((*FIT, "--seed_everything", "-4"), ("seed_everything must be", "got -4", "0 is the default")),
    "a seed by chance": ((*FIT, "--seed_everything", "true"), ("model.seed", "Got value: True", "--help")),
    "no epochs": ((*FIT, "--trainer.max_epochs", "0"), ("max_epochs must be at least 1", "got 0", "set it")),
    "no validation": (
        (*FIT, "--trainer.limit_val_batches", "0"),
        ("a run must validate", "limit_val_batches 0", "leave them at their defaults"),
    ),
    "no checkpoint kept": (
        (*FIT, "--checkpoint.save_top_k", "0"),
        ("keep its best checkpoint", "got 3 updates", "leave the trainer's limits and checkpoint.save_top_k"),
    ),
    "missing configuration": (
        ("fit", "--config", "none.yaml"),
        ("a configuration is a YAML file", "none.yaml is not a file", "check the path"),
    ),
    "unreadable YAML": (
        ("fit", "--config=broken.yaml"),
        ("a configuration is a YAML file", "broken.yaml cannot be read", "mend it there"),
    ),
    "no text": (("fit", "-c", "v.npy"), ("a configuration is a YAML file", "v.npy cannot be read", "mend it there")),
    "no keys": (("fit", "-c", "list.yaml"), ("a configuration is a YAML file", "holds a list", "write `key: value`")),
    "missing data": (
        (*FIT, "--data.path", "none.npy"),
        ("must be an existing file", "received 'none.npy'", "Check the path"),
    ),
    "no path": ((*FIT, "--data.path", "null"), ("belongs to the tasks", "path None", "Name the file")),
    "too few rows": (
        (*FIT, "--data.path", "few.npy"),
        ("test split must keep at least 11 rows", "got 5", "raise data.limit or add rows"),
    ),
    "nothing but NaN": ((*FIT, "--data.path", "void.npy"), ("need at least 3 rows", "received 0", "Add rows")),
    "wrong dimension": (
        (*FIT, "--data.path", "narrow.npy"),
        ("dimension must be the model's: 12", "narrow.npy gives 7", "Set embedding_dim to 7"),
    ),
    "empty text": (
        (*FIT, "--data.task", "file", "--data.path", "empty.txt"),
        ("must hold text", "empty.txt is empty", "Write one text per line"),
    ),
    "outside the light cone": (
        (*FIT, "--model.steps", "3"),
        ("inside the input ports' light cone", "Received steps=3", "Set steps to 4 or more"),
    ),
    "ratios that do not rise": (
        (*FIT, "--model.spec.radii", "null", "--model.spec.functional_ratio", "0.05"),
        ("ratios must rise", "Received 0.1, 0.05, 1", "Reorder them"),
    ),
    "no such teacher": (
        (*TEXT, "--data.teacher", "./nowhere"),
        ("must be an existing directory", "'./nowhere'", "Check the path"),
    ),
    "no such packaged teacher": (
        (*TEXT, "--data.teacher", "packaged:mini"),
        ("must be one of ['minilm']", "received 'mini'", "Write e.g. 'packaged:minilm'"),
    ),
    "teacher's settings": (
        (*TEXT, "--data.teacher", "{sorce: packaged:minilm}"),
        ("`teacher` must hold settings of Teacher", "received 'sorce'", "Use these names"),
    ),
    "teacher's source": (
        (*TEXT, "--data.teacher", "{source: 5}"),
        ("`teacher.source` must be str", "received 5", "Give it as that"),
    ),
    "teacher's length": (
        (*TEXT, "--data.teacher", "{max_length: 2.5}"),
        ("`teacher.max_length` must be int", "received 2.5", "Give it as that"),
    ),
    "teacher's trust": (
        (*TEXT, "--data.teacher", "{trust_remote_code: 3}"),
        ("`teacher.trust_remote_code` must be bool", "received 3", "Give it as that"),
    ),
    "teacher's device": (
        (*TEXT, "--data.teacher", "{device: meta}"),
        ("`device` must be a torch device that this machine has", "received 'meta'", "Use 'cpu'"),
    ),
    "no fields": (
        (*FIT, "--data.vectors", "null"),
        ("data.vectors", "null", ""),
    ),
    "a source's fields": (
        (*FIT, "--data.more", "[{task: vectors, path: v.npy, vectors: 3}]"),
        ("`vectors` must be a mapping of settings", "received 3", "Leave it out"),
    ),
    "a source's weight": (
        (*FIT, "--data.more", "[{task: vectors, path: v.npy, weight: -1}]"),
        ("`weight` must be at least 0", "received -1", "1 visits each row once"),
    ),
    "no weight": (
        (*FIT, "--data.weight", "0"),
        ("One source at least must be trained on", "[0.0]", "Raise one above 0"),
    ),
    "cap of the cache": (
        (*FIT, "--data.cache_max_gb", ".inf"),
        ("`cache_max_gb` must be at least 0 and finite", "received inf", "None sets none"),
    ),
    "workers": (
        (*FIT, "--data.num_workers", "-1"),
        ("`num_workers` must be at least 0", "received -1", "0 is the default"),
    ),
    "seed of the data": (
        (*FIT, "--data.seed", "99999999999999999999999"),
        ("`seed` must be a whole number from 0", "received 99999999999999999999999", "0 is the default"),
    ),
    "wrong shape from an expert": (
        (*FIT, "--model.experts", "{functional: {class_path: 'wrong.py:Wrong'}}"),
        ("must return the shape it was given, [N, F] = [45, 4]", "Wrong returned [45, 5]", "set its output width to 4"),
    ),
    "no such expert": (
        (*FIT, "--model.experts", "{functional: {class_path: torch_geometric.nn.SAGEConf}}"),
        ("must name a class", "no class 'SAGEConf'", "did you mean 'SAGEConv'?"),
    ),
    "no such tier": (
        (*FIT, "--model.experts", "{functionl: attention}"),
        ("for the tiers local, functional, distant", "got 'functionl'", "use these names"),
    ),
    "wrong monitor": (
        (*FIT, "--checkpoint.monitor", "validation/los"),
        ("checkpoint.monitor must be one of validation/loss", "got 'validation/los'", "choose one"),
    ),
    "ranks without pairs": (
        (*FIT, "--early_stopping.monitor", "validation/mrr@10"),
        ("early_stopping.monitor must be one of", "got 'validation/mrr@10'", "choose one"),
    ),
    "the worst instead of the best": (
        (*FIT, "--checkpoint.monitor", "validation/cosine"),
        ("checkpoint.mode must be max for validation/cosine", "got 'min'", "set it to max"),
    ),
    "half precision": (
        (*FIT, "--trainer.precision", "16-mixed"),
        ("trainer.precision must be 32-true or bf16-mixed", "got '16-mixed'", "choose one of them"),
    ),
    "a budget in steps": (
        (*FIT, "--trainer.max_steps", "1"),
        ("budget is set in epochs", "got trainer.max_steps 1", "set trainer.max_epochs"),
    ),
    "no devices": (
        (*FIT, "--trainer.devices", "0"),
        ("must fit each other and this machine", "devices='0'", "change the setting that is named"),
    ),
    "part of an epoch": (
        (*FIT, "--trainer.limit_train_batches", "2"),
        ("visits all its rows", "got trainer.limit_train_batches 2", "set data.limit"),
    ),
    "the engine's sampler": (
        (*FIT, "--trainer.use_distributed_sampler", "true"),
        ("shared among processes by the data itself", "use_distributed_sampler true", "leave it out"),
    ),
    "processes without a name": (
        (*FIT, "--trainer.devices", "2"),
        ("must agree on its folder", "got 2 processes and no run_name", "set --run_name"),
    ),
    "no run to go on with": (
        (*FIT, "--resume", "none"),
        ("resume must be a run's folder", "none is neither", "pass for instance runs/latest"),
    ),
    "a pool for several processes": (
        (*FIT, "--trainer.devices", "2", "--run_name", "both", "--pool.size", "8"),
        ("a pool lives in one process", "got pool.size 8 with 2 processes", "or set pool.size to 0"),
    ),
    "rollouts below the light cone": (
        (*FIT, "--unroll.mode", "random", "--unroll.low", "1", "--unroll.high", "9"),
        ("light cone", "in one step", "Set steps to 4 or more"),
    ),
    "rollouts without bounds": (
        (*FIT, "--unroll.mode", "random"),
        ("unroll.low and unroll.high belong to the modes", "low None, high None", "set both"),
    ),
    "a file for a folder": (
        (*FIT, "--run_dir", "v.npy"),
        ("run_dir must be a folder that can be written", "got v.npy", "choose another one"),
    ),
    "describe: type": (
        ("describe", "--spec.shape", "big"),
        ("spec.shape must be a list of 3, each a whole number", "got big", "see `latticegnn describe --help`"),
    ),
    "describe: key": (
        ("describe", "--spec.shpe", "[3, 3, 3]"),
        ("must be a key that latticegnn describe knows", "got 'spec.shpe'", "did you mean 'spec.shape'?"),
    ),
    "describe: range": (
        ("describe", "--spec.shape", "[0, 3, 3]"),
        ("three whole numbers of cells, each at least 1", "Received (0, 3, 3)", "Write shape: [8, 8, 8]"),
    ),
    "export: nothing to write": (("export",), ("are required", "output", "see `latticegnn export --help`")),
    "export: no folder": (
        ("export", "--spec.shape", "[2, 2, 2]", "--output", "none/cube.graphml"),
        ("into an existing folder", "Received none/cube.graphml", "Create none first"),
    ),
    "export: another ending": (
        ("export", "--spec.shape", "[2, 2, 2]", "--output", "cube.png"),
        ("ends in .graphml, .gexf, .json", "Received cube.png", "Rename it"),
    ),
    "experiment: no file": (("experiment",), ("are required", "config", "see `latticegnn experiment --help`")),
    "experiment: missing": (
        ("experiment", "--config", "none.yaml"),
        ("a configuration is a YAML file", "none.yaml is not a file", "check the path"),
    ),
    "experiment: no experiment": (
        ("experiment", "--config", "tiny.yaml"),
        ("must be a key that latticegnn experiment knows", "got '", "see `latticegnn experiment --help`"),
    ),
    "experiment: null": (
        ("experiment", "--config", "sweep.yaml"),
        ("seeds must be a list", "got null", "leave it out for its default"),
    ),
    "analyse: half a surface": (
        ("analyse", "run", "--surface", "{ports: [9]}"),
        ("surface must be a mapping of ports, steps or null", "steps=None", "see `latticegnn analyse --help`"),
    ),
    "analyse: steps of a surface": (
        ("analyse", "run", "--surface", "{ports: [9], steps: [-1]}"),
        ("latticegnn: surface.steps must not be negative", "got [-1]", "take 0 or more."),
    ),
    "analyse: no rules": (
        ("analyse", "run", "--stopping", "{tolerances: [], steps: []}"),
        ("latticegnn: stopping needs tolerances or numbers of steps", "got [] and []", "write tolerances: [0.1, 0.01]"),
    ),
    "analyse: null for rules": (
        ("analyse", "run", "--stopping", "{steps: null}"),
        ("stopping needs tolerances or numbers of steps", "and None", "write tolerances: [0.1, 0.01]"),
    ),
    "fit: nothing": (("fit",), ("max_epochs must be at least 1", "got None", "set it")),
    "no such decoder": (
        (*FIT, "--decoder.kind", "liner"),
        ("decoder.kind must be one of transformer, linear", "got liner", "did you mean 'linear'?"),
    ),
    "a decoder's length in words": (
        (*FIT, "--decoder", "{kind: linear, length: many}"),
        ("decoder.length must be a whole number", "got many", "see `latticegnn fit --help`"),
    ),
    "experiment: no workers": (
        ("experiment", "--config", "sweep.yaml", "--workers", "0"),
        ("workers must be a number v with v>0", "got 0", "see `latticegnn experiment --help`"),
    ),
    "serve: no file": (
        ("serve", "--config", "none.yaml"),
        ("a configuration is a YAML file", "none.yaml is not a file", "check the path"),
    ),
    "predict: no device": (
        ("predict", "--model", "run", "--text", "a", "--device", "abacus"),
        ("a torch device that this machine has", "'abacus'", "Use 'cpu'"),
    ),
    "doctor: key": (
        ("doctor", "--config", "tiny.yaml", "--model.stps", "9"),
        ("must be a key", "got 'model.stps'", "did you mean 'model.steps'?"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_in_one_line(name, folder, call) -> None:
    words, parts = MISTAKES[name]
    status, _, err = call(*words)
    assert status == 2
    assert len(err) == 1, err
    assert err[0].startswith("latticegnn: ")
    assert "Traceback" not in err[0]
    for part in parts:
        assert part in err[0]
