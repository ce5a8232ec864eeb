"""The lattice as a networkx graph: degrees, clustering, communities, and a GraphML file that comes back whole.

Run it from anywhere: ``python examples/30_to_networkx.py`` (a few seconds).
"""

import tempfile
from collections import Counter
from pathlib import Path

import networkx as nx
import torch

import latticegnn as lg


def neighbourhoods(network: nx.DiGraph) -> nx.Graph:
    """Return the undirected graph of neighbours, the cells' own edges left out."""
    graph = nx.Graph(network.to_undirected())
    graph.remove_edges_from(list(nx.selfloop_edges(graph)))
    return graph


def main() -> None:
    """Export a lattice with a state, look at it with networkx, and read it back from a file."""
    spec = lg.LatticeSpec(shape=(6, 6, 6), radii=(0.5, 1.0, 1.5))
    model = lg.LatticeModel(spec, embedding_dim=32, steps=6, seed=0)
    with torch.no_grad():
        state = model(torch.randn(1, 32, generator=torch.Generator().manual_seed(0))).state
    network = lg.to_networkx(model.graph, state)
    print(f"{network.number_of_nodes()} nodes, {network.number_of_edges()} directed edges")
    tiers = Counter(tier for _, _, tier in network.edges(data="tier"))
    print("edges by tier: " + ", ".join(f"{tier} {count}" for tier, count in tiers.items()))

    graph = neighbourhoods(network)
    degrees = Counter(degree for _, degree in graph.degree)
    print("cells by number of neighbours: " + ", ".join(f"{count} have {k}" for k, count in sorted(degrees.items())))
    print(f"clustering {nx.average_clustering(graph):.3f}, diameter {nx.diameter(graph)} hops")
    faces = nx.Graph((a, b) for a, b, tier in network.edges(data="tier") if tier == "functional")
    print(f"face neighbours alone: clustering {nx.average_clustering(faces):.3f} (a cube has no triangles of edges)")

    communities = nx.community.louvain_communities(graph, seed=0)
    sizes = sorted((len(part) for part in communities), reverse=True)
    found = nx.community.modularity(graph, communities)
    print(f"communities (Louvain): {len(communities)} of sizes {sizes}, modularity {found:.3f}")
    print("  a lattice is the same everywhere: these are pieces of space, not structure that somebody put there")

    with tempfile.TemporaryDirectory() as folder:
        file = lg.write_graphml(network, Path(folder) / "lattice.graphml")
        size = file.stat().st_size / 1024
        back = lg.from_networkx(lg.read_graphml(file))
    same = all(torch.equal(back[name], model.graph[name]) for name in ("pos", "edge_index", "edge_tier", "edge_offset"))
    print(f"GraphML of {size:.0f} KiB: graph {'the same' if same else 'CHANGED'} after the round trip, ", end="")
    print(f"state {'the same to the last bit' if torch.equal(back.state, state[0]) else 'CHANGED'}")


if __name__ == "__main__":
    main()
