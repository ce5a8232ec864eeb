"""Readiness: does a configuration build, does the signal reach what is to be trained, and does the machine suffice?"""

from __future__ import annotations

import contextlib
import importlib
import io
import math
import os
import platform
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from latticegnn.data.sampler import EpochSampler
from latticegnn.lattice import arrival, tier_report
from latticegnn.lattice.graph import available_memory
from latticegnn.model import LatticeModel
from latticegnn.nn import bind_step
from latticegnn.training.callbacks import KEPT
from latticegnn.training.configuration import RunCLI, quiet_engine
from latticegnn.training.decoding import Decoding
from latticegnn.training.estimate import step_memory
from latticegnn.training.fit import FEWEST_TEST_ROWS
from latticegnn.training.text import TextSide, TokenRows, attached

TIMED, SECONDS = 5, 10.0
"""Most training steps that are timed, and after how many seconds no further one is begun."""


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
    """Examine a run's configuration part by part, what is cheap and fails often first.

    What a failed part is needed for is left out. Nothing is embedded or written, and what is trained is thrown away.
    Gradients are measured on random embeddings, through the volume alone: where the model has a skip, its direct path
    from input to output is left out.

    Args:
        arguments: As for `RunCLI`.
    """
    yield from _versions()
    with tempfile.TemporaryDirectory() as scratch:
        try:
            cli = RunCLI(arguments, Path(scratch) / "run")
        except (ValueError, OSError, ModuleNotFoundError) as error:
            yield Finding("configuration", False, str(error))
            return
    model, device = cli.model.lattice, cli.trainer.strategy.root_device
    yield Finding("configuration", True, ", ".join(f"{part} {n}" for part, n in model.parameter_counts().items()))
    yield _device(cli)
    yield _disk(cli)
    for row in tier_report(model.spec):
        text = f"{row['min_degree']}–{row['max_degree']} neighbours, {row['edges']} edges"
        yield Finding(f"tier {row['tier']}", True, text + (f" ({row['message']})" if row["message"] else ""))
    yield _light_cone(model)
    data, rows, visits = _data(cli)
    yield data
    batch = max(1, cli.datamodule.content.batch_size // cli.trainer.world_size)
    batch += cli.model.pool.beside(batch)
    model.to(device)
    side: TextSide | None = None
    if cli.decoding is not None and data.ok:
        found, side = _text(cli, cli.decoding)
        yield found
    yield (execution := _execution(model, batch))
    if execution.ok:
        yield (memory := _memory(cli, batch, rows))
        if memory.ok:
            yield from gradients(model, min(2, batch))
            if cli.decoding is not None and side is not None:
                cli.model.attach(side, cli.decoding.freeze)
            yield _training(cli, batch, visits if data.ok else 0)


def free_memory(device: torch.device) -> int:
    """Ask the system for the bytes of memory that are free on a device."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()


def free_disk(folder: Path) -> int:
    """Ask the system for the bytes that may still be written where a folder lies."""
    return shutil.disk_usage(folder).free


def native_bfloat16(device: torch.device) -> bool:
    """Ask whether a device computes in bfloat16 itself, and does not only emulate it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _versions() -> Iterator[Finding]:
    text = f"{platform.python_version()}, {os.cpu_count()} CPU cores, {torch.get_num_threads()} threads in use"
    yield Finding("python", True, text)
    names = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
    gpus = ", ".join(names) if names else "no GPU"
    yield Finding("torch", True, f"{torch.__version__} ({build}, {torch.backends.cpu.get_cpu_capability()}), {gpus}")
    needed = ("torch-geometric", "lightning", "transformers")
    yield Finding("libraries", True, ", ".join(f"{name} {version(name)}" for name in needed))
    # A configuration that needs one of these does not build without it, and says so.
    yield Finding("extensions", True, ", ".join(map(_extension, ("torch-scatter", "torch-cluster"))))


def _extension(name: str) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(name.replace("-", "_"))
    except ModuleNotFoundError:
        return f"{name} absent"
    except (ImportError, OSError, RuntimeError) as error:
        return f"{name} broken: {' '.join(str(error).split())}"
    return f"{name} {version(name)}"


def _device(cli: RunCLI) -> Finding:
    device, trainer = cli.trainer.strategy.root_device, cli.trainer
    native = native_bfloat16(device)
    count = f"{trainer.world_size} process{'' if trainer.world_size == 1 else 'es'}"
    text = f"{device}, {count}, precision {trainer.precision}, bfloat16 {'native' if native else 'not native'}"
    if trainer.precision == "bf16-mixed" and not native:
        return Finding("device", False, f"bf16-mixed needs native bfloat16; got {text}; set trainer.precision 32-true.")
    return Finding("device", True, text)


def _disk(cli: RunCLI) -> Finding:
    """Hold the checkpoints kept (weights, AdamW's two averages, the pool) and the model against the free space."""
    weights = sum(value.nbytes for value in cli.model.state_dict().values())
    model, pool = cli.model.lattice, cli.model.pool.size
    each = weights + 2 * sum(p.nbytes for p in cli.model.parameters() if p.requires_grad)
    each += pool * 4 * (model.spec.num_nodes * model.channels + 2 * model.embedding_dim)
    kept, epochs = cli.config.checkpoint, cli.trainer.max_epochs or 0
    best = epochs if kept.save_top_k == -1 else min(kept.save_top_k, epochs)
    count = best + bool(kept.save_last) + KEPT + 1  # one more while it is written
    need, place = count * each + weights, cli.config.run_dir.absolute()
    found = next(folder for folder in (place, *place.parents) if folder.exists())
    if not (found.is_dir() and os.access(found, os.W_OK)):
        text = f"run_dir must be a folder that can be written; got {place}, and {found} cannot; choose another one."
        return Finding("disk", False, text)
    free = free_disk(found)
    text = f"{_size(need)} for {count} checkpoints and the model; {_size(free)} free in {found}"
    if need > free:
        text = f"a run's files must fit on the disk; got {text}; make room, or set another run_dir."
    return Finding("disk", need <= free, text)


def _light_cone(model: LatticeModel) -> Finding:
    arrivals = arrival(model.spec, model.inputs, model.outputs)
    reached = (arrivals >= 0) & (arrivals <= model.steps)
    text = f"{int(reached.sum())} of {len(reached)} output ports reached within {model.steps} steps"
    if bool(reached.all()):
        return Finding("light cone", True, f"{text}, the last after {int(arrivals.max())}")
    need = f"{int(arrivals.max())} steps" if bool((arrivals >= 0).all()) else "a larger radius or connectivity: full"
    return Finding("light cone", False, f"{text}; it takes {need}")


def _data(cli: RunCLI) -> tuple[Finding, int, int]:
    """Find the data; give the rows, too, and how many an epoch visits, where they can be read."""
    content = cli.datamodule.content
    count = visits = 0
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            source, rows, parts = content.survey()
        count, world = sum(rows.values()), cli.trainer.world_size
        visits = EpochSampler(rows["train"], batch_size=content.batch_size, world=world, parts=parts).visits
    except (ValueError, OSError, RuntimeError, ModuleNotFoundError) as error:
        return Finding("data", False, str(error)), count, visits
    text = f"{source}: {', '.join(f'{name} {count}' for name, count in rows.items())} rows"
    if rows["test"] < FEWEST_TEST_ROWS:
        text = f"the test split must keep at least {FEWEST_TEST_ROWS} rows; got {text}; raise data.limit or add rows."
        return Finding("data", False, text), count, visits
    return Finding("data", True, text), count, visits


def _text(cli: RunCLI, decoding: Decoding) -> tuple[Finding, TextSide | None]:
    """Make the tokens of all rows, and a text decoder for them."""
    module, content = cli.model, cli.datamodule.content
    texts: dict[str, tuple[list[str], list[str]]] = {}
    for source in content.sources:
        for name, split in source.corpus(content.seed).splits.items():
            inputs, targets = texts.setdefault(name, ([], []))
            inputs += split.inputs
            targets += split.targets or split.inputs
    try:
        rows = TokenRows(decoding, texts, module.lattice.tokens)
        example = _inputs(module.lattice, 2) if rows.inputs is None else rows.inputs["train"][:2]
        made = attached(
            module.lattice, decoding, rows, example.to(module.lattice.output_nodes.device), module.loss.tokens,
            module.lattice.channels, module.seed,
        )  # fmt: skip
    except (ValueError, OSError) as error:
        return Finding("text decoder", False, str(error)), None
    count = sum(p.numel() for p in made.parameters())
    text = f"{decoding.kind}, {count} numbers; {rows.tokenizer.vocab_size} token ids, rows of {decoding.length} tokens"
    return Finding("text decoder", True, f"{text}; {rows.cut} longer texts are cut"), made


def _inputs(model: LatticeModel, count: int) -> torch.Tensor:
    """Draw what a lattice takes: embeddings, or token ids."""
    generator, place = torch.Generator().manual_seed(0), model.output_nodes.device
    if model.tokens is None:
        return torch.randn(count, model.embedding_dim, generator=generator).to(place)
    length = len(model.input_nodes)
    return torch.randint(model.tokens["vocab_size"], (count, length), generator=generator).to(place)


def _execution(model: LatticeModel, batch: int) -> Finding:
    try:
        told = bind_step(model.cell, model.execution, model.gradient.recompute, batch * model.spec.num_nodes)[1]
    except ValueError as error:
        return Finding("execution", False, str(error))
    return Finding("execution", True, f"{told}; aggregation backend {model.cell.backend}")


def _memory(cli: RunCLI, batch: int, rows: int) -> Finding:
    model, module, content = cli.model.lattice, cli.model, cli.datamodule.content
    device = cli.trainer.strategy.root_device
    steps, trajectory = max(model.steps, module.unroll.high or 0), module.needs_trajectory
    context = cli.trainer.precision_plugin.forward_context
    try:
        step = step_memory(model, batch, steps, free_memory(device), trajectory, context)
    except (ValueError, RuntimeError) as error:
        return Finding("memory", False, _failed(error))
    shared = cli.trainer.num_devices if device.type == "cpu" else 1  # processes that take of the same memory
    # Vectors from a file are there already.
    texts = any(source.task != "vectors" for source in content.sources)
    embeddings = 2 * 4 * model.embedding_dim * rows if texts else 0  # inputs and targets
    need, free = shared * (step.total + (embeddings if device.type == "cpu" else 0)), free_memory(device)
    text = f"about {_size(need)} for the tensors of a training step of {batch} × {model.spec.num_nodes} cells (an "
    text += f"allocator may hold twice that); {_size(free)} free"
    if need <= free:
        return Finding("memory", True, text)
    remedy = "" if model.gradient.recompute else "set model.gradient: checkpointed, or "
    text = f"a training step must fit in memory; got {text}; {remedy}lower data.batch_size or model.channels."
    return Finding("memory", False, text)


def gradients(model: LatticeModel, batch: int = 2) -> Iterator[Finding]:
    """Measure the gradient at every expert, the gate, the other parts, and the input as seen through the volume."""
    generator = torch.Generator().manual_seed(0)
    place = model.cell.step.device
    sample, change = (torch.randn(max(2, batch), model.embedding_dim, generator=generator).to(place) for _ in range(2))
    model.fit_maps(sample, sample + change)
    embedding = sample[:batch].clone().requires_grad_() if model.tokens is None else None
    given = _inputs(model, batch) if embedding is None else embedding
    model.zero_grad()
    try:
        out = model(given).embedding
        answer = out - given if model.skip else out
        answer.square().sum().backward()
    except (ValueError, RuntimeError) as error:
        yield Finding("gradient", False, _failed(error))
        return
    parts: dict[str, nn.Module] = {f"expert {name}": expert for name, expert in model.cell.experts.items()}
    parts |= {"gate": model.cell.gate, "bypass": model.cell.bypass, "maps": model.transformer}
    for name, part in parts.items():
        grads = [p.grad for p in part.parameters() if p.grad is not None]
        yield _gradient(name, torch.stack([g.norm() for g in grads]).norm() if grads else torch.zeros(()))
    reached = next(model.mapper.parameters()).grad if embedding is None else embedding.grad
    name = "input through the volume" if embedding is not None else "token table through the volume"
    yield _gradient(name, torch.zeros(()) if reached is None else reached.norm())
    model.zero_grad()


def _gradient(name: str, norm: torch.Tensor) -> Finding:
    value = float(norm)
    ok = 0.0 < value < float("inf")
    remedy = "" if ok else "; nothing can be learned there: check experts, steps, ports and gradient"
    return Finding(f"gradient at {name}", ok, f"{value:.3g}{remedy}")


def _training(cli: RunCLI, batch: int, rows: int) -> Finding:
    """Time training steps on random embeddings, and project the run from them where its rows are known."""
    trainer, module = cli.trainer, cli.model
    epochs, batches = trainer.max_epochs or 0, rows // cli.datamodule.content.batch_size
    updates = epochs * math.ceil(batches / trainer.accumulate_grad_batches)
    module.updates = max(1, updates)
    try:
        first, seconds = _seconds(cli, batch)
    except (ValueError, RuntimeError) as error:
        return Finding("training step", False, _failed(error))
    text = f"{1e3 * seconds:.3g} ms a batch of {batch}, the first {first:.3g} s"
    if updates:
        total = seconds * epochs * batches
        text += f"; {epochs} epochs of {batches} batches, {updates} updates: projected {_duration(first + total)} for "
        text += "the lattice's updates alone, embedding, validation and baselines come on top"
    return Finding("training step", True, text)


def _seconds(cli: RunCLI, batch: int) -> tuple[float, float]:
    """Time the first training step, which compiles, and the median of a few more."""
    module, model, device = cli.model, cli.model.lattice, cli.trainer.strategy.root_device
    drawn = [module.unroll.steps(update, module.updates, module.seed) for update in range(module.updates)]
    steps = round(statistics.mean(model.steps if T is None else T for T in drawn))
    generator = torch.Generator().manual_seed(0)
    given, target = torch.randn(2, batch, model.embedding_dim, generator=generator).to(device)
    if model.tokens is not None:
        given = _inputs(model, batch)
    module.to(device)
    with quiet_engine():
        made: Any = module.configure_optimizers()
    durations: list[float] = []
    while len(durations) <= TIMED and sum(durations[1:]) < SECONDS:
        start = time.perf_counter()
        with cli.trainer.precision_plugin.forward_context():
            out = model.rollout(given, steps, trajectory=module.needs_trajectory)
            terms = module.criterion(out.embedding, target, out.trajectory, module.ponder(out, given))
            if module.text is not None:
                index = torch.arange(batch) % len(module.text.rows.targets["train"])
                terms["tokens"] = module.text.term(module.text.read(out), index)
            loss = torch.stack(list(terms.values())).sum()
        loss.backward()
        if cli.trainer.gradient_clip_val is not None:
            nn.utils.clip_grad_norm_(module.parameters(), cli.trainer.gradient_clip_val)
        made["optimizer"].step()
        made["optimizer"].zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        durations.append(time.perf_counter() - start)
    return durations[0], statistics.median(durations[1:])


def _failed(error: Exception) -> str:
    reason = " ".join(str(error).split()).rstrip(".")
    return f"a training step must run; it failed: {reason}; mend the experts, or choose execution: reference."


def _size(count: float) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count / 1e3:.1f} kB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
