"""A trained lattice as a program that runs without latticegnn: PyTorch's archive, ONNX, or a compiled library."""

from __future__ import annotations

import copy
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from latticegnn.aggregate import tier_moments
from latticegnn.aggregate.plain import PlainAggregator
from latticegnn.model import LatticeModel
from latticegnn.nn.cell import MOMENTS
from latticegnn.nn.kernels import compiler
from latticegnn.nn.soft_tiers import SoftTiers

Format = Literal["pt2", "onnx", "aoti"]
ENDINGS: dict[str, Format] = {".aoti.pt2": "aoti", ".pt2": "pt2", ".onnx": "onnx"}
"""Endings of a file's name, and the format that each stands for."""
BATCHES, TOLERANCE = (1, 7, 64), 1e-5
OUTPUTS = ("answer", "code")
Numbers = Callable[[Tensor], tuple[Tensor, ...]]


class Program(nn.Module):
    r"""A lattice's rollout of a fixed number of steps, written out, on plain operations.

    .. math::
        e \mapsto (\hat e, \hat c), \qquad \hat e = B(\hat c) \;(+\, e), \quad \hat c = \mathrm{Read}(x^T)

    The model is copied, in evaluation mode, on the CPU; its cell takes the readable form of the step and
    sums over neighbours by `PlainAggregator`. Nothing asks whether an embedding is finite, nan goes in and comes out,
    or whether a token id is one. Token ids fill all input ports, padded at their end.

    Args:
        model: The lattice.
        steps: T, ≥ 1.

    Shapes:
        - input: embedding [B, D], or int64 token ids [B, P] for a model with ``tokens``
        - output: the answer in the teacher's space [B, D], and the code that was decoded, see `LatticeOutput`
    """

    def __init__(self, model: LatticeModel, steps: int) -> None:
        super().__init__()
        self.steps, self.input = steps, "embedding" if model.tokens is None else "tokens"
        self.model = _copied(model).requires_grad_(False)
        self.model.execution = "reference"
        cell, own = self.model.cell, self.model.cell.aggregator
        if isinstance(own, SoftTiers):
            own.inner = PlainAggregator(own.moments).float()
        else:
            functionals = [(tier, moment) for tier in cell.reaching for moment in MOMENTS]
            moments = tier_moments(self.model.spec, functionals, cell.radial is not None)
            cell.aggregator = PlainAggregator(moments).float()

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Carry embeddings, or token ids, through the lattice."""
        run = self.model.begin(inputs)
        for _ in range(self.steps):
            run.step()
        return self.model.read(inputs, run.state)

    def random(self, batch: int) -> Tensor:
        """Draw inputs, from a seed: embeddings of length 1, or token ids."""
        generator = torch.Generator().manual_seed(batch)
        if self.model.tokens is None:
            drawn = torch.randn(batch, self.model.embedding_dim, generator=generator)
            return nn.functional.normalize(drawn)
        shape = (batch, self.model.inputs.count(self.model.spec))
        return torch.randint(self.model.tokens["vocab_size"], shape, generator=generator)


def _copied(model: LatticeModel) -> LatticeModel:
    """Copy a model to the CPU, in evaluation mode, without its teacher, which may be a large language model."""
    return copy.deepcopy(model, {id(model.teacher): None}).cpu().eval()


def format_of(path: Path) -> Format:
    """Return the format that a file's name asks for.

    Raises:
        ValueError: For a name with another ending.
    """
    for ending, kind in ENDINGS.items():
        if path.name.endswith(ending):
            return kind
    raise ValueError(
        f"a model is exported to a file whose name ends in {', '.join(ENDINGS)}; got {path.name!r}; name it so."
    )


def export_model(
    model: LatticeModel,
    path: str | os.PathLike[str],
    format: Format | None = None,
    steps: int | None = None,
    teacher: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a lattice as a program for any batch, B ≥ 1, that needs neither this package nor PyG.

    ============  =============  ==============================================================
    ``"pt2"``     ``.pt2``       ``torch.export.load(path).module()``; needs PyTorch alone
    ``"onnx"``    ``.onnx``      ``onnxruntime.InferenceSession(path)``; needs no PyTorch
    ``"aoti"``    ``.aoti.pt2``  ``torch._inductor.aoti_load_package(path)``; compiled for this machine's processor
    ============  =============  ==============================================================

    The input is ``embedding`` [B, D] in float32, or ``tokens``; the outputs are ``answer`` [B, D] and ``code``, see
    `Program`. The steps are written out one by one, so that file and time of export grow with them.

    The written file is loaded again and held to the model itself on random inputs, see `Program.random`, in batches of
    `BATCHES`: where an output differs by more than `TOLERANCE` times the greatest of 1 and its largest number, nothing
    is left behind. Names, shapes, teacher and the worst difference are written beside it, ``path`` with ``.json``
    appended.

    Args:
        model: The lattice.
        path: File to write.
        format: Says what the path's ending must be; by default, the ending decides.
        steps: T, ≥ 1, the model's own by default; a model whose samples stop by themselves must be given it.
        teacher: What is told about the source of the embeddings, ready for JSON.

    Returns:
        What was written beside the file.

    Raises:
        ValueError: For another ending, a model that stops by itself, a layer that cannot be traced, numbers that
            differ, or where no C++ compiler is found for "aoti".
        FileNotFoundError: When the folder to write in does not exist.
        ModuleNotFoundError: When an extra is not installed.
    """
    path = Path(path)
    kind = _checked(path, format)
    count = _steps(model, steps)
    if model.cell.step.dtype != torch.float32:
        raise ValueError(
            f"a model is exported in float32; got one of {model.cell.step.dtype}; call model.float() first."
        )
    program = Program(model, count)
    traced, example = _traced(program), program.random(1)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as scratch:
        file = Path(scratch) / path.name
        run, widths = WRITERS[kind](traced, file, program.input), (model.embedding_dim, model.extractor.width)
        told = {
            "format": kind,
            "inputs": [_named(program.input, example.shape[1], str(example.dtype).removeprefix("torch."))],
            "outputs": [_named(name, width) for name, width in zip(OUTPUTS, widths, strict=True)],
            "steps": count,
            "teacher": teacher,
            "check": {"batches": list(BATCHES), "worst_difference": _held(program, model, run), "tolerance": TOLERANCE},
            "versions": {name: version(name) for name in ("latticegnn", "torch")},
        }
        beside = Path(scratch) / f"{path.name}.json"
        beside.write_text(json.dumps(told, indent=2), encoding="utf-8")
        os.replace(file, path)
        os.replace(beside, path.with_name(beside.name))
    return told


def _named(name: str, width: int, dtype: str = "float32") -> dict[str, Any]:
    return {"name": name, "shape": ["batch", width], "dtype": dtype}


def _checked(path: Path, format: Format | None) -> Format:
    if format is not None and format not in get_args(Format):
        raise ValueError(f"format is one of {', '.join(get_args(Format))}; got {format!r}; choose one of them.")
    kind = format_of(path)
    if format not in (None, kind):
        ending = next(ending for ending, own in ENDINGS.items() if own == format)
        raise ValueError(
            f"a file of format {format} has a name that ends in {ending}; got {path.name!r}, the name of a file of "
            f"format {kind}; rename it, or leave format out."
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"an exported model is written in a folder that exists; got {path}; create {path.parent}, or write "
            "elsewhere."
        )
    if kind == "onnx":
        _need_onnx()
    if kind == "aoti" and compiler(torch.device("cpu")) is None:
        raise ValueError(
            f"format aoti compiles the program; got {path.name!r} where no C++ compiler was found; install g++ (or set "
            "CXX), or export to .pt2 or .onnx."
        )
    return kind


def _steps(model: LatticeModel, steps: int | None) -> int:
    if model.stopping is not None and steps is None:
        raise ValueError(
            "an exported program takes the same number of steps for all samples; got a model whose samples stop by "
            f"themselves, {model.settings['stopping']}; give steps, for instance {model.steps}."
        )
    count = model.steps if steps is None else steps
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"steps must be a whole number, at least 1; got {steps!r}; leave it out for the model's own.")
    return count


def _traced(program: Program) -> ExportedProgram:
    """Trace a program for any batch, and drop what it says about this machine's files."""
    sizes = ({0: Dim("batch", min=1)},)
    try:
        traced = torch.export.export(program, (program.random(2),), dynamic_shapes=sizes, strict=False)
    except Exception as error:  # whatever a foreign layer's forward does to a tracer
        raise ValueError(
            "a model is exported by torch.export, which traces every layer for a batch of any size; got one that it "
            f"cannot follow: {_first_line(error)}; write that layer without branches on the values of tensors, or "
            "choose another expert."
        ) from error
    foreign = set()
    for module in traced.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)
            if isinstance(node.target, torch._ops.OpOverload) and node.target.namespace not in ("aten", "_operator"):
                foreign.add(str(node.target))
    if foreign:
        raise ValueError(
            f"an exported program has PyTorch's own operations alone; got {', '.join(sorted(foreign))}; write that "
            "layer without them, or choose another expert."
        )
    return traced


def _held(program: Program, model: LatticeModel, run: Numbers) -> float:
    """Return the worst difference between a written program and its model on random inputs, or raise ValueError."""
    reference, worst = _copied(model), 0.0
    for batch in BATCHES:
        inputs = program.random(batch)
        with torch.no_grad():
            expected = reference.rollout(inputs, steps=program.steps)
        for name, found, wanted in zip(OUTPUTS, run(inputs), (expected.embedding, expected.code), strict=True):
            difference = float((found - wanted).abs().max())
            allowed = TOLERANCE * max(1.0, float(wanted.abs().max()))
            if found.shape != wanted.shape or not difference <= allowed:
                raise ValueError(
                    f"an exported program must give the model's numbers to {allowed:.1e}; got {name}s that differ by "
                    f"{difference:.1e} in a batch of {batch}; a model that amplifies rounding so has diverged, or has "
                    "a layer that computes something else when it is traced: train it again, or mend that layer."
                )
            worst = max(worst, difference)
    return worst


def _write_archive(program: ExportedProgram, file: Path, name: str) -> Numbers:
    with warnings.catch_warnings():
        # Of constants that share their storage; what was written is held to the model's own numbers.
        warnings.filterwarnings("ignore", message="No complete tensor found in the group")
        torch.export.save(program, file)
    return torch.export.load(file).module()


def _write_onnx(program: ExportedProgram, file: Path, name: str) -> Numbers:
    ort = _need_onnx()
    with _quiet():
        made = torch.onnx.export(program, dynamo=True, input_names=[name], output_names=list(OUTPUTS), verbose=False)
        assert made is not None
        made.save(file, external_data=False)
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda inputs: tuple(map(torch.from_numpy, session.run(list(OUTPUTS), {name: inputs.numpy()})))


def _write_compiled(program: ExportedProgram, file: Path, name: str) -> Numbers:
    from torch._inductor import aoti_compile_and_package, aoti_load_package

    with _quiet():
        aoti_compile_and_package(program, package_path=str(file))
    return aoti_load_package(str(file))


WRITERS: dict[Format, Callable[[ExportedProgram, Path, str], Numbers]] = {
    "pt2": _write_archive,
    "onnx": _write_onnx,
    "aoti": _write_compiled,
}


def _need_onnx() -> Any:
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"format onnx needs onnx, onnxscript and onnxruntime; {error.name} is not installed; "
            "pip install 'latticegnn[onnx]'."
        ) from error
    return onnxruntime


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep to itself what PyTorch's converter says of its own parts."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            log.setLevel(level)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
