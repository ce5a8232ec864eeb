"""The command line. Each command imports what it needs when it is called, so that ``--help`` is quick."""

from __future__ import annotations

import difflib
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

USAGE = """usage: latticegnn COMMAND [options]      latticegnn COMMAND --help

  fit         train a lattice and hold it against its baselines
  describe    tiers, degrees, light cone and size of a lattice
  doctor      say whether a configuration is ready to run
  experiment  train variants of a configuration over several seeds, or search a space of settings
  analyse     look closer at a run that is done
  predict     answers, texts or embeddings of a trained lattice, from a file, a pipe or the command line
  index       embed answers that a trained lattice chooses from
  export      write a lattice as GraphML
  serve       answer requests over HTTP by a trained model
  cache       list, verify or prune the embeddings that are kept on disk
  bench       measure speed and memory, and hold them against what is claimed
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; a user's mistake prints one line and gives exit status 2."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if words else 2
    if words[0] == "--version":
        from latticegnn import __version__

        print(f"latticegnn {__version__}")
        return 0
    if words[0] not in COMMANDS:
        near = difflib.get_close_matches(words[0], COMMANDS, n=1)
        hint = f"Did you mean '{near[0]}'?" if near else "See latticegnn --help."
        print(f"latticegnn: unknown command {words[0]!r}; there are {', '.join(COMMANDS)}. {hint}", file=sys.stderr)
        return 2
    try:
        return COMMANDS[words[0]](words[1:])
    except (ValueError, OSError, FloatingPointError, ModuleNotFoundError) as error:
        print(f"latticegnn: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("latticegnn: interrupted; what was saved stays in the run folder.", file=sys.stderr)
        return 130


def fit(arguments: list[str]) -> int:
    """Train, print the honest table, draw the figures; the run folder is printed last."""
    from latticegnn.report.run import draw_run
    from latticegnn.report.tables import format_table, format_verdict
    from latticegnn.training.callbacks import Stopped
    from latticegnn.training.fit import Run

    run = Run(arguments)
    first = run.trainer.is_global_zero
    try:
        result = run.execute()
    except Stopped as stopped:
        if first:
            print(f"latticegnn: {stopped}; go on with: latticegnn fit --resume {run.folder}", file=sys.stderr)
        # The engine takes another process's failing status for a crash and kills them all.
        return 128 + stopped.number if first else 0
    except KeyboardInterrupt:
        print(f"latticegnn: interrupted; go on with: latticegnn fit --resume {run.folder}", file=sys.stderr)
        return 130
    if first:
        draw_run(run.folder)
        print(format_table(result["table"]))
        print(format_verdict(result["table"]))
        print(run.folder)
    return 0


def describe(arguments: list[str]) -> int:
    """Print thresholds, tiers, degrees and light cone of a lattice."""
    from latticegnn.lattice import degrees, steps_needed, tier_report

    parser = _lattice_parser("describe", "Describe a lattice: thresholds, tiers, degrees, light cone.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    settings = _parse(parser, arguments)
    spec = settings.spec
    rows = tier_report(spec)
    try:
        steps: int | None = steps_needed(spec, settings.inputs, settings.outputs)
    except ValueError as error:
        steps, reason = None, str(error)
    if settings.json:
        print(
            json.dumps(
                {
                    "shape": list(spec.shape), "cells": spec.num_nodes, "max_radius": spec.max_radius,
                    "thresholds": list(spec.thresholds), "tiers": rows, "steps_needed": steps,
                },
                indent=2,
            )
        )  # fmt: skip
        return 0
    shape = " × ".join(map(str, spec.shape))
    print(f"{shape} = {spec.num_nodes} cells, {spec.connectivity}, {spec.boundary}, {spec.order}")
    print(f"max radius {spec.max_radius:.2f}   thresholds {' / '.join(f'{t:.2f}' for t in spec.thresholds)}")
    for row in rows:
        degree = f"{row['min_degree']}–{row['max_degree']}"
        print(f"  {row['tier']:<11} {degree:>9} neighbours  {row['edges']:>12,} edges  {row['message'] or ''}".rstrip())
    total = degrees(spec).sum(dim=1)
    fewest, most = int(total.min()), int(total.max())
    print(f"  {'all':<11} {f'{fewest}–{most}' if fewest < most else fewest:>9} neighbours")
    sides = f"{settings.inputs.face} to {settings.outputs.face}"
    reach = reason if steps is None else f"{steps} step{'' if steps == 1 else 's'}"
    print(f"light cone, {sides}: {reach}")
    return 0


def doctor(arguments: list[str]) -> int:
    """Check a configuration without training it; exit status 0 when ready, 1 when not. ``--json`` prints JSON."""
    from latticegnn.training.doctor import examine

    as_json = "--json" in arguments
    findings = []
    for finding in examine([word for word in arguments if word != "--json"]):
        findings.append(finding)
        if not as_json:
            print(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.name}: {finding.text}", flush=True)
    ready = all(finding.ok for finding in findings)
    if as_json:
        print(json.dumps({"ready": ready, "findings": [vars(finding) for finding in findings]}, indent=2))
    else:
        print("ready" if ready else "NOT ready")
    return 0 if ready else 1


def experiment(arguments: list[str]) -> int:
    """Train variants × seeds, or search a space, and print one table; another call goes on where this one stopped."""
    from jsonargparse.typing import PositiveInt

    from latticegnn.report.sweep import draw_analyses
    from latticegnn.report.tables import format_differences, format_trials, format_variants
    from latticegnn.training.callbacks import Stopped
    from latticegnn.training.experiment import load_experiment, run_experiment
    from latticegnn.training.search import run_search

    parser = _parser("experiment", "Train variants of a configuration over several seeds.")
    parser.add_argument("--config", type=Path, required=True, help="YAML file that names base, seeds and variants.")
    parser.add_argument("--workers", type=PositiveInt, default=1, help="Runs that are trained at a time.")
    settings = _parse(parser, arguments)
    described = load_experiment(settings.config)
    if described.search is not None and settings.workers > 1:
        raise ValueError(
            "a search trains one trial after the other, as each learns from those before; got workers "
            f"{settings.workers}; leave it out."
        )
    try:
        if described.search is not None:
            folder = described.run_dir / settings.config.stem
            print(format_trials(run_search(described.search, described.base, described.settings, folder)))
        else:
            folder, rows = run_experiment(settings.config, settings.workers)
            print(format_variants(rows))
            print(format_differences(rows))
            for file in draw_analyses(folder):
                print(file)
    except Stopped as stopped:
        print(f"latticegnn: {stopped}; call the same command again to go on.", file=sys.stderr)
        return 128 + stopped.number
    print(folder)
    return 0


def analyse(arguments: list[str]) -> int:
    """Look closer at a run that is done: print what is found, and keep it in the run's folder."""
    from latticegnn.report.sweep import draw_analyses
    from latticegnn.report.tables import format_rows
    from latticegnn.training.analyses import Analyses
    from latticegnn.training.analyses import analyse as look

    parser = _parser("analyse", "Look closer at a run that is done, on its held-out rows.")
    parser.add_argument("run", type=Path, help="Folder of the run, for instance runs/latest.")
    parser.add_class_arguments(Analyses)
    settings = _parse(parser, arguments)
    folder = settings.pop("run")
    for name, rows in look(folder, Analyses(**settings)).items():
        print(f"{name}\n{format_rows(rows)}")
    for file in draw_analyses(folder):
        print(file)
    return 0


def predict(arguments: list[str]) -> int:
    """Predict with a trained lattice; JSON lines, or a matrix of embeddings."""
    from latticegnn.inference import command

    parser = _parser("predict", "Predict with a trained lattice.")
    command.add_predict_arguments(parser)
    return command.predict(_parse(parser, arguments))


def index(arguments: list[str]) -> int:
    """Embed answers by a model's teacher, for `predict --as answers --answers FOLDER`; the folder is printed."""
    from latticegnn.inference import command

    parser = _parser("index", "Embed answers that a trained lattice chooses from.")
    command.add_index_arguments(parser)
    return command.index(_parse(parser, arguments))


def export(arguments: list[str]) -> int:
    """Write a lattice with tiers, distances, offsets and ports as GraphML."""
    from latticegnn.lattice import build_graph, write_graphml

    parser = _lattice_parser("export", "Write a lattice as GraphML.")
    parser.add_argument("--output", type=Path, required=True, help="File to write, for example cube.graphml.")
    settings = _parse(parser, arguments)
    graph = build_graph(settings.spec, settings.inputs, settings.outputs)
    print(write_graphml(graph, settings.output))
    return 0


def serve(arguments: list[str]) -> int:
    """Answer requests over HTTP by a trained model, until SIGINT or SIGTERM."""
    from latticegnn.service import Limits, run

    parser = _parser("serve", "Answer requests over HTTP by a trained model. See docs/serve.md.")
    parser.add_argument("--config", action="config", help="YAML file with any of these settings.")
    parser.add_function_arguments(run, skip={"limits"})
    parser.add_class_arguments(Limits, "limits")
    settings = _parse(parser, arguments)
    del settings["config"]
    run(**settings)
    return 0


def bench(arguments: list[str]) -> int:
    """Measure speed and memory, print tables and verdicts, and write them where asked; a broken claim is no error."""
    from latticegnn.benchmarks import suite

    parser = _parser("bench", "Measure speed and memory, and hold them against what is claimed.")
    parser.add_argument("names", nargs="*", default=[], help=f"Benchmarks to run, of {', '.join(suite.NAMES)}.")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"Small cases only, less than a minute in all; unless named, {', '.join(suite.QUICK)}.",
    )
    parser.add_argument("--json", type=Path | None, default=None, help="File for the figures, as JSON.")
    parser.add_argument("--markdown", type=Path | None, default=None, help="File for the tables, as a page.")
    settings = _parse(parser, arguments)
    names = suite.chosen(settings.names, settings.quick)
    for file in (settings.json, settings.markdown):
        suite.check_writable(file)
    machine, results = suite.Machine.here(), []
    print(machine)
    for name in names:
        results.append(suite.measure(name, settings.quick))
        print(f"\n{results[-1].text()}", flush=True)
        # After each benchmark, so that an interrupted run keeps what it has.
        for file, write in ((settings.json, suite.to_json), (settings.markdown, suite.to_markdown)):
            if file is not None:
                file.write_text(write(machine, results, settings.quick), encoding="utf-8")
    return 0


def cache(arguments: list[str]) -> int:
    """List, verify or prune the embedding cache; exit status 1 where a shard is damaged."""
    import time

    from jsonargparse.typing import NonNegativeFloat

    from latticegnn.data import EmbeddingCache
    from latticegnn.report.tables import columns

    parser = _parser("cache", "List, verify or prune the embeddings that are kept on disk.")
    parser.add_argument("action", choices=["ls", "verify", "prune"], help="What to do.")
    parser.add_argument("--root", type=Path | None, default=None, help="Folder of the cache, if not the default one.")
    parser.add_argument("--max_gb", type=NonNegativeFloat | None, default=None, help="Gigabytes that prune leaves.")
    settings = _parse(parser, arguments)
    store = EmbeddingCache(settings.root)
    if settings.max_gb is not None and not math.isfinite(settings.max_gb):
        raise ValueError(f"--max_gb must be finite; got {settings.max_gb}; leave the cache as it is instead.")
    if (settings.action == "prune") != (settings.max_gb is not None):
        raise ValueError(
            f"prune needs --max_gb, and nothing else takes it; got {settings.action} with --max_gb {settings.max_gb}; "
            "write latticegnn cache prune --max_gb 10."
        )
    if settings.action == "ls":
        lines = [["teacher", "source", "texts", "dim", "MB", "last used"]]
        for teacher in store.stored():
            used = time.strftime("%Y-%m-%d %H:%M", time.localtime(teacher.used))
            size = f"{teacher.bytes / 1e6:,.1f}"
            lines.append([teacher.fingerprint[:12], teacher.source, f"{teacher.texts:,}", f"{teacher.dim}", size, used])
        print(columns(lines))
    elif settings.action == "verify":
        damaged = store.verify()
        for file in damaged:
            print(f"damaged: {file}; delete it, and its embeddings will be computed again")
        print(f"{store.root}: {len(damaged)} damaged")
        return 1 if damaged else 0
    else:
        print(f"{store.root}: deleted {store.prune(round(1e9 * settings.max_gb)) / 1e6:,.1f} MB")
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "fit": fit,
    "describe": describe,
    "doctor": doctor,
    "experiment": experiment,
    "analyse": analyse,
    "predict": predict,
    "index": index,
    "export": export,
    "serve": serve,
    "cache": cache,
    "bench": bench,
}


def _parser(command: str, description: str) -> Any:
    from latticegnn.training.errors import OneLineParser

    return OneLineParser(prog=f"latticegnn {command}", description=description)


def _lattice_parser(command: str, description: str) -> Any:
    from latticegnn.lattice import LatticeSpec, Ports

    parser = _parser(command, description)
    parser.add_class_arguments(LatticeSpec, "spec")
    parser.add_class_arguments(Ports, "inputs", default=Ports(face="z-"))
    parser.add_class_arguments(Ports, "outputs", default=Ports(face="z+"))
    return parser


def _parse(parser: Any, arguments: list[str]) -> Any:
    return parser.instantiate(parser.parse_args(arguments))
