"""The convolutional automaton in CAX, as a measured process and as one step of given weights.

Runs in the environment that `requirements-cax.txt` names; this library is not installed there.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from cax.core import ComplexSystem
from cax.core.perceive import ConvPerceive
from cax.core.update import ResidualUpdate
from flax import nnx

from benchmarks.peers.child import Round, serve, timed


class Automaton(ComplexSystem):
    """Depthwise 3×3×3 perception C -> 4C, a perceptron with ReLU in every cell, added to the state.

    Shapes:
        - input, output: state [B, X, Y, Z, C]
    """

    def __init__(self, channels: int, hidden: int, rngs: nnx.Rngs) -> None:
        self.perceive = ConvPerceive(
            channels, 4 * channels, kernel_size=(3, 3, 3), feature_group_count=channels, rngs=rngs
        )
        self.update = ResidualUpdate(3, channels, 4 * channels, (hidden,), rngs=rngs)

    def _step(self, state: Any, input: Any = None, *, sow: bool = False) -> Any:
        return self.update(state, self.perceive(state), input)


def loss(automaton: Automaton, state: Any, steps: int) -> Any:
    """Compute the mean square of the last state."""
    return jnp.mean(jnp.square(automaton(state, num_steps=steps)))


gradients = nnx.value_and_grad(loss, argnums=(nnx.DiffState(0, nnx.Param), 1))


def prepare(
    side: int, batch: int, steps: int, channels: int, hidden: int, weights: str | None = None
) -> tuple[dict[str, Any], Round]:
    """Get the automaton ready to be timed, see `benchmarks.peers.child.serve`; or, with weights, to be compared.

    Args:
        side: Of the cube.
        batch: Samples.
        steps: Of a rollout.
        channels: Numbers a cell holds.
        hidden: Units of the perceptron.
        weights: A file of arrays, see `benchmarks.peers.parity`; the round then writes beside it what comes of them.
    """
    automaton = Automaton(channels, hidden, nnx.Rngs(0))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(automaton, nnx.Param)))
    if weights is not None:
        return {"parameters": parameters}, lambda number: compared(automaton, weights, steps)
    # Torch's defaults; so small a rate leaves the numbers, and with them the time, as they are.
    optimizer = nnx.Optimizer(automaton, optax.adamw(1e-8, weight_decay=0.01), wrt=nnx.Param)
    state = jax.random.normal(jax.random.key(0), (batch, side, side, side, channels))

    @nnx.jit
    def train(automaton: Automaton, optimizer: nnx.Optimizer, state: Any) -> Any:
        value, (of_weights, of_state) = gradients(automaton, state, steps)
        optimizer.update(automaton, of_weights)
        return value, of_state

    first, make_round = timed(
        {
            "forward": lambda: automaton(state, num_steps=steps).block_until_ready(),
            "training": lambda: jax.block_until_ready(train(automaton, optimizer, state)),
        }
    )
    return {"parameters": parameters, "first_seconds": sum(first.values())}, make_round


def compared(automaton: Automaton, file: str, steps: int) -> dict[str, Any]:
    """Take over weights, and write the last state and all gradients into the file with ``-cax`` added to its name."""
    given = np.load(file)
    layers = {"perception": automaton.perceive.conv}
    layers |= dict(zip(("inner", "outer"), automaton.update.layers, strict=True))
    for name, layer in layers.items():
        layer.kernel[...] = jnp.asarray(given[f"{name}.weight"].transpose(2, 3, 4, 1, 0))
        if name != "perception":
            layer.bias[...] = jnp.asarray(given[f"{name}.bias"])
    state = jnp.asarray(np.moveaxis(given["state"], 1, -1))
    _, (of_weights, of_state) = gradients(automaton, state, steps)
    flat = {"perception.weight": of_weights["perceive"]["conv"]["kernel"]}
    for number, name in enumerate(("inner", "outer")):
        flat[f"{name}.weight"] = of_weights["update"]["layers"][number]["kernel"]
        flat[f"{name}.bias"] = of_weights["update"]["layers"][number]["bias"]
    found = {f"grad {name}": np.asarray(value[...]) for name, value in flat.items()}
    found = {k: v.transpose(4, 3, 0, 1, 2) if v.ndim == 5 else v for k, v in found.items()}
    found["grad state"] = np.moveaxis(np.asarray(of_state), -1, 1)
    found["last"] = np.moveaxis(np.asarray(automaton(state, num_steps=steps)), -1, 1)
    written = file.replace(".npz", "-cax.npz")
    np.savez(written, **found)  # type: ignore[arg-type]
    return {"written": written}


if __name__ == "__main__":
    serve(prepare)
