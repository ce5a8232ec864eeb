"""The lattice as a model: joins geometry, cell and maps, and owns time."""

from __future__ import annotations

import difflib
import functools
import inspect
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from latticegnn.lattice import (
    LatticeSpec,
    Ports,
    Tier,
    build_graph,
    check_light_cone,
    check_tiers,
    coordinates,
    steps_needed,
)
from latticegnn.nn import (
    EmbeddingToLatticeMapper,
    EmbeddingTransformer,
    Execution,
    InputSurface,
    Interior,
    LatticeCell,
    LatticeToEmbeddingExtractor,
    OutputSurface,
    Plain,
    Readout,
    Stochastic,
    VolumeStateInitializer,
    bind_step,
    build_modes,
    check_execution,
)
from latticegnn.pretrained import read_settings, read_weights, write

_SPEC, _INPUTS, _OUTPUTS = LatticeSpec(), Ports(face="z-"), Ports(face="z+")

logger = logging.getLogger("latticegnn")


@dataclass
class LatticeOutput:
    """What a rollout gives.

    Args:
        embedding: The answer in the teacher's space [B, D].
        code: What was read from the output ports and decoded [B, P], or [B, P·F] with readout "ports_full".
        state: The last state [B, N, F].
        steps: Steps each sample took [B].
        trajectory: States 0 … T [T + 1, B, N, F], where asked for.
    """

    embedding: Tensor
    code: Tensor
    state: Tensor
    steps: Tensor
    trajectory: Tensor | None = None


class LatticeModel(nn.Module):
    r"""A teacher's embedding crosses a lattice of cells that share one small network.

    The embedding becomes a code of one number for each input port, the code a state on these ports; the shared cell is
    applied T times to all cells; the output ports are read and decoded into the teacher's space:

    .. math::
        x^0 = \mathrm{Init}(c) + \mathrm{Map}(c), \; c = A(e); \qquad x^{k+1} = \mathrm{Cell}(x^k); \qquad
        \hat e = B(\mathrm{Read}(x^T)) \;(+\, e \text{ with } \texttt{skip})

    Args:
        spec: The lattice.
        embedding_dim: D, the teacher's dimension.
        channels: F, numbers each cell holds.
        hidden: Width of the experts' hidden layers.
        steps: T, at least the light cone's need, see `latticegnn.lattice.steps_needed`.
        skip: Add the input embedding to the output: the lattice learns a change within one space.
        readout: "ports": one number a port; "ports_full": all channels.
        inputs: Where the code is laid.
        outputs: Where the answer is read.
        prefixes: Numbers of output ports, of an ordered placement, that training makes good each, see `OutputSurface`.
        experts: Tier name to expert, see `LatticeCell`.
        interior: Initial state of the other cells, see `VolumeStateInitializer`.
        initialisation: "shift" starts the cell's bypass as a shift from input to output ports; "random" does not.
        gain: Factor on the initial output of the decoder that `fit_maps` sets, > 0.
        require_light_cone: Refuse to build when the output ports are out of reach in ``steps`` steps. Off only to show
            that nothing is learned then.
        backend: Aggregation backend, see `latticegnn.aggregate.aggregator`.
        radial: Learn a weight for each distance between neighbours, see `LatticeCell`.
        execution: How a step is computed, "auto", "reference", "fused" or "compiled", see `bind_step`; the numbers
            agree to rounding, and the log says which was chosen.
        checkpoint: Keep each step's state alone for the backward pass and compute the rest again.
        dynamics: Modes of propagation around the cell, name to settings, the first one innermost, see
            `latticegnn.nn.modes.build_modes`. Random firing draws anew in each rollout of a model in training, from
            torch's generator, and is the same in every rollout of one in evaluation.
        seed: Of every random start.

    Shapes:
        - input: embedding [B, D]
        - output: `LatticeOutput`

    Raises:
        LightConeError: When the output ports lie outside the input ports' light cone.
        ValueError: For a value out of range, an unknown name, or an embedding of another dimension.
    """

    input_nodes: Tensor
    output_nodes: Tensor

    def __init__(
        self,
        spec: LatticeSpec = _SPEC,
        embedding_dim: int = 384,
        channels: int = 8,
        hidden: int = 16,
        steps: int = 8,
        skip: bool = False,
        readout: Readout = "ports",
        inputs: Ports = _INPUTS,
        outputs: Ports = _OUTPUTS,
        prefixes: list[int] | None = None,
        experts: dict[str, Any] | None = None,
        interior: Interior = "zeros",
        initialisation: Literal["shift", "random"] = "shift",
        gain: float = 1.0,
        require_light_cone: bool = True,
        backend: str = "auto",
        radial: bool = False,
        execution: Execution = "auto",
        checkpoint: bool = False,
        dynamics: dict[str, dict[str, Any]] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        counts = {"embedding_dim": embedding_dim, "channels": channels, "hidden": hidden, "steps": steps}
        for name, value in counts.items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number, at least 1; got {value!r}; set it to 1 or more.")
        if gain <= 0:
            raise ValueError(f"gain must be above 0; got {gain}; 1 is the default.")
        if initialisation not in ("shift", "random"):
            raise ValueError(f"initialisation must be shift or random; got {initialisation!r}; choose one of them.")
        check_execution(execution)
        check_tiers(spec)
        if require_light_cone:
            check_light_cone(spec, inputs, outputs, steps)
        self.settings: dict[str, Any] = {
            "spec": spec.to_dict(), "embedding_dim": embedding_dim, "channels": channels, "hidden": hidden,
            "steps": steps, "skip": skip, "readout": readout, "inputs": inputs.to_dict(), "outputs": outputs.to_dict(),
            "experts": experts, "interior": interior, "initialisation": initialisation, "gain": gain,
            "require_light_cone": require_light_cone, "backend": backend, "radial": radial, "execution": execution,
            "checkpoint": checkpoint, "dynamics": dynamics, "prefixes": prefixes, "seed": seed,
        }  # fmt: skip
        self.spec, self.inputs, self.outputs = spec, inputs, outputs
        self.embedding_dim, self.channels, self.steps, self.skip, self.gain = embedding_dim, channels, steps, skip, gain
        self.teacher: Any = None
        self.execution, self.checkpoint = execution, checkpoint
        self.dynamics = build_modes(dynamics or {}, spec, inputs, outputs)
        self._told: set[str] = set()
        self.register_buffer("input_nodes", inputs.nodes(spec), persistent=False)
        self.register_buffer("output_nodes", outputs.nodes(spec), persistent=False)
        place = coordinates(spec).double()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            step = min(1.0, (self._distance() + 1) / steps)
            self.cell = LatticeCell(spec, channels, hidden, experts, step, backend, radial)
            if initialisation == "shift":
                self._start_shift(place, step)
            centre = (torch.tensor(spec.shape) - 1) / 2
            ports = (place[self.input_nodes[: inputs.count(spec)]].float() - centre) / centre.clamp_min(0.5)
            self.mapper = EmbeddingToLatticeMapper(ports, channels)
            self.volume = VolumeStateInitializer(interior, spec.num_nodes, channels, len(ports))
            self.extractor = LatticeToEmbeddingExtractor(readout, outputs.count(spec), channels)
            self.transformer = EmbeddingTransformer(embedding_dim, len(ports), self.extractor.width)
            self.entry, self.exit = InputSurface(spec, inputs, embedding_dim), OutputSurface(spec, outputs, prefixes)

    def forward(self, embedding: Tensor) -> LatticeOutput:
        """Roll out the model's own number of steps."""
        return self.rollout(embedding)

    def rollout(
        self, embedding: Tensor, steps: int | None = None, trajectory: bool = False, ports: int | None = None
    ) -> LatticeOutput:
        """Carry embeddings through the lattice.

        Args:
            embedding: [B, D].
            steps: Steps to take, ≥ 0; the model's own by default.
            trajectory: Keep every state.
            ports: Output ports to read, the first ones in the placement's order; see `OutputSurface.keep`.
        """
        count = self.steps if steps is None else steps
        if count < 0:
            raise ValueError(f"steps must not be negative; got {count}; take 0 or more.")
        if embedding.dim() != 2 or embedding.shape[1] != self.embedding_dim:
            raise ValueError(
                f"embeddings must have shape [B, D] with D = {self.embedding_dim}; got {list(embedding.shape)}; "
                "embed with the teacher this model was built for."
            )
        finite = torch.isfinite(embedding).all(dim=1)
        if not bool(finite.all()):
            raise ValueError(
                f"embeddings must be finite; got nan or inf in {int((~finite).sum())} of {len(finite)} rows, first in "
                f"row {int((~finite).nonzero()[0])}; drop these rows or embed their texts again."
            )
        # Nodes first inside the loop: B and F are then one dense axis for the aggregation. Autocast ends at the maps.
        code, nodes = self.transformer.encode(embedding).to(embedding.dtype), self.input_nodes
        laid = self.entry(self.mapper(code), embedding)
        start = self.volume(code).to(code.dtype).index_add(1, nodes, laid).transpose(0, 1).contiguous()
        state, states = start, [start]
        for state in self._states(start, count):
            if trajectory:
                states.append(state)
        read = self.exit.keep(self.extractor(self.exit(state[self.output_nodes].transpose(0, 1))), ports)
        answer = self.transformer.decode(read).to(embedding.dtype)
        return LatticeOutput(
            embedding=embedding + answer if self.skip else answer,
            code=read,
            state=state.transpose(0, 1),
            steps=torch.full((embedding.shape[0],), count, device=embedding.device),
            trajectory=torch.stack(states).transpose(1, 2) if trajectory else None,
        )

    @functools.cached_property
    def graph(self) -> Data:
        """The lattice as a PyG graph with its ports, see `build_graph`; made when first asked for."""
        return build_graph(self.spec, self.inputs, self.outputs)

    def fit_maps(self, inputs: Tensor, targets: Tensor) -> None:
        """Start the maps into and out of the code from a sample, see `EmbeddingTransformer.fit`.

        Args:
            inputs: A sample of input embeddings [n, D].
            targets: The embeddings wanted for them [n, D].
        """
        wanted = targets - inputs if self.skip else targets
        self.transformer.fit(inputs, wanted, self.extractor.ports, scale=self.gain)

    @property
    def decoder(self) -> nn.Linear:
        """The linear map from what is read to the embedding."""
        return self.transformer.decoder

    def parameter_counts(self) -> dict[str, int]:
        """Count trainable numbers by part: cell, maps, total."""
        cell = sum(p.numel() for p in self.cell.parameters())
        total = sum(p.numel() for p in self.parameters())
        return {"cell": cell, "maps": total - cell, "total": total}

    def attach_teacher(self, teacher: Any) -> None:
        """Let `encode` take texts.

        Args:
            teacher: A `latticegnn.Teacher`, or anything with ``dim`` and ``encode(texts, batch_size)``.
        """
        if teacher.dim != self.embedding_dim:
            raise ValueError(
                f"the teacher's dimension must be the model's, {self.embedding_dim}; got {teacher.dim}; "
                "attach the teacher this model was trained with."
            )
        self.teacher = teacher

    @torch.no_grad()
    def encode(self, texts: list[str], batch_size: int = 32) -> np.ndarray:
        """Embed texts with the teacher and carry them through the lattice, in evaluation mode: [n, D], float32."""
        if self.teacher is None:
            raise ValueError(
                "encode needs a teacher; none is attached; call model.attach_teacher(lg.Teacher(…)) first."
            )
        vectors = torch.from_numpy(self.teacher.encode(texts, batch_size=batch_size))
        place, training = self.input_nodes.device, self.training
        self.eval()
        try:
            outputs = [self(batch.to(place)).embedding.cpu() for batch in vectors.split(batch_size)]
        finally:
            self.train(training)
        return torch.cat(outputs).numpy() if outputs else np.zeros((0, self.embedding_dim), dtype=np.float32)

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write ``config.json`` and ``model.safetensors`` into a folder; each file appears whole or not at all."""
        write(Path(path), self.settings, self.state_dict())

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], trust_code: bool = False) -> LatticeModel:
        """Build the model that `save_pretrained` wrote, in evaluation mode. Nothing pickled is read.

        Args:
            path: The folder.
            trust_code: Allow experts from outside latticegnn, torch and PyG; importing them runs their code.

        Raises:
            FileNotFoundError: When a file is missing.
            ValueError: When a file is damaged, of another format, or weights and configuration do not belong together.
        """
        folder = Path(path)
        model = cls(**_decode(read_settings(folder, trust_code)))
        weights = read_weights(folder)
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(
                f"weights and configuration in {folder} must belong together; {error}; save the model again."
            ) from error
        return model.eval()

    def _states(self, state: Tensor, count: int) -> Iterator[Tensor]:
        """Yield the states after each step, nodes first [N, B, F]."""
        advance = self._step(state.shape[0] * state.shape[1])
        if isinstance(self.dynamics, Plain):
            for _ in range(count):
                state = advance(state)
                yield state
            return

        def cell(x: Tensor) -> Tensor:
            return advance(x.transpose(0, 1).contiguous()).transpose(0, 1)

        random = self.training and any(isinstance(mode, Stochastic) for mode in self.dynamics.modules())
        first = int(torch.randint(2**31, ())) if random else 0
        x = state.transpose(0, 1)
        memory = self.dynamics.start(x)
        for at in range(first, first + count):
            x, memory = self.dynamics(cell, x, memory, at)
            yield x.transpose(0, 1)

    def _distance(self) -> int:
        """Light-cone steps from input to output ports; the lattice's longest side where they are out of reach."""
        try:
            return steps_needed(self.spec, self.inputs, self.outputs)
        except ValueError:
            return max(self.spec.shape) - 1

    def _step(self, rows: int) -> Callable[[Tensor], Tensor]:
        step, chosen = bind_step(self.cell, self.execution, self.checkpoint, rows)
        if chosen not in self._told:
            self._told.add(chosen)
            logger.info("step: %s (execution: %s)", chosen, self.execution)
        return step

    def _start_shift(self, place: Tensor, step: float) -> None:
        way = place[self.output_nodes].mean(dim=0) - place[self.input_nodes].mean(dim=0)
        sides = torch.tensor(self.spec.shape, dtype=way.dtype)
        around = (way / sides).round() * sides  # a periodic axis is crossed the short way round
        way = torch.where(torch.tensor(self.spec.periodic), way - around, way)
        way[way.abs() < 1e-9] = 0.0
        length = float(way.norm())
        moving = [axis for axis in range(3) if way[axis] != 0]
        spread = self.cell.spread
        # The local tier, whose mean counts the cell itself, carries where there is no other.
        able = self.cell.reaching if len(self.cell.reaching) == 1 else set(self.cell.reaching) - {Tier.LOCAL}
        carriers = [t for t in sorted(able) if all(spread[t][axis] > 0 for axis in moving)]
        if length < 1e-9 or not carriers:
            return
        speed = length / (self.steps * step)
        reach = dict(zip(Tier, self.spec.thresholds, strict=True))
        carrier = next((t for t in carriers if reach[t] >= speed), carriers[-1])
        self.cell.start_shift((way / length * speed).tolist(), carrier)


def _decode(settings: Mapping[str, Any]) -> dict[str, Any]:
    known = inspect.signature(LatticeModel).parameters
    for key in settings:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}."
            raise ValueError(f"a model's configuration has the arguments of LatticeModel; got {key!r}; {hint}")
    decoded = dict(settings)
    for key, make in {"spec": LatticeSpec.from_dict, "inputs": Ports.from_dict, "outputs": Ports.from_dict}.items():
        if decoded.get(key) is not None:
            decoded[key] = make(decoded[key])
    return decoded
