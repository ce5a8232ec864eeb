"""The lattice as a model: joins geometry, cell and maps, and owns time."""

from __future__ import annotations

import functools
import inspect
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from latticegnn.lattice import (
    Keep,
    LatticeSpec,
    Ports,
    build_graph,
    check_light_cone,
    check_tiers,
    coordinates,
)
from latticegnn.nn import (
    EmbeddingToLatticeMapper,
    EmbeddingTransformer,
    Execution,
    Interior,
    LatticeCell,
    LatticeToEmbeddingExtractor,
    PortMap,
    Readout,
    Stochastic,
    VolumeStateInitializer,
    bind_step,
    build_modes,
    check_execution,
    port_maps,
    start_shift,
    step_size,
)
from latticegnn.pretrained import decoded, read_settings, read_weights, write
from latticegnn.resizing import rebuilt
from latticegnn.rollout import Intervention, Rollout

_SPEC, _INPUTS, _OUTPUTS = LatticeSpec(), Ports(face="z-"), Ports(face="z+")

logger = logging.getLogger("latticegnn")


@dataclass
class LatticeOutput:
    """What a rollout gives.

    Args:
        embedding: The answer in the teacher's space [B, D].
        code: What was read from the output ports and decoded [B, P], or [B, P·F] with readout "ports_full"; K in
            place of P where the code is an image.
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
        clamp: Lay the code on the input ports anew after every step, as a boundary condition (of a cellular automaton's
            clamped cells), rather than at step 0 alone. No output port may then be an input port.
        dynamics: Modes of propagation around the cell, name to settings, the first one innermost, see
            `latticegnn.nn.modes.build_modes`. Random firing draws anew in each rollout of a model in training, from
            torch's generator, and is the same in every rollout of one in evaluation.
        port_map: "direct": the code has one number for each port. "bilinear": it is an image of ``code_shape`` over the
            face, whatever the face's size, see `latticegnn.nn.image.interpolation`; what is decoded, too.
        code_shape: Sides of that image.
        reference: The lattice whose units the weights are in, see `latticegnn.nn.cell.slope_units`; `resized` sets it.
        seed: Of every random start.

    Shapes:
        - input: embedding [B, D]
        - output: `LatticeOutput`

    Raises:
        LightConeError: When the output ports lie outside the input ports' light cone.
        ValueError: For a value out of range, an unknown name, a clamped output port, or an embedding of another
            dimension.
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
        experts: dict[str, Any] | None = None,
        interior: Interior = "zeros",
        initialisation: Literal["shift", "random"] = "shift",
        gain: float = 1.0,
        require_light_cone: bool = True,
        backend: str = "auto",
        radial: bool = False,
        execution: Execution = "auto",
        checkpoint: bool = False,
        clamp: bool = False,
        dynamics: dict[str, dict[str, Any]] | None = None,
        port_map: PortMap = "direct",
        code_shape: tuple[int, int] | None = None,
        reference: LatticeSpec | None = None,
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
        self.lay, self.read, code, read = port_maps(port_map, code_shape, spec, inputs, outputs)
        self.settings: dict[str, Any] = {
            "spec": spec.to_dict(), "embedding_dim": embedding_dim, "channels": channels, "hidden": hidden,
            "steps": steps, "skip": skip, "readout": readout, "inputs": inputs.to_dict(), "outputs": outputs.to_dict(),
            "experts": experts, "interior": interior, "initialisation": initialisation, "gain": gain,
            "require_light_cone": require_light_cone, "backend": backend, "radial": radial, "execution": execution,
            "checkpoint": checkpoint, "clamp": clamp, "dynamics": dynamics, "port_map": port_map,
            "code_shape": code_shape and list(code_shape), "reference": reference and reference.to_dict(), "seed": seed,
        }  # fmt: skip
        self.spec, self.inputs, self.outputs, self.reference = spec, inputs, outputs, reference
        self.embedding_dim, self.channels, self.steps, self.skip, self.gain = embedding_dim, channels, steps, skip, gain
        self.teacher: Any = None
        self.execution, self.checkpoint, self.clamp = execution, checkpoint, clamp
        self.dynamics = build_modes(dynamics or {}, spec, inputs, outputs)
        self._told: set[str] = set()
        self.register_buffer("input_nodes", inputs.nodes(spec), persistent=False)
        self.register_buffer("output_nodes", outputs.nodes(spec), persistent=False)
        if clamp and bool(torch.isin(self.output_nodes, self.input_nodes).any()):
            raise ValueError(
                f"a clamped cell's state says nothing, so no output port may be one; got clamp with inputs on "
                f"{inputs.face} and outputs on {outputs.face} that share cells; read another face, or drop clamp."
            )
        place = coordinates(spec).double()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            step = step_size(spec, inputs, outputs, steps)
            self.cell = LatticeCell(spec, channels, hidden, experts, step, backend, radial, reference)
            if initialisation == "shift":
                start_shift(self.cell, spec, place[self.input_nodes], place[self.output_nodes], steps * step)
            centre = (torch.tensor(spec.shape) - 1) / 2
            ports = (place[self.input_nodes].float() - centre) / centre.clamp_min(0.5)
            self.mapper = EmbeddingToLatticeMapper(ports, channels)
            self.volume = VolumeStateInitializer(interior, spec.num_nodes, channels, code)
            self.extractor = LatticeToEmbeddingExtractor(readout, read, channels)
            self.transformer = EmbeddingTransformer(embedding_dim, code, self.extractor.width)

    def forward(self, embedding: Tensor) -> LatticeOutput:
        """Roll out the model's own number of steps."""
        return self.rollout(embedding)

    def rollout(
        self,
        embedding: Tensor,
        steps: int | None = None,
        trajectory: bool = False,
        start: Tensor | None = None,
        intervene: Intervention | None = None,
    ) -> LatticeOutput:
        """Carry embeddings through the lattice.

        Args:
            embedding: [B, D].
            steps: Steps to take, ≥ 0; the model's own by default.
            trajectory: Keep every state.
            start: States to go on from [B, N, F] in place of the embeddings' own; with ``clamp`` the code is laid on
                their input ports.
            intervene: Changes the states between steps, see `latticegnn.rollout.Intervention`.
        """
        count = self.steps if steps is None else steps
        if count < 0:
            raise ValueError(f"steps must not be negative; got {count}; take 0 or more.")
        self._check(embedding)
        code, nodes = self.transformer.encode(embedding).to(embedding.dtype), self.input_nodes  # autocast ends here
        own = self.volume(code).to(code.dtype).index_add(1, nodes, self.mapper(self.lay(code).to(code)))
        if start is not None and start.shape != own.shape:
            raise ValueError(
                f"start must hold a state [B, N, F] for each embedding, {list(own.shape)}; got {list(start.shape)}; "
                "take the state that an earlier rollout of as many embeddings gave."
            )
        run = Rollout(
            self._step(own.shape[0] * own.shape[1]),
            self.dynamics,
            own if start is None else start,
            (nodes, own[:, nodes]) if self.clamp else None,
            intervene,
            int(torch.randint(2**31, ())) if self.training and self._random else 0,
        )
        states = [run.state]
        for _ in range(count):
            state = run.step()
            if trajectory:
                states.append(state)
        read = self.extractor(self.read(run.state[:, self.output_nodes]))
        answer = self.transformer.decode(read).to(embedding.dtype)
        return LatticeOutput(
            embedding=embedding + answer if self.skip else answer,
            code=read,
            state=run.state,
            steps=torch.full((embedding.shape[0],), count, device=embedding.device),
            trajectory=torch.stack(states) if trajectory else None,
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

    def resized(self, shape: tuple[int, int, int], steps: int | None = None, keep: Keep = "cells") -> LatticeModel:
        """Return a model of another size with the very same weights, a copy; see `latticegnn.resizing.rebuilt`."""
        return rebuilt(self, shape, steps, keep)

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
        model = cls(**decoded(read_settings(folder, trust_code), list(inspect.signature(cls).parameters)))
        weights = read_weights(folder)
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(
                f"weights and configuration in {folder} must belong together; {error}; save the model again."
            ) from error
        return model.eval()

    @property
    def _random(self) -> bool:
        return any(isinstance(mode, Stochastic) for mode in self.dynamics.modules())

    def _check(self, embedding: Tensor) -> None:
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

    def _step(self, rows: int) -> Callable[[Tensor], Tensor]:
        step, chosen = bind_step(self.cell, self.execution, self.checkpoint, rows)
        if chosen not in self._told:
            self._told.add(chosen)
            logger.info("step: %s (execution: %s)", chosen, self.execution)
        return step
