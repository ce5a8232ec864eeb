"""Readiness: does a configuration build, and does the signal reach what is to be trained?"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from latticegnn.lattice import arrival, tier_report
from latticegnn.model import LatticeModel
from latticegnn.training.configuration import RunCLI


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Args:
        name: What was looked at.
        ok: Whether it stands in nobody's way.
        text: What was found, and what to do where it is not ok.
    """

    name: str
    ok: bool
    text: str


def examine(arguments: list[str]) -> Iterator[Finding]:
    """Examine a run's configuration part by part; stops at the first part that nothing later can do without.

    Nothing is trained or embedded. Gradients are measured on random embeddings, through the volume alone: where the
    model has a skip, its direct path from input to output is left out.

    Args:
        arguments: As for `RunCLI`.
    """
    yield Finding("torch", True, f"{torch.__version__}, {torch.get_num_threads()} threads, {_device()}")
    with tempfile.TemporaryDirectory() as scratch:
        try:
            cli = RunCLI(arguments, Path(scratch) / "run")
        except (ValueError, OSError, ModuleNotFoundError) as error:
            yield Finding("configuration", False, str(error))
            return
    model = cli.model.lattice
    yield Finding("configuration", True, ", ".join(f"{part} {n}" for part, n in model.parameter_counts().items()))
    for row in tier_report(model.spec):
        text = f"{row['min_degree']}–{row['max_degree']} neighbours, {row['edges']} edges"
        yield Finding(f"tier {row['tier']}", True, text + (f" ({row['message']})" if row["message"] else ""))
    yield _light_cone(model)
    yield from gradients(model)
    yield _data(cli)


def gradients(model: LatticeModel, batch: int = 2) -> Iterator[Finding]:
    """Measure the gradient at every expert, the gate, the other parts, and the input as seen through the volume."""
    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(batch, model.embedding_dim, generator=generator)
    model.fit_maps(embedding, embedding + torch.randn(batch, model.embedding_dim, generator=generator))
    embedding.requires_grad_()
    model.zero_grad()
    out = model(embedding).embedding
    answer = out - embedding if model.skip else out
    answer.square().sum().backward()
    parts: dict[str, nn.Module] = {f"expert {name}": expert for name, expert in model.cell.experts.items()}
    parts |= {"gate": model.cell.gate, "bypass": model.cell.bypass, "maps": model.transformer}
    for name, part in parts.items():
        grads = [p.grad for p in part.parameters() if p.grad is not None]
        yield _gradient(name, torch.stack([g.norm() for g in grads]).norm() if grads else torch.zeros(()))
    assert embedding.grad is not None
    yield _gradient("input through the volume", embedding.grad.norm())
    model.zero_grad()


def _gradient(name: str, norm: torch.Tensor) -> Finding:
    value = float(norm)
    ok = 0.0 < value < float("inf")
    remedy = "" if ok else "; nothing can be learned there: check experts, steps and ports"
    return Finding(f"gradient at {name}", ok, f"{value:.3g}{remedy}")


def _light_cone(model: LatticeModel) -> Finding:
    arrivals = arrival(model.spec, model.inputs, model.outputs)
    reached = (arrivals >= 0) & (arrivals <= model.steps)
    text = f"{int(reached.sum())} of {len(reached)} output ports reached within {model.steps} steps"
    if bool(reached.all()):
        return Finding("light cone", True, f"{text}, the last after {int(arrivals.max())}")
    need = f"{int(arrivals.max())} steps" if bool((arrivals >= 0).all()) else "a larger radius or connectivity: full"
    return Finding("light cone", False, f"{text}; it takes {need}")


def _data(cli: RunCLI) -> Finding:
    content = cli.datamodule.content
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            text = content.survey()
    except (ValueError, OSError) as error:
        return Finding("data", False, str(error))
    return Finding("data", True, text)


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
