"""A first lattice: its tiers, who neighbours whom, how far a signal gets, and a signal that really gets there.

Run it from anywhere: ``python examples/00_first_lattice.py`` (a few seconds).
"""

# %%
import torch

import latticegnn as lg
from latticegnn.lattice import arrival, check_light_cone, tier_report

SPEC = lg.LatticeSpec(shape=(8, 8, 8))
INPUTS, OUTPUTS = lg.Ports(face="z-"), lg.Ports(face="z+")


# %% [markdown]
# ## Tiers, neighbours, light cone
#
# Cells stand one apart on a grid. Whom a cell hears falls into three tiers by distance: the local tier (at this size
# the cell alone), the functional one (the faces' neighbours) and the distant one. In a step a signal moves one layer,
# so it needs seven from face to face; a model with fewer refuses to build.


# %%
def describe(spec: lg.LatticeSpec) -> None:
    """Print the tiers, the graph and the light cone."""
    print(f"lattice {spec.shape}: {spec.num_nodes} cells, largest radius {spec.max_radius:.2f} cells")
    for row in tier_report(spec):
        degree = f"{row['min_degree']} to {row['max_degree']} neighbours"
        print(f"  {row['tier']:<10}  {row['above']:.2f} < d <= {row['up_to']:.2f}   {degree}")
        if row["message"]:
            print(f"              {row['message']}")
    graph = lg.build_graph(spec, INPUTS, OUTPUTS)
    print(f"as a PyG graph: {graph.num_edges} edges, of which {spec.num_nodes} are the cells' own")
    needed = lg.steps_needed(spec, INPUTS, OUTPUTS)
    print(f"light cone: a signal from {INPUTS.face} needs {needed} steps to {OUTPUTS.face}")
    try:
        check_light_cone(spec, INPUTS, OUTPUTS, steps=needed - 2)
    except lg.LightConeError as error:
        print(f"with {needed - 2} steps a model is refused: {error}")


# %% tags=["active-ipynb"]
# describe(SPEC)

# %% [markdown]
# The cells with their ports, and one cell's neighbours by tier:

# %% tags=["active-ipynb"]
# from latticegnn.report import lattice_3d, signal_crossing
#
# lattice_3d(lg.build_graph(SPEC, INPUTS, OUTPUTS))

# %% [markdown]
# ## A signal that gets there
#
# An embedding enters at the face z = 0 of an untrained model. What it changes is compared with the same rollout without
# it, so a layer shows nothing, to the last bit, before the signal can have reached it.


# %%
def send(spec: lg.LatticeSpec) -> tuple[torch.Tensor, lg.LatticeModel]:
    """Send an embedding through an untrained model, and print when its trace reaches each layer.

    Returns:
        What the signal changed, [T + 1, N, F], and the model.
    """
    model = lg.LatticeModel(spec, embedding_dim=64, steps=8, inputs=INPUTS, outputs=OUTPUTS, seed=0)
    embedding = torch.randn(1, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        sent = model.rollout(embedding, trajectory=True).trajectory
        blank = model.rollout(torch.zeros(1, 64), trajectory=True).trajectory
    # The trace of the signal is what it changes: cells act, a little, even where nothing has arrived.
    change = (sent - blank)[:, 0]  # [T + 1, N, F]
    trace = change.abs().amax(dim=2)
    depth = model.graph.pos[:, 2].long()
    layers = torch.stack([trace[:, depth == z].amax(dim=1) for z in range(spec.shape[2])], dim=1)
    print("\nlargest change in each layer, step by step (a dot: not a single bit has changed)")
    print("step " + "".join(f"   z = {z}" for z in range(spec.shape[2])))
    for step, row in enumerate(layers.tolist()):
        print(f"{step:>4} " + "".join(f"{value:8.2g}" if value > 0 else "       ." for value in row))
    first = int((trace[:, model.output_nodes] > 0).any(dim=1).nonzero()[0])
    expected = int(arrival(spec, INPUTS, OUTPUTS).min())
    print(f"the signal arrives at {OUTPUTS.face} at step {first}; the light cone says {expected}")
    print(f"one cell of {model.parameter_counts()['cell']} parameters did all of it, untrained")
    return change, model


# %% tags=["active-ipynb"]
# change, model = send(SPEC)

# %% [markdown]
# The same as a picture: the light cone's front, and behind it the signal.

# %% tags=["active-ipynb"]
# signal_crossing(change, model.graph)


# %% tags=["active-py"]
def main() -> None:
    """Describe the default lattice, then send something through it."""
    describe(SPEC)
    send(SPEC)


if __name__ == "__main__":
    main()
