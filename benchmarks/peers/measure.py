"""Parity, speed, memory and quality of the peers, in one run."""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers import automata, environment, page, parity, sentences
from benchmarks.peers.process import ROOT, interleaved
from latticegnn.benchmarks.peer import CHANNELS, HIDDEN, Case
from latticegnn.benchmarks.results import Result, Table
from latticegnn.benchmarks.suite import Machine, check_writable

CAX = "CAX 0.3.3"
CASES = (Case(8, 32, 5), Case(16, 1, 5))
LIMIT, EPOCHS = 4000, 4
"""Sentences of all splits together, and the passes over those of the training split."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for, print it, and write the page."""
    parser = argparse.ArgumentParser(description="Measure this library beside its peers.")
    parser.add_argument("--rounds", type=int, default=5, help="Interleaved rounds; at least 5 for the page.")
    parser.add_argument("--markdown", type=Path, default=ROOT / "docs" / "peers.md", help="The page to write.")
    parser.add_argument("--json", type=Path, default=None, help="All rounds, for programs.")
    parser.add_argument("--quick", action="store_true", help="Small cases without CAX and sentences; no page.")
    given = parser.parse_args(arguments)
    if given.rounds < 1:
        raise ValueError(f"--rounds must be at least 1; got {given.rounds}; take 5.")
    for file in (given.json, None if given.quick else given.markdown):
        check_writable(file)
    python = None if given.quick else environment.python("cax")
    load = [os.getloadavg()[0]]
    made: list[Table] = []

    def show(table: Table) -> None:
        made.append(table)
        print(f"\n{Result('peers', [table], []).text()}\n", flush=True)

    show(page.same(compare(python)))
    speeds: dict[str, page.Found] = {}
    for case in (Case(4, 2, 2),) if given.quick else CASES:
        speeds[str(case)] = speed(case, given.rounds, python)
        show(page.timing(str(case), speeds[str(case)]))
    show(page.head_to_head(speeds))
    quality = {} if given.quick else texts(given.rounds)
    if quality:
        show(page.embeddings(quality))
    load.append(os.getloadavg()[0])
    if given.json is not None:
        content = {"machine": vars(Machine.here()), "load": load, "speed": speeds, "sentences": quality}
        given.json.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if not given.quick:
        given.markdown.write_text(page.written(Machine.here(), load, given.rounds, made), encoding="utf-8")
        print(f"written: {given.markdown}")
    return 0


def compare(python: Path | None) -> dict[str, parity.Difference]:
    """Hold the automata that claim to be the same against each other, over three steps; CAX where it is installed.

    Raises:
        ValueError: When they are not the same.
    """
    automaton, arrays = parity.reference(steps=3)
    found = {automata.OFFSETS: parity.offsets(automaton, arrays, 3)}
    if python is not None:
        found[CAX] = parity.cax(python, arrays, 3)
    for name, difference in found.items():
        parity.check(name, difference)
    return found


def speed(case: Case, rounds: int, python: Path | None) -> page.Found:
    """Time one case by variant: forward and training, in turn, each variant in a process of its own.

    Args:
        case: The cube, its batch, and the steps of a rollout.
        rounds: Of each variant.
        python: Interpreter of CAX's environment; None leaves CAX out.
    """
    print(case, flush=True)
    size = vars(case)
    starts: dict[str, tuple[Any, ...]] = {
        name: ("benchmarks.peers.automata", {"variant": name} | size) for name in automata.VARIANTS
    }
    if python is not None:
        sizes = size | {"channels": CHANNELS, "hidden": HIDDEN}
        starts[CAX] = ("benchmarks.peers.cax_automaton", sizes, python)
    work = case.side**3 * case.batch * case.steps
    return {name: figures | {"cell_steps": work} for name, figures in interleaved(starts, rounds).items()}


def texts(rounds: int) -> page.Found:
    """Train this library's lattice and what sentence-transformers offers, in turn, a seed a round."""
    print("sentences", flush=True)
    size = {"limit": LIMIT, "epochs": EPOCHS}
    starts = {name: ("benchmarks.peers.sentences", {"variant": name} | size) for name in sentences.VARIANTS}
    return interleaved(starts, rounds)
