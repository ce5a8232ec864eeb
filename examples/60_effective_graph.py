"""The graph that a trained lattice makes of its own: communities, centralities, and whether it is a small world.

A 6×6×6 lattice learns to copy random codes from face to face. Then every edge is weighted by how much the receiving
cell's gate listens to it, and the graph is looked at with networkx, beside the same lattice with equal weights and
random graphs of equal degrees.

Run it from anywhere: ``python examples/60_effective_graph.py`` (half a minute of one core), or look at a run that is
done by ``--run runs/latest``. ``--output graph.gexf`` also writes the graph, with all that its nodes and edges carry.
"""

import argparse
import random
from pathlib import Path

import networkx as nx
import torch
from torch import nn

import latticegnn as lg
from latticegnn.analysis import effective_graph
from latticegnn.training.run_graph import graph_of_run


def train(model: lg.LatticeModel, updates: int) -> tuple[float, float]:
    """Teach the lattice to copy; return the share of variance that it leaves unexplained, before and after."""
    generator = torch.Generator().manual_seed(0)
    sample, fresh = (torch.randn(rows, model.embedding_dim, generator=generator) for rows in (2000, 256))
    model.fit_maps(sample, sample)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    with torch.no_grad():
        before = float((model(fresh).embedding - fresh).square().mean())
    for _ in range(updates):
        batch = torch.randn(32, model.embedding_dim, generator=generator)
        loss = (model(batch).embedding - batch).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        return before, float((model(fresh).embedding - fresh).square().mean())


def undirected(network: nx.DiGraph) -> nx.Graph:
    """Return who listens to whom at all: weights of both directions averaged, the cells' own edges left out.

    ``length`` is the mean weight over an edge's own: where all weights are equal, a path's length is its hops.
    """
    graph = nx.Graph()
    graph.add_nodes_from(network)
    for source, target, weight in network.edges(data="weight"):
        if source != target:
            known = graph.get_edge_data(source, target, {"weight": 0.0})["weight"]
            graph.add_edge(source, target, weight=known + weight / 2)
    return lengthened(graph)


def lengthened(graph: nx.Graph) -> nx.Graph:
    """Give every edge its length."""
    mean = sum(weight for *_, weight in graph.edges(data="weight")) / graph.number_of_edges()
    for _, _, values in graph.edges(data=True):
        values["length"] = mean / values["weight"]
    return graph


def equal(graph: nx.Graph) -> nx.Graph:
    """Return the same graph with equal weights."""
    copy = graph.copy()
    nx.set_edge_attributes(copy, 1.0, "weight")
    return lengthened(copy)


def shuffled(graph: nx.Graph, seed: int) -> nx.Graph:
    """Return a random graph in which every node has as many neighbours, the weights dealt anew."""
    copy = nx.Graph(graph.edges)
    swaps = 10 * copy.number_of_edges()
    nx.double_edge_swap(copy, swaps, max_tries=20 * swaps, seed=seed)
    weights = [weight for *_, weight in graph.edges(data="weight")]
    random.Random(seed).shuffle(weights)
    nx.set_edge_attributes(copy, dict(zip(copy.edges, weights, strict=True)), "weight")
    return lengthened(copy)


def small_world(graph: nx.Graph) -> tuple[float, float]:
    """Return the weighted clustering (Onnela et al., 2005) and the characteristic path length."""
    return nx.average_clustering(graph, weight="weight"), nx.average_shortest_path_length(graph, weight="length")


def main() -> None:
    """Train a lattice or open a run, and describe its effective graph."""
    parser = argparse.ArgumentParser(description="The effective graph of a lattice.")
    parser.add_argument("--run", type=Path, help="a run that is done, in place of a lattice trained here")
    parser.add_argument("--updates", type=int, default=200, help="of the lattice trained here")
    parser.add_argument("--output", type=Path, help="file for the graph: .graphml, .gexf or .json")
    given = parser.parse_args()
    torch.set_num_threads(1)  # a cube this small is faster on one
    if given.run is not None:
        network = graph_of_run(given.run)
    else:
        spec = lg.LatticeSpec(shape=(6, 6, 6), radii=(0.5, 1.0, 1.5))
        model = lg.LatticeModel(spec, embedding_dim=36, steps=7, readout="ports_full", seed=0)
        before, after = train(model, given.updates)
        print(f"unexplained before training {before:.3f}, after {given.updates} updates {after:.3f}")
        model.eval()
        network = effective_graph(model, torch.randn(32, 36, generator=torch.Generator().manual_seed(1)))
    cells, gates = dict(network.nodes(data=True)), dict(network.nodes(data="gate"))
    shares = [sum(gate[tier] for gate in gates.values()) / len(gates) for tier in lg.Tier]
    print("the gate listens, on the mean: " + ", ".join(f"{tier.name.lower()} {shares[tier]:.0%}" for tier in lg.Tier))

    graph = undirected(network)
    print(f"{graph.number_of_nodes()} cells, {graph.number_of_edges()} pairs of neighbours")
    plain = equal(graph)
    for name, each in (("gate-weighted", graph), ("equal weights", plain)):
        parts = nx.community.louvain_communities(each, weight="weight", seed=0)
        found = nx.community.modularity(each, parts, weight="weight")
        print(f"communities (Louvain), {name}: {len(parts)}, modularity {found:.3f}")

    between = nx.betweenness_centrality(graph, weight="length")
    heard = dict(network.out_degree(weight="weight"))
    arrivals = sorted({values["arrival"] for values in cells.values()})
    print("by the step at which the signal arrives: cells, how much they are heard, betweenness")
    for arrival in arrivals:
        own = [node for node, values in cells.items() if values["arrival"] == arrival]
        means = [sum(centrality[node] for node in own) / len(own) for centrality in (heard, between)]
        print(f"  {arrival:>3} {len(own):>5} {means[0]:>7.3f} {means[1]:>8.4f}")

    print("small world?   clustering  by chance   path length  by chance   sigma")
    chance = shuffled(graph, seed=0)
    for name, each, other in (("gate-weighted", graph, chance), ("equal weights", plain, equal(chance))):
        (clustering, length), (random_clustering, random_length) = small_world(each), small_world(other)
        sigma = (clustering / random_clustering) / (length / random_length)
        print(
            f"  {name:<13} {clustering:>9.3f} {random_clustering:>10.3f} {length:>13.3f} {random_length:>10.3f} "
            f"{sigma:>7.2f}"
        )
    print(
        "  by chance: a random graph with the same degrees and weights; sigma is one clustering ratio over one length"
    )
    print("  ratio (Humphries and Gurney, 2008). Clustering is relative to the largest weight: compare within a row")
    if given.output is not None:
        print(lg.write_network(network, given.output))


if __name__ == "__main__":
    main()
