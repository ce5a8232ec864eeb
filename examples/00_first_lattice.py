"""A first lattice: its tiers, who neighbours whom, how far a signal gets, and a signal that really gets there.

Run it from anywhere: ``python examples/00_first_lattice.py`` (a few seconds).
"""

import torch

import latticegnn as lg
from latticegnn.lattice import arrival, check_light_cone, tier_report

INPUTS, OUTPUTS = lg.Ports(face="z-"), lg.Ports(face="z+")


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


def send(spec: lg.LatticeSpec) -> None:
    """Send an embedding through an untrained model, and print when its trace reaches each layer."""
    model = lg.LatticeModel(spec, embedding_dim=64, steps=8, inputs=INPUTS, outputs=OUTPUTS, seed=0)
    embedding = torch.randn(1, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        sent = model.rollout(embedding, trajectory=True).trajectory
        blank = model.rollout(torch.zeros(1, 64), trajectory=True).trajectory
    # The trace of the signal is what it changes: cells act, a little, even where nothing has arrived.
    trace = (sent - blank).abs().amax(dim=(1, 3))  # [T + 1, N]
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


def main() -> None:
    """Describe the default lattice, then send something through it."""
    spec = lg.LatticeSpec(shape=(8, 8, 8))
    describe(spec)
    send(spec)


if __name__ == "__main__":
    main()
