"""The lattice as a model: joins geometry, cell and maps, and owns time."""

from __future__ import annotations

import functools
import inspect
import logging
import os
from collections.abc import Callable, Mapping
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
    EmbeddingTransformer,
    Execution,
    InputSurface,
    Interior,
    LatticeCell,
    LatticeToEmbeddingExtractor,
    OutputSurface,
    PortMap,
    Readout,
    Stochastic,
    Stopping,
    VolumeStateInitializer,
    bind_step,
    build_gradient,
    build_modes,
    build_stopping,
    check_embeddings,
    check_execution,
    check_gradient,
    check_tokens,
    input_mapper,
    port_maps,
    start_shift,
    step_size,
)
from latticegnn.pretrained import decoded, load_weights, read_settings, write
from latticegnn.resizing import rebuilt
from latticegnn.rollout import Intervention, Rollout, ending
from latticegnn.rollout import LatticeOutput as LatticeOutput

_SPEC, _INPUTS, _OUTPUTS = LatticeSpec(), Ports(face="z-"), Ports(face="z+")

logger = logging.getLogger("latticegnn")


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
        soft_tiers: Learn where tiers end, with edges of this softness in cells, see `latticegnn.nn.SoftTiers`.
        execution: How a step is computed, "auto", "reference", "fused" or "compiled", see `bind_step`; the numbers
            agree to rounding, and the log says which was chosen.
        gradient: How the gradient comes back through a rollout: "full", "checkpointed", {"truncated": {"steps": k}} or
            {"implicit": {…}}, see `latticegnn.nn.gradient`; None for "full". The states are the same in all of them.
        clamp: Lay the code on the input ports anew after every step, as a boundary condition (of a cellular automaton's
            clamped cells), rather than at step 0 alone. No output port may then be an input port.
        dynamics: Modes of propagation around the cell, name to settings, the first one innermost, see
            `latticegnn.nn.modes.build_modes`. Random firing draws anew in each rollout of a model in training, from
            torch's generator, and is the same in every rollout of one in evaluation.
        stopping: When a sample's rollout ends in evaluation, see `latticegnn.nn.build_stopping`; in training all
            samples take the same number of steps, T or the one drawn.
        port_map: "direct": the code has one number for each port. "bilinear": it is an image of ``code_shape`` over the
            face, whatever the face's size, see `latticegnn.nn.image.interpolation`; what is decoded, too.
        code_shape: Sides of that image.
        reference: The lattice whose units the weights are in, see `latticegnn.nn.cell.slope_units`; `resized` sets it.
        tokens: ``vocab_size`` V and ``pad_id`` of a tokenizer: the input are token ids [B, L], L ≤ P, in place of
            embeddings, see `TokenToLatticeMapper`. There is no A then; B still gives [B, D], D being the wanted
            embeddings' dimension, and ``port_map`` bears on the reading end alone.
        seed: Of every random start.

    Shapes:
        - input: embedding [B, D], or ids [B, L] with ``tokens``
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
        prefixes: list[int] | None = None,
        experts: dict[str, Any] | None = None,
        interior: Interior = "zeros",
        initialisation: Literal["shift", "random"] = "shift",
        gain: float = 1.0,
        require_light_cone: bool = True,
        backend: str = "auto",
        radial: bool = False,
        soft_tiers: float | None = None,
        execution: Execution = "auto",
        gradient: str | dict[str, dict[str, Any]] | None = None,
        clamp: bool = False,
        dynamics: dict[str, dict[str, Any]] | None = None,
        stopping: dict[str, Any] | None = None,
        port_map: PortMap = "direct",
        code_shape: tuple[int, int] | None = None,
        reference: LatticeSpec | None = None,
        tokens: dict[str, int] | None = None,
        seed: int = 0,
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
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
        check_tokens(tokens, skip, interior, inputs.zones(spec) is not None)
        check_tiers(spec)
        if require_light_cone:
            check_light_cone(spec, inputs, outputs, steps)
        self.lay, self.gather, code, read = port_maps(port_map, code_shape, spec, inputs, outputs)
        self.settings: dict[str, Any] = given | {
            "spec": spec.to_dict(), "inputs": inputs.to_dict(), "outputs": outputs.to_dict(),
            "code_shape": code_shape and list(code_shape), "reference": reference and reference.to_dict(),
        }  # fmt: skip
        self.spec, self.inputs, self.outputs, self.reference = spec, inputs, outputs, reference
        self.embedding_dim, self.channels, self.steps, self.skip, self.gain = embedding_dim, channels, steps, skip, gain
        self.teacher: Any = None
        self.execution, self.clamp, self.tokens = execution, clamp, tokens
        self.dynamics = build_modes(dynamics or {}, spec, inputs, outputs)
        self.gradient = build_gradient(gradient)
        check_gradient(self.gradient, steps, clamp, interior, self._random)
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
            self.cell = LatticeCell(spec, channels, hidden, experts, step, backend, radial, soft_tiers, reference)
            if initialisation == "shift":
                start_shift(self.cell, spec, place[self.input_nodes], place[self.output_nodes], steps * step)
            centre = (torch.tensor(spec.shape) - 1) / 2
            ports = (place[self.input_nodes[: inputs.count(spec)]].float() - centre) / centre.clamp_min(0.5)
            self.mapper = input_mapper(ports, channels, tokens)
            self.volume = VolumeStateInitializer(interior, spec.num_nodes, channels, code)
            self.extractor = LatticeToEmbeddingExtractor(readout, read, channels)
            self.transformer = EmbeddingTransformer(embedding_dim, None if tokens else code, self.extractor.width)
            self.entry, self.exit = InputSurface(spec, inputs, embedding_dim), OutputSurface(spec, outputs, prefixes)
            self.stopping = None if stopping is None else self.build_stopping(stopping)

    def forward(self, embedding: Tensor) -> LatticeOutput:
        """Roll out the model's own number of steps; in evaluation as far as its ``stopping`` says, where it has one."""
        return self.rollout(embedding)

    def rollout(
        self,
        embedding: Tensor,
        steps: int | None = None,
        trajectory: bool = False,
        start: Tensor | None = None,
        intervene: Intervention | None = None,
        stopping: Stopping | Mapping[str, Any] | None = None,
        ports: int | None = None,
    ) -> LatticeOutput:
        """Carry embeddings through the lattice.

        Args:
            embedding: [B, D].
            steps: Steps that all samples take, ≥ 0, whatever ``stopping`` the model has; its own by default.
            trajectory: Keep every state.
            start: States to go on from [B, N, F] in place of the embeddings' own; with ``clamp`` the code is laid on
                their input ports.
            intervene: Changes the states between steps, see `latticegnn.rollout.Intervention`; with ``steps`` given
                where the model has a ``stopping``, as samples that stop leave the batch.
            stopping: A rule, or its settings, in place of the model's own; acts in training mode, too, with a
                gradient through all steps: not beside truncated or implicit ones.
            ports: Output ports to read, the first ones in the placement's order; see `OutputSurface.keep`.
        """
        own = None if self.training else self.stopping
        mode = self.gradient if self.training and torch.is_grad_enabled() else None
        rule = ending(own, self.build_stopping, steps, stopping, intervene, mode)
        count = self.steps if steps is None else steps
        if count < 0:
            raise ValueError(f"steps must not be negative; got {count}; take 0 or more.")
        run = self.begin(embedding, start, intervene)
        course = run.take(count, self.gradient, trajectory) if rule is None else run.settle(rule, trajectory)
        answer, code = self.read(embedding, course.state, ports)
        return LatticeOutput(answer, code, course.state, course.steps, course.trajectory, course.settled)

    def begin(self, embedding: Tensor, start: Tensor | None = None, intervene: Intervention | None = None) -> Rollout:
        """Lay embeddings on the input ports and return the rollout at step 0; the arguments are those of `rollout`."""
        nodes = self.input_nodes
        if self.tokens is None:
            check_embeddings(embedding, self.embedding_dim)
            code = self.transformer.encode(embedding).to(embedding.dtype)  # autocast ends here
            laid = self.entry(self.mapper(self.lay(code).to(code)), embedding)
        else:
            laid = self.entry(self.mapper(embedding), embedding)
            code = laid[..., 0]  # no interior that token ids may have looks at its values
        own = self.volume(code).to(code.dtype).index_add(1, nodes, laid)
        if start is not None and start.shape != own.shape:
            raise ValueError(
                f"start must hold a state [B, N, F] for each embedding, {list(own.shape)}; got {list(start.shape)}; "
                "take the state that an earlier rollout of as many embeddings gave."
            )
        return Rollout(
            self._step(own.shape[0] * own.shape[1]),
            self.dynamics,
            own if start is None else start,
            (nodes, own[:, nodes]) if self.clamp else None,
            intervene,
            int(torch.randint(2**31, ())) if self.training and self._random else 0,
        )

    def read(self, embedding: Tensor, state: Tensor, ports: int | None = None) -> tuple[Tensor, Tensor]:
        """Read the answer off a state of the rollout that these embeddings began.

        Args:
            embedding: [B, D], which a model with ``skip`` adds.
            state: [B, N, F].
            ports: As for `rollout`.

        Returns:
            The answer in the teacher's space [B, D], and the code that was decoded, see `LatticeOutput`.
        """
        code = self.exit.keep(self.extractor(self.gather(self.exit(state[:, self.output_nodes]))), ports)
        answer = self.transformer.decode(code).to(embedding.dtype if self.tokens is None else self.decoder.weight.dtype)
        return embedding + answer if self.skip else answer, code

    def build_stopping(self, settings: Mapping[str, Any]) -> Stopping:
        """Build a rule for this model from settings, see `latticegnn.nn.build_stopping`."""
        cone = self.settings["require_light_cone"]
        rule = build_stopping(settings, self.spec, self.inputs, self.outputs, self.channels, self.steps, cone)
        return rule.to(self.output_nodes.device)

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
        if self.tokens is not None:
            raise ValueError(
                f"a teacher gives embeddings; got {teacher!r} for a lattice that takes token ids; give the ids to the "
                "model, or build it without tokens."
            )
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
        load_weights(model, folder)
        return model.eval()

    @property
    def _random(self) -> bool:
        return any(isinstance(mode, Stochastic) for mode in self.dynamics.modules())

    def _step(self, rows: int) -> Callable[[Tensor], Tensor]:
        step, chosen = bind_step(self.cell, self.execution, self.gradient.recompute, rows)
        if chosen not in self._told:
            self._told.add(chosen)
            logger.info("step: %s (execution: %s)", chosen, self.execution)
        return step
