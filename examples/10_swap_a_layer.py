"""A layer of your own: forty lines, two lines of test, one line of configuration.

`Diffuse` lets each cell listen to its neighbours, the nearer the louder; how fast that fades with distance is learned,
for each channel. It then serves as the expert of the distant tier, named by ``file.py:Class`` as in a configuration::

    experts:
      distant: {class_path: "examples/10_swap_a_layer.py:Diffuse", init_args: {fade: 0.5}}

Run it from anywhere: ``python examples/10_swap_a_layer.py`` (about ten seconds). Run its test with
``pytest examples/10_swap_a_layer.py``.
"""

# %%
from pathlib import Path

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

import latticegnn as lg
from latticegnn.testing import LayerContract

# %% [markdown]
# ## The layer
#
# PyG's `MessagePassing` with `node_dim=-2`, so that a whole batch, `[B, N, F]`, goes over the one graph. All cells
# share these few numbers.


# %%
class Diffuse(MessagePassing):
    r"""What flows in from the neighbours, fading with distance: :math:`W \sum_j e^{-k d_{ij}} (x_j - x_i)`.

    Args:
        in_channels: F.
        out_channels: F.
        fade: Initial k, per cell of distance, the same for every channel.

    Shapes:
        - x [B, N, F], edge_index [2, E], edge_attr [E, 1] (distance in cells)
        - output [B, N, F]
    """

    def __init__(self, in_channels: int, out_channels: int, fade: float = 0.5) -> None:
        super().__init__(aggr="sum", node_dim=-2)
        self.fade = nn.Parameter(torch.full((in_channels,), fade))
        self.outer = nn.Linear(in_channels, out_channels, bias=False)

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        """Let the neighbours flow in."""
        return self.outer(self.propagate(edge_index, x=x, edge_attr=edge_attr))

    def message(self, x_i: Tensor, x_j: Tensor, edge_attr: Tensor) -> Tensor:
        """Weigh one neighbour's difference."""
        return torch.exp(-self.fade * edge_attr) * (x_j - x_i)


# %% [markdown]
# ## Two lines of test
#
# They collect what every layer owes: shape, batch = singles, any order of edges, relabelling, translation, locality,
# and gradients that are right and reach everything. pytest runs them; here each is called by hand.


# %%
class TestDiffuse(LayerContract):  # noqa: D101
    layer = Diffuse


# %% tags=["active-ipynb"]
# for test in [name for name in dir(TestDiffuse) if name.startswith("test_")]:
#     getattr(TestDiffuse(), test)()
#     print(test, "holds")

# %% [markdown]
# ## In a lattice
#
# Random codes are laid on one face of a small cube and wanted on the other: once with the default expert in the distant
# tier, once with ours.


# %%
def score(model: lg.LatticeModel, code: Tensor) -> Tensor:
    """Return the error of codes carried through the lattice, relative to their variance (1: nothing arrives)."""
    state = model.volume(code).index_add(1, model.input_nodes, model.mapper(code))
    for _ in range(model.steps):
        state = model.cell(state)
    return (model.extractor(state[:, model.output_nodes]) - code).square().mean()


def train(model: lg.LatticeModel, updates: int) -> tuple[float, float]:
    """Teach the lattice to copy random codes from one face to the other; return the error before and after."""
    generator = torch.Generator().manual_seed(0)
    held_out = torch.randn(256, len(model.input_nodes), generator=generator)
    parameters = [p for part in (model.cell, model.mapper, model.extractor) for p in part.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=5e-3)
    with torch.no_grad():
        before = float(score(model, held_out))
    for _ in range(updates):
        loss = score(model, torch.randn(32, held_out.shape[1], generator=generator))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    with torch.no_grad():
        return before, float(score(model, held_out))


def compare(class_path: str) -> dict[str, lg.LatticeModel]:
    """Train the same lattice with its default expert and with ours; return both."""
    torch.set_num_threads(1)  # a cube this small is faster on one
    spec = lg.LatticeSpec(shape=(4, 4, 4), radii=(0.5, 1.0, 1.5))
    ours = {"class_path": class_path, "init_args": {"fade": 0.5}}
    models = {}
    print("copying random codes across a 4x4x4 cube, 150 updates; error on fresh codes, 1 = nothing arrives")
    for name, experts in (("default", None), ("Diffuse", {"distant": ours})):
        models[name] = model = lg.LatticeModel(spec, embedding_dim=16, steps=4, experts=experts, seed=0)
        before, after = train(model, updates=150)
        size = model.parameter_counts()["cell"]
        print(f"  distant tier: {name:<8} cell of {size} parameters   before {before:.3f}   after {after:.3f}")
    print("one cube and one seed say that the layer works, not which of the two is better")
    return models


# %% tags=["active-ipynb"]
# models = compare("__main__.Diffuse")  # from a configuration: "examples/10_swap_a_layer.py:Diffuse"

# %% [markdown]
# What `Diffuse` has learned: how loud a neighbour is at a distance, a line for each channel. All began at the dashed
# one; in this lattice the distant tier has neighbours at the dotted distance alone.

# %% tags=["active-ipynb"]
# import matplotlib.pyplot as plt
#
# distance = torch.linspace(0, 2, 50).unsqueeze(1)
# fade = models["Diffuse"].cell.experts["distant"].layer.fade.detach()
# plt.plot(distance, torch.exp(-fade * distance))
# plt.plot(distance, torch.exp(-0.5 * distance), "k--")
# plt.axvline(2**0.5, color="black", linestyle=":")
# plt.xlabel("distance in cells")
# plt.ylabel("weight");


# %% tags=["active-py"]
def main() -> None:
    """Train both lattices."""
    compare(f"{Path(__file__).resolve()}:Diffuse")


if __name__ == "__main__":
    main()
