"""The fused step against the cell as it reads: outputs and every gradient."""

import logging
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from latticegnn.lattice import LatticeSpec
from latticegnn.model import LatticeModel
from latticegnn.nn import FusedStep, LatticeCell, kernels
from latticegnn.nn.execution import bind_step
from latticegnn.nn.fused import ROWS

RADII = (0.5, 1.0, 1.5)
SPECS = [
    LatticeSpec((3, 3, 4), radii=RADII),
    LatticeSpec((2, 3, 4), radii=(0.5, 1.0, 1.8), order="morton"),
    LatticeSpec((3, 4, 2), radii=RADII, boundary=("periodic", "open", "periodic"), order="morton"),
    LatticeSpec((2, 3, 3), "full"),
    LatticeSpec((3, 3, 3), radii=(1.0, 1.5, 2.0)),  # the local tier has neighbours
    LatticeSpec((3, 3, 3), radii=(1.8, 2.0, 2.3)),  # one cell has no functional neighbours
    LatticeSpec((3, 3, 3)),  # no cell has neighbours: the local expert alone
]
ONE_STEP = {"class_path": "latticegnn.nn.MeanFieldExpert", "init_args": {"euler_steps": 1}}
EXPERTS = [
    None,
    {"distant": "mlp"},
    {"local": "mean_field", "functional": ONE_STEP},
    {"functional": {"class_path": "latticegnn.nn.MLPExpert", "init_args": {"hidden": 5}}},
]


def cell_of(spec: LatticeSpec, experts=None, radial: bool = False, channels: int = 3) -> LatticeCell:
    torch.manual_seed(0)
    cell = LatticeCell(spec, channels, 4, experts, step=0.7, backend="sparse", radial=radial).double()
    for parameter in cell.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return cell


def two_steps(cell: LatticeCell, step, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The state after two steps, and the gradients of the state before and of every parameter."""
    out = step(step(x))
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    leaves = [x, *cell.parameters()]  # without neighbours, distance weights are none and have no gradient
    return out.detach(), list(torch.autograd.grad((out * weight).sum(), leaves, materialize_grads=True))


def state(cell: LatticeCell, batch: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
    shape = (cell.num_nodes, batch, cell.channels)
    return torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=dtype).requires_grad_()


def assert_twins(cell: LatticeCell, fused: FusedStep, x: Tensor, tolerance: float) -> None:
    expected, grads = two_steps(cell, cell.advance, x)
    found, fused_grads = two_steps(cell, fused.bind(), x)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    for name, grad, twin in zip(["x", *dict(cell.named_parameters())], fused_grads, grads, strict=True):
        scale = float(twin.abs().max())
        assert float((grad - twin).abs().max()) <= tolerance * max(scale, 1.0), name
        assert grad.any() or len(cell.experts) == 1, f"{name} has no gradient to compare"


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("rows", [7, 4096])
@pytest.mark.parametrize("experts", EXPERTS, ids=str)
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_the_fused_step_is_the_cell(spec, experts, rows, recompute) -> None:
    cell = cell_of(spec, experts)
    assert_twins(cell, FusedStep(cell, rows=rows, recompute=recompute), state(cell), 1e-12)


@pytest.mark.parametrize("backend", ["edge", "dense"])
def test_on_any_backend(backend) -> None:
    cell = LatticeCell(SPECS[0], 3, 4, backend=backend).double()
    assert_twins(cell, FusedStep(cell, rows=20), state(cell), 1e-12)


@settings(deadline=None, max_examples=25)
@given(
    shape=st.tuples(*[st.integers(1, 4)] * 3),
    boundary=st.tuples(*[st.sampled_from(["open", "periodic"])] * 3),
    order=st.sampled_from(["raster", "morton"]),
    radii=st.lists(st.integers(1, 8).map(lambda squared: squared**0.5), min_size=3, max_size=3, unique=True),
    channels=st.integers(1, 5),
    batch=st.integers(1, 3),
    rows=st.integers(1, 60),
    radial=st.booleans(),
    experts=st.sampled_from(EXPERTS),
)
def test_on_any_lattice(shape, boundary, order, radii, channels, batch, rows, radial, experts) -> None:
    spec = LatticeSpec(shape, "radius", boundary, order, radii=tuple(sorted(radii)))
    cell = cell_of(spec, experts, radial, channels)
    x = state(cell, batch)
    expected, grads = two_steps(cell, cell.advance, x)
    found, fused_grads = two_steps(cell, FusedStep(cell, rows=rows).bind(), x)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    for grad, twin in zip(fused_grads, grads, strict=True):
        # A single channel has no variance: its LayerNorm divides by the square root of epsilon alone.
        torch.testing.assert_close(grad, twin, rtol=1e-10, atol=1e-10 * max(float(twin.norm()), 1.0))


def test_radial_weights_have_their_gradient() -> None:
    cell = cell_of(SPECS[1], radial=True)
    assert cell.radial is not None
    assert_twins(cell, FusedStep(cell, rows=11), state(cell), 1e-12)


def test_gradcheck() -> None:
    cell = cell_of(LatticeSpec((3, 3, 3), radii=RADII), channels=2)
    names = [name for name, _ in cell.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in cell.parameters()]

    def step(x: Tensor, *given: Tensor) -> Tensor:
        for name, value in zip(names, given, strict=True):
            owner, _, leaf = name.rpartition(".")
            module = cell.get_submodule(owner)
            module._parameters.pop(leaf, None)
            setattr(module, leaf, value)
        return FusedStep(cell, rows=9).bind()(x)

    x = torch.randn(27, 1, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(step, (x, *values))


def test_an_empty_batch_has_no_gradient() -> None:
    cell = cell_of(SPECS[0])
    x = state(cell, batch=0)
    out, grads = two_steps(cell, FusedStep(cell).bind(), x)
    assert out.shape == x.shape
    assert not any(grad.any() for grad in grads)


def test_float32_is_close() -> None:
    cell = cell_of(SPECS[0]).float()
    assert_twins(cell, FusedStep(cell), state(cell, dtype=torch.float32), 5e-6)


def test_compiled_functions_give_the_same() -> None:
    """One whole chunk and a part of one, so that compiled and eager functions both run."""
    cell = cell_of(LatticeSpec((3, 3, 4), radii=RADII))
    assert_twins(cell, FusedStep(cell, compiled=True, rows=64), state(cell), 1e-12)


def test_autocast_runs_the_products_in_bfloat16() -> None:
    cell = cell_of(SPECS[0]).float()
    x = state(cell, dtype=torch.float32)
    exact, grads = two_steps(cell, FusedStep(cell).bind(), x)
    with torch.autocast("cpu", torch.bfloat16):
        found, low = two_steps(cell, FusedStep(cell).bind(), x)
    assert found.dtype == torch.float32
    assert not torch.equal(found, exact)
    torch.testing.assert_close(found, exact, rtol=0.05, atol=0.05)
    for grad, twin in zip(low, grads, strict=True):
        assert float((grad - twin).norm()) <= 0.05 * float(twin.norm())


def test_autocast_spares_the_gate() -> None:
    """Far from zero, a LayerNorm after a rounded product would tell little but the rounding."""
    cell = cell_of(SPECS[0]).float()
    torch.nn.init.normal_(cell.gate.weight, generator=torch.Generator().manual_seed(0))
    x = (10 + 0.1 * state(cell, dtype=torch.float32)).detach()
    exact = FusedStep(cell).bind()(x).detach()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        readable, fused = cell.advance(x), FusedStep(cell).bind()(x)
    assert float((fused - exact).norm()) <= 1.5 * float((readable - exact).norm())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_step_is_the_same_and_repeats_itself() -> None:
    cell = cell_of(LatticeSpec((6, 6, 6), radii=RADII))
    expected, grads = two_steps(cell, FusedStep(cell).bind(), state(cell))
    cell = cell.to("cuda")
    x = state(cell).detach().to("cuda").requires_grad_()
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype).to("cuda")

    def run() -> list[Tensor]:
        step = FusedStep(cell).bind()
        out = step(step(x))
        return [out.detach(), *torch.autograd.grad((out * weight).sum(), [x, *cell.parameters()])]

    first, second = run(), run()
    for a, b, c in zip(first, second, [expected, *grads], strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a.cpu(), c, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["SAGEConv", "Linear"])
def test_other_experts_run_as_they_read_or_are_refused(name, refuses, tmp_path) -> None:
    source = tmp_path / "own.py"
    source.write_text(
        "import torch\nfrom latticegnn.nn import Expert\n\n\nclass Linear(Expert):\n"
        "    def __init__(self, channels, moments):\n        super().__init__()\n"
        "        self.inner = torch.nn.Linear(channels + moments, channels)\n\n"
        "    def forward(self, x, moments):\n        return self.inner(torch.cat([x, moments], dim=-1))\n",
        encoding="utf-8",
    )
    path = {"SAGEConv": "torch_geometric.nn.SAGEConv", "Linear": f"{source}:Linear"}[name]
    cell = LatticeCell(SPECS[0], 3, 4, {"distant": {"class_path": path}})
    with refuses("MLPExpert or MeanFieldExpert in every tier", f"the distant tier has {name}", "choose execution"):
        FusedStep(cell)
    with refuses(
        "MLPExpert or MeanFieldExpert in every tier", f"the distant tier has {name}", "choose execution: reference"
    ):
        bind_step(cell, "compiled", False, 1)
    step, chosen = bind_step(cell, "auto", False, 1)
    assert chosen == f"the cell as it reads, for the distant tier has {name}"
    assert step == cell.advance


class Halved(LatticeCell):
    def update(self, inputs: Tensor, x: Tensor) -> Tensor:
        return 0.5 * super().update(inputs, x)


class Doubled(torch.nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def test_what_the_fused_step_would_pass_over_keeps_auto_from_it() -> None:
    def chosen(cell: LatticeCell) -> str:
        return bind_step(cell, "auto", False, 1)[1]

    assert chosen(Halved(SPECS[0], 3, 4)) == "the cell as it reads, for the cell is a Halved"
    cell = cell_of(SPECS[0])
    cell.experts["functional"].inner = Doubled(15, 4).double()
    assert chosen(cell) == "the cell as it reads, for experts.functional.inner is a Doubled"
    cell = cell_of(SPECS[0])
    cell.norm.eps = 0.5
    assert chosen(cell) == "the cell as it reads, for its LayerNorm has an epsilon of 0.5"
    cell = cell_of(SPECS[0])
    hook = cell.gate.register_forward_hook(lambda *_: None)
    assert chosen(cell) == "the cell as it reads, for gate has a hook"
    hook.remove()
    assert chosen(cell) == "fused, eager"


def test_a_small_batch_is_compiled_as_one_chunk_where_that_is_asked_for() -> None:
    cell = cell_of(SPECS[0])
    x = state(cell)
    step, told = bind_step(cell, "compiled", False, x.shape[0] * x.shape[1])
    assert told.startswith("fused, whole chunks compiled with")
    before = kernels.compiled.cache_info().currsize
    expected, grads = two_steps(cell, cell.advance, x)
    found, others = two_steps(cell, step, x)
    assert kernels.compiled.cache_info().currsize == before > 0
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for grad, twin in zip(others, grads, strict=True):
        torch.testing.assert_close(grad, twin, rtol=1e-10, atol=1e-10)


def test_a_frozen_cell_lets_gradients_through() -> None:
    cell = cell_of(SPECS[1], radial=True)
    x = state(cell)
    expected = two_steps(cell, cell.advance, x)[1][0]
    cell.requires_grad_(False)
    step = FusedStep(cell).bind()
    out = step(step(x))
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    (grad,) = torch.autograd.grad((out * weight).sum(), x)
    torch.testing.assert_close(grad, expected, rtol=1e-12, atol=1e-12)


def test_auto_compiles_only_what_trains_and_fills_a_chunk(monkeypatch, tmp_path) -> None:
    cell = cell_of(SPECS[0])
    monkeypatch.setenv("CXX", "c++-that-exists")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    binary = tmp_path / "c++-that-exists"
    binary.write_text("#!/bin/sh\n", encoding="utf-8")
    binary.chmod(0o755)
    assert bind_step(cell, "auto", False, ROWS)[1] == f"fused, whole chunks compiled with {binary}"
    assert bind_step(cell, "auto", False, ROWS - 1)[1] == "fused, eager"
    assert bind_step(cell.eval(), "auto", False, ROWS)[1] == "fused, eager"
    cell.train()
    with torch.no_grad():
        assert bind_step(cell, "auto", False, ROWS)[1] == "fused, eager"
    assert bind_step(cell, "fused", False, ROWS)[1] == "fused, eager"
    monkeypatch.setenv("CXX", f"{binary} -O1")
    assert bind_step(cell, "auto", False, ROWS)[1] == f"fused, whole chunks compiled with {binary} -O1"
    monkeypatch.setenv("CXX", "false")  # a program that runs, and fails
    assert bind_step(cell, "auto", False, ROWS)[1] == "fused, eager, for no compiler was found"


def test_a_missing_compiler_is_told(monkeypatch, refuses) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert kernels.compiler(torch.device("cpu")) is None
    with refuses("compiled needs a compiler for cpu", "none was found", "choose execution: fused"):
        bind_step(cell_of(SPECS[0]), "compiled", False, 1)


@pytest.mark.parametrize("execution", ["auto", "reference", "fused"])
@pytest.mark.parametrize("gradient", ["full", "checkpointed"])
def test_a_model_gives_the_same_however_it_is_executed(execution, gradient, caplog) -> None:
    def gradients(**options) -> tuple[Tensor, dict[str, Tensor]]:
        spec = LatticeSpec((4, 4, 4), radii=RADII)
        model = LatticeModel(spec, 8, channels=3, hidden=4, steps=4, radial=True, **options).double()
        embedding = torch.randn(3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        out = model(embedding).embedding
        out.square().sum().backward()
        return out.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    expected, grads = gradients(execution="reference")
    with caplog.at_level(logging.INFO, logger="latticegnn"):
        found, others = gradients(execution=execution, gradient=gradient)
    told = "the cell as it reads" if execution == "reference" else "fused, eager"
    assert f"step: {told} (execution: {execution})" in caplog.text
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    assert grads.keys() == others.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(others[name], grad, rtol=1e-9, atol=1e-11, msg=name)


def test_checkpointing_keeps_less() -> None:
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept[-1] += tensor.numel()
        return tensor

    cell = cell_of(SPECS[0])
    for recompute in (False, True):
        kept.append(0)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            FusedStep(cell, recompute=recompute).bind()(state(cell))
    whole, less = kept
    rows = 36 * 2
    experts = 4 + 4 + 3
    assert whole - less == rows * (experts + 2 * 3 + 2)


def test_unknown_execution(refuses) -> None:
    with refuses("execution must be one of auto, reference, fused, compiled", "'quick'", "choose one"):
        LatticeModel(LatticeSpec((4, 4, 4), radii=RADII), 8, steps=4, execution="quick")
