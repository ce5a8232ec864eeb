"""What was measured, as tables and as a page that says what they mean."""

from collections.abc import Mapping, Sequence
from statistics import mean, median, stdev
from typing import Any

from benchmarks.peers import automata, parity, sentences
from latticegnn.benchmarks.peer import CHANNELS, CONV, HIDDEN
from latticegnn.benchmarks.results import Result, Row, Table
from latticegnn.benchmarks.suite import Machine

Found = Mapping[str, Mapping[str, Any]]
METRICS = ("fvu", "cosine", "neighbour_recall@10")


def same(differences: Mapping[str, parity.Difference]) -> Table:
    """Lay out how far the implementations of the one automaton are from Conv3d's."""
    rows = [{"against Conv3d": n, "last state": f"{d.last:.1e}", "gradients": f"{d.gradient:.1e}"}
            for n, d in differences.items()]  # fmt: skip
    note = (
        "The same weights and first state, 5×4×6 cells, batch 2, three steps, float32: largest difference of the last "
        "state, and of the gradients of its mean square with respect to all weights and the first state, as parts of "
        f"the largest number. More than {parity.TOLERANCE:g} stops the run before anything is timed."
    )
    return Table("Do they compute the same?", note, rows)


def timing(case: str, found: Found) -> Table:
    """Lay out one case: times, ratios to Conv3d by round, memory, first calls."""
    rows: list[Row] = []
    for name, figures in found.items():
        unit = 1e3 / figures["cell_steps"]
        rows.append(
            {
                "variant": name,
                "parameters": figures["parameters"],
                "forward, µs": unit * median(column(figures, "forward")),
                "forward ÷ Conv3d": ratio(figures, found[CONV], "forward"),
                "training, µs": unit * median(column(figures, "training")),
                "training ÷ Conv3d": ratio(figures, found[CONV], "training"),
                "peak MB": figures["peak_mb"],
                "libraries MB": figures["libraries_mb"],
                "first calls s": figures["first_seconds"],
            }
        )
    note = (
        f"{CHANNELS} channels, 26 neighbours, {HIDDEN} hidden units (ours where nothing is said: as many as make the "
        "number of parameters Conv3d's), float32. µs of CPU time for a cell and a step, medians over the rounds; "
        "training is forward, backward and AdamW. ÷ Conv3d: this variant's time over eager Conv3d's in the same "
        "round, median [least – greatest]; above 1 is slower. Peak resident memory of the process during the rounds, "
        "and what its libraries take before any work; what compiling leaves behind is in the peak. First calls, one of "
        "each kind, by the clock, with all that is compiled then."
    )
    return Table(f"Automata, {case}", note, rows)


def head_to_head(speeds: Mapping[str, Found]) -> Table:
    """Lay out how much longer each peer takes than ours."""
    rows: list[Row] = []
    for case, found in speeds.items():
        for peer in (name for name in found if not name.startswith("ours")):
            row: dict[str, Any] = {"case, peer": f"{case}: {peer}"}
            for own in (name for name in found if name.startswith("ours")):
                row[f"÷ {own}"] = ratio(found[peer], found[own], "training")
            rows.append(row)
    note = (
        "A training step of the peer over ours in the same round, median [least – greatest]: above 1 we are faster, "
        f"below 1 the peer is. “{automata.OFFSETS}” is the same automaton, to rounding; the others are our native "
        "cell, another automaton of the same neighbourhood: it sees a mean and three differences of 6 and of 20 "
        "neighbours in place of 27 free weights a channel, with Conv3d's number of parameters or its hidden width."
    )
    return Table("Head to head, training", note, rows)


def embeddings(quality: Found) -> Table:
    """Lay out what is left of sentence embeddings after 64 numbers, and what that took."""
    rows: list[Row] = []
    for name, figures in quality.items():
        row: dict[str, Any] = {"model": name, "parameters": figures["rounds"][0]["parameters"]}
        row |= {"updates": figures["updates"]}
        row |= {metric: deviation(column(figures, metric)) for metric in METRICS}
        row["training, s"] = median(column(figures, "seconds"))
        row["ours ÷ it"] = ratio(quality[sentences.LATTICE], figures, "seconds")
        rows.append(row)
    facts = next(iter(quality.values()))
    note = (
        f"all-MiniLM-L6-v2 embeddings of {facts['rows']:,} sentences to learn from and {facts['held_out']:,} held-out "
        "ones, 384 numbers through 64 and back; mean ± standard deviation over the rounds, each a seed. FVU, the part "
        "of the variance that is lost, is better low, the others high. Ours: `configs/autoencode.yaml`, cut to "
        f"{facts['epochs']} epochs, a start from whitened PCA; its seconds are those of the whole run, with Lightning, "
        "validation, checkpoints, the solved readout and the table of held-out rows, and its first round compiles. "
        "sentence-transformers: PCA's axes as a `Dense` without bias (its recipe) and PCA's inverse as the way back; a "
        "linear `Dense` student 384 → 64 → 384 "
        f"under `MSELoss` from a random start, in batches of {sentences.BATCH}, the best of {len(sentences.RATES)} "
        "rates by the validation rows, whose time alone counts. Seconds are CPU time; ours ÷ it above 1: the peer is "
        "faster."
    )
    return Table("Embeddings through 64 numbers", note, rows)


def written(machine: Machine, load: Sequence[float], rounds: int, made: Sequence[Table]) -> str:
    """Write the page."""
    head = (
        "# Beside its peers\n\n"
        f"{machine}. Load average {load[0]:.1f} at the start and {load[1]:.1f} at the end.\n\n"
        "Made by `python benchmarks/peers/run.py` (`make peers`), in one run. Each variant lives in a process of its "
        f"own, with one thread on the same core; in each of the {rounds} rounds each runs once, in turn, so that other "
        "load on the machine meets all of them. Times are CPU time unless a table says otherwise. Trust ratios more "
        "than microseconds.\n\n"
        "The peers: a neural cellular automaton written by hand with PyTorch's Conv3d (depthwise 3×3×3 perception, a "
        "perceptron in every cell, `channels_last_3d`), eager and compiled; the same automaton in "
        "[CAX](https://github.com/maxencefaldor/cax) on JAX's CPU build, jitted; a layer after "
        "[E(n)-GNCA](https://github.com/gengala/egnca), which computes a message on every edge, written anew on PyG "
        "and without its moving coordinates; and, for embeddings, sentence-transformers.\n\n"
    )
    return head + Result("peers", made, []).markdown() + "\n"


def column(figures: Mapping[str, Any], part: str) -> list[float]:
    """Return one figure of all rounds."""
    return [found[part] for found in figures["rounds"]]


def ratio(own: Mapping[str, Any], other: Mapping[str, Any], part: str) -> str:
    """Divide what two peers took, round by round: the median and the range."""
    found = [a / b for a, b in zip(column(own, part), column(other, part), strict=True)]
    return f"{median(found):.3g} [{min(found):.3g} – {max(found):.3g}]"


def deviation(found: Sequence[float]) -> str:
    """Return the mean and the standard deviation."""
    return f"{mean(found):.3f} ± {stdev(found) if len(found) > 1 else 0.0:.3f}"
