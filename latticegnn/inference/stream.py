"""Prediction of any number of inputs in constant memory, in their order, none lost and none twice."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from latticegnn.inference.inputs import Inputs, Item
from latticegnn.inference.outputs import Output
from latticegnn.nn import Generation
from latticegnn.predictor import Output as Kind
from latticegnn.predictor import Predictor

OnError = Literal["stop", "skip"]


@dataclass
class Summary:
    """What became of the inputs.

    Args:
        lines: Inputs that were done, by earlier runs, too.
        before: How many of them were done by earlier runs.
        bad: Those that could not be used, in this run.
        truncated: Texts that were longer than the teacher reads, and were cut, in this run.
    """

    lines: int = 0
    before: int = 0
    bad: int = 0
    truncated: int = 0


@dataclass(frozen=True)
class Wanted:
    """What is predicted of each input; see `Predictor.predict`.

    Args:
        output: "embedding", "text" or "answers".
        k: Answers.
        generation: Of texts.
    """

    output: Kind = "embedding"
    k: int = 5
    generation: Generation | None = None


def stream(
    predictor: Predictor,
    opened: Callable[[], Inputs],
    output: Output,
    wanted: Wanted,
    batch_size: int = 64,
    on_error: OnError = "stop",
    report: Callable[[int, str], None] = lambda line, fault: None,
    summary: Summary | None = None,
) -> Summary:
    """Predict every input and write it to an output, a batch at a time.

    Args:
        predictor: The model.
        opened: Opens the inputs from the first.
        output: Where rows go; one that an earlier run left is gone on with.
        wanted: What is predicted.
        batch_size: Inputs that are read, predicted and committed together, at least 1.
        on_error: At an input that cannot be used: "stop" with those before it done; "skip" writes a row with its
            ``error``.
        report: Told line and fault of each input that is skipped.
        summary: Counts that are added to, so that they are known when this is broken off.

    Raises:
        ValueError: When the inputs are not those that the output began with, or, with "stop", one cannot be used.
    """
    inputs, summary = opened(), summary or Summary()
    if output.before is not None:
        _skip(inputs, output.before.lines)
        if inputs.digest() != output.before.digest and output.before.lines:
            raise ValueError(
                f"an output goes on with the inputs it began with; the first {output.before.lines:,} lines of "
                f"{inputs.name} have changed since; restore them, or write to another file."
            )
        if output.lines < output.before.lines:
            inputs = opened()
            _skip(inputs, output.lines)
    summary.lines = summary.before = output.lines
    while batch := list(itertools.islice(inputs, batch_size)):
        values: Any = [item.value for item in batch if item.value is not None]
        ready = predictor.ready(values if inputs.dim is None else np.stack(values))
        faults = _faults(batch, ready.bad)
        stop = min(faults, default=None) if on_error == "stop" else None
        sound = np.delete(ready.rows, list(ready.bad), axis=0)
        found = iter(predictor.predict_ready(sound, wanted.output, wanted.k, wanted.generation))
        rows = [(item.line, {"error": faults[item.line]} if item.line in faults else next(found)) for item in batch]
        output.write([row for row in rows if stop is None or row[0] < stop])
        if stop is not None:  # what was read is more than what is done: the batch is not committed
            raise ValueError(f"{inputs.name}, line {stop}: {faults[stop]}")
        for line, fault in faults.items():
            summary.bad += 1
            report(line, fault)
        summary.lines += len(batch)
        summary.truncated += ready.truncated
        output.commit(summary.lines, inputs.digest())
    output.complete()
    return summary


def _faults(batch: Sequence[Item], bad: Mapping[int, str]) -> dict[int, str]:
    """Say what is wrong with which lines: with the items themselves, and with their values, by their number."""
    lines = [item.line for item in batch if item.value is not None]
    found = {item.line: item.fault for item in batch if item.fault is not None}
    found |= {lines[row]: fault for row, fault in bad.items()}
    return dict(sorted(found.items()))


def _skip(inputs: Inputs, lines: int) -> None:
    for _ in itertools.islice(inputs, lines):
        pass
