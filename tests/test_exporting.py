"""A lattice as a program: the same numbers, in a process that knows neither latticegnn nor PyG."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import latticegnn as lg
from latticegnn.exporting import BATCHES, TOLERANCE, export_model
from latticegnn.lattice.placement import Learned
from latticegnn.nn.kernels import compiler

FULL = lg.LatticeSpec(shape=(3, 3, 3), connectivity="full")
NEAR = lg.LatticeSpec(shape=(4, 3, 3), radii=(0.5, 1.1, 1.5))
MIXED = lg.LatticeSpec(
    shape=(3, 4, 3), radii=(0.5, 1.1, 1.5), boundary=("periodic", "reflecting", "absorbing"), order="morton"
)


def layer(name: str, **arguments: object) -> dict:
    return {"class_path": f"torch_geometric.nn.{name}", "init_args": arguments}


def perceptron(width: int) -> dict:
    return layer("MLP", channel_list=[width, 3, 4], norm=None)


SETTINGS: dict[str, dict] = {
    "all neighbours": {"spec": FULL, "steps": 1, "skip": True, "readout": "ports_full"},
    "modes": {
        "interior": "learned",
        "dynamics": {"stochastic": {"probability": 0.6}, "wave": {"speed": 0.2}, "diffusion": {"rate": 0.1}},
    },
    "ports": {
        "spec": MIXED, "radial": True, "clamp": True, "inputs": lg.Ports("z-", "zones"),
        "outputs": lg.Ports("z+", "nested"), "prefixes": [3, 12],
    },
    "tokens": {
        "spec": FULL, "steps": 1, "tokens": {"vocab_size": 9, "pad_id": 0},
        "experts": {"distant": layer("SAGEConv", aggr="max")},
    },
}  # fmt: skip
MORE: dict[str, dict] = {
    "as it is": {},
    "soft": {"spec": MIXED, "soft_tiers": 0.2, "inputs": lg.Ports("z-", Learned(count=6))},
    "transport": {"dynamics": {"directional": {"strength": 0.4}}},
    "noise": {"interior": "noise", "initialisation": "random"},
    "code": {"interior": "code"},
    "image": {"port_map": "bilinear", "code_shape": (2, 2)},
    "stops by itself": {"stopping": {"halting": {"prior": 0.1}}},
    "attention": {"experts": {"functional": "attention", "distant": "gated"}},
    "GATv2Conv": {"experts": {"functional": layer("GATv2Conv")}},
    "GCNConv": {"experts": {"functional": layer("GCNConv")}},
    "GINConv": {"experts": {"functional": layer("GINConv", nn=perceptron(4))}},
    "EdgeConv": {"experts": {"functional": layer("EdgeConv", nn=perceptron(8))}},
    "TransformerConv": {"experts": {"functional": layer("TransformerConv")}},
    "implicit": {"gradient": {"implicit": {}}, "clamp": True},
    "another size": {"reference": lg.LatticeSpec(shape=(3, 3, 3), radii=(0.5, 1.1, 2.1))},
}


def make(spec: lg.LatticeSpec = NEAR, **settings: object) -> lg.LatticeModel:
    """Build a model whose every parameter matters."""
    model = lg.LatticeModel(spec, **{"embedding_dim": 5, "channels": 4, "hidden": 4, "steps": 2} | settings)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def rows(model: lg.LatticeModel, batch: int, steps: int | None = None) -> dict[str, Tensor]:
    """Inputs and what the model itself makes of them."""
    generator = torch.Generator().manual_seed(100 + batch)
    inputs = torch.randn(batch, 5, generator=generator)
    if model.tokens is not None:
        inputs = torch.randint(9, (batch, 9), generator=generator)
    with torch.no_grad():
        out = model.rollout(inputs, steps=model.steps if steps is None else steps)
    return {"inputs": inputs, "answer": out.embedding, "code": out.code}


def export(settings: dict[str, dict], folder: Path) -> None:
    """Write each model's program, and rows it must reproduce."""
    for name, given in settings.items():
        model = make(**given)
        export_model(model, folder / f"{name}.pt2", steps=model.steps)
        torch.save([rows(model, batch) for batch in BATCHES], folder / f"{name}.rows")


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """A folder with programs of some models."""
    folder = tmp_path_factory.mktemp("programs")
    export(SETTINGS, folder)
    return folder


def alone(code: str, *words: object) -> str:
    """Run code in a Python that sees neither this folder nor the environment; return what it prints."""
    done = subprocess.run([sys.executable, "-I", "-c", code, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


ARCHIVES = """
import sys, pathlib, torch
for file in sorted(pathlib.Path(sys.argv[1]).glob("*.pt2")):
    program = torch.export.load(file).module()
    for row in torch.load(file.with_suffix(".rows"), weights_only=True):
        for found, wanted in zip(program(row["inputs"]), (row["answer"], row["code"]), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    print(file.stem)
assert not {name.split(".")[0] for name in sys.modules} & {"latticegnn", "torch_geometric", "torch_scatter"}
"""


def test_archives_run_where_there_is_only_pytorch(exported) -> None:
    assert alone(ARCHIVES, exported).splitlines() == sorted(SETTINGS)


ONNX = """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
rows = numpy.load(sys.argv[2])
for batch in (1, 7, 64):
    found = session.run(["answer", "code"], {"embedding": rows[f"inputs{batch}"]})
    for name, value in zip(["answer", "code"], found, strict=True):
        numpy.testing.assert_allclose(value, rows[f"{name}{batch}"], rtol=1e-5, atol=1e-5)
assert not {name.split(".")[0] for name in sys.modules} & {"latticegnn", "torch_geometric", "torch"}
"""


def test_onnx_runs_where_there_is_no_pytorch(tmp_path) -> None:
    model = make(**SETTINGS["all neighbours"])
    told = export_model(model, tmp_path / "model.onnx")
    numbers = {f"{k}{b}": v.numpy() for b in BATCHES for k, v in rows(model, b).items()}
    np.savez(tmp_path / "rows.npz", **numbers)
    alone(ONNX, tmp_path / "model.onnx", tmp_path / "rows.npz")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.onnx", "model.onnx.json", "rows.npz"]
    assert told["format"] == "onnx"


def test_what_is_told_beside_the_program(exported) -> None:
    told = json.loads((exported / "ports.pt2.json").read_text())
    worst = told["check"].pop("worst_difference")
    assert 0 < worst < TOLERANCE
    assert told == {
        "format": "pt2",
        "inputs": [{"name": "embedding", "shape": ["batch", 5], "dtype": "float32"}],
        "outputs": [
            {"name": "answer", "shape": ["batch", 5], "dtype": "float32"},
            {"name": "code", "shape": ["batch", 12], "dtype": "float32"},
        ],
        "steps": 2,
        "teacher": None,
        "check": {"batches": [1, 7, 64], "tolerance": 1e-5},
        "versions": {"latticegnn": lg.__version__, "torch": torch.__version__},
    }
    tokens = json.loads((exported / "tokens.pt2.json").read_text())["inputs"]
    assert tokens == [{"name": "tokens", "shape": ["batch", 9], "dtype": "int64"}]


def test_a_program_says_nothing_of_the_folders_it_was_made_in(exported) -> None:
    program = torch.export.load(exported / "modes.pt2")
    told = [str(node.meta.get("stack_trace")) for node in program.graph.nodes]
    assert told.count("None") == len(told) > 50
    assert str(Path(lg.__file__).parent).encode() not in (exported / "modes.pt2").read_bytes()


class Unique:
    """A teacher too large to copy."""

    dim = 5

    def __deepcopy__(self, memo: dict) -> "Unique":
        raise MemoryError


def test_the_model_is_left_as_it_was(tmp_path) -> None:
    model = make(FULL, experts={"distant": "gated"}).train()
    model.attach_teacher(Unique())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    backend, execution = model.cell.backend, model.execution
    export_model(model, tmp_path / "model.pt2", steps=1)
    assert model.training
    assert isinstance(model.teacher, Unique)
    assert (model.cell.backend, model.execution) == (backend, execution)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_other_steps_than_the_models_own(tmp_path) -> None:
    model = make(FULL, stopping={"absolute": {"tolerance": 1e-3}})
    told = export_model(model, tmp_path / "model.pt2", steps=3, teacher={"source": "packaged:minilm"})
    assert (told["steps"], told["teacher"]) == (3, {"source": "packaged:minilm"})
    row = rows(model, 3, steps=3)
    answer, code = torch.export.load(tmp_path / "model.pt2").module()(row["inputs"])
    torch.testing.assert_close(answer, row["answer"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(code, row["code"], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(rows(model, 3, steps=2)["answer"], answer, atol=1e-3)


class Branching(nn.Module):
    """Looks at its numbers."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Twofaced(nn.Module):
    """Computes something else when it is traced."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return 2 * x if torch.compiler.is_exporting() else x


@torch.library.custom_op("latticegnn_test::double", mutates_args=())
def double(x: Tensor) -> Tensor:
    return 2 * x


@double.register_fake
def _double(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Foreign(nn.Module):
    """Uses an operation that only this process has."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return double(x)


@pytest.mark.parametrize(
    ("expert", "rule", "received", "remedy"),
    [
        (Branching, "traces every layer", "data-dependent", "without branches"),
        (Foreign, "PyTorch's own operations alone", "latticegnn_test.double.default", "choose another expert"),
        (Twofaced, "must give the model's numbers", "in a batch of 1", "mend that layer"),
    ],
)
def test_a_layer_that_cannot_be_exported_is_refused_and_nothing_is_left(
    expert, rule, received, remedy, tmp_path, refuses
) -> None:
    place = {"class_path": f"{__file__}:{expert.__name__}"}
    model = make(FULL, steps=2, experts={"distant": place})
    with refuses(rule, received, remedy):
        export_model(model, tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


def test_what_contradicts_itself_is_refused(tmp_path, refuses, monkeypatch) -> None:
    model = make()
    with refuses("whose name ends in .aoti.pt2, .pt2, .onnx", "'model.bin'", "name it so"):
        export_model(model, tmp_path / "model.bin")
    with refuses("format is one of pt2, onnx, aoti", "'torchscript'", "choose one"):
        export_model(model, tmp_path / "model.pt2", format="torchscript")
    with refuses("a file of format aoti has a name that ends in .aoti.pt2", "of format pt2", "rename it"):
        export_model(model, tmp_path / "model.pt2", format="aoti")
    with refuses("in a folder that exists", "none", "create", FileNotFoundError):
        export_model(model, tmp_path / "none" / "model.pt2")
    for steps in (0, True, 2.0):
        with refuses("steps must be a whole number, at least 1", repr(steps), "leave it out"):
            export_model(model, tmp_path / "model.pt2", steps=steps)
    with refuses("the same number of steps for all samples", "'absolute'", "give steps, for instance 2"):
        export_model(make(stopping={"absolute": {"tolerance": 1e-3}}), tmp_path / "model.pt2")
    with refuses("exported in float32", "torch.float64", "model.float()"):
        export_model(make().double(), tmp_path / "model.pt2")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with refuses("aoti compiles the program", "no C++ compiler", "install g++"):
        export_model(model, tmp_path / "model.aoti.pt2")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with refuses("needs onnx, onnxscript and onnxruntime", "onnxscript", "latticegnn[onnx]", ModuleNotFoundError):
        export_model(model, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_every_setting_of_a_model_is_tried() -> None:
    told = {name for settings in (SETTINGS | MORE).values() for name in settings}
    numbers = {"embedding_dim", "channels", "hidden", "gain", "seed"}
    untraced = {"backend", "execution", "require_light_cone"}  # a program has its own, or they change no number
    assert set(make().settings) - numbers - untraced == told


@pytest.mark.slow
def test_more_settings_give_the_same_numbers(tmp_path) -> None:
    export(MORE, tmp_path)
    assert alone(ARCHIVES, tmp_path).splitlines() == sorted(MORE)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["modes", "ports", "tokens", "soft", "GATv2Conv"])
def test_onnx_gives_the_same_numbers(name, tmp_path) -> None:
    told = export_model(make(**(SETTINGS | MORE)[name]), tmp_path / "model.onnx")
    assert told["check"]["worst_difference"] < TOLERANCE


COMPILED = """
import sys, torch
from torch._inductor import aoti_load_package
program = aoti_load_package(sys.argv[1])
for row in torch.load(sys.argv[2], weights_only=True):
    for found, wanted in zip(program(row["inputs"]), (row["answer"], row["code"]), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
assert not {name.split(".")[0] for name in sys.modules} & {"latticegnn", "torch_geometric"}
"""


@pytest.mark.slow
@pytest.mark.skipif(compiler(torch.device("cpu")) is None, reason="needs a C++ compiler")
def test_a_compiled_program_takes_any_batch(tmp_path) -> None:
    model = make()
    assert export_model(model, tmp_path / "model.aoti.pt2", format="aoti")["format"] == "aoti"
    torch.save([rows(model, batch) for batch in BATCHES], tmp_path / "rows")
    alone(COMPILED, tmp_path / "model.aoti.pt2", tmp_path / "rows")
