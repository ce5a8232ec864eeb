"""A lattice described and written to files, trained or not."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from latticegnn.commands.parsing import lattice_parser, parsed

LATTICE_OPTIONS = ("--spec", "--inputs", "--outputs")
GRAPHS, PROGRAMS = (".graphml", ".gexf", ".json"), (".pt2", ".onnx")


def describe(arguments: list[str]) -> int:
    """Print thresholds, tiers, degrees and light cone of a lattice."""
    from latticegnn.lattice import degrees, steps_needed, tier_report

    parser = lattice_parser("describe", "Describe a lattice: thresholds, tiers, degrees, light cone.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    settings = parsed(parser, arguments)
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


def export(arguments: list[str]) -> int:
    """Write a lattice as a graph, or a trained one as a graph or a program; the file is printed."""
    from latticegnn.lattice import build_graph, write_network

    parser = lattice_parser("export", "Write a lattice as a graph, or a trained one as a program.")
    parser.add_argument("--output", type=Path, required=True, help="cube.graphml, .gexf or .json; model.pt2 or .onnx.")
    parser.add_argument("--model", type=Path | None, default=None, help="Folder of a run or of a saved model.")
    parser.add_argument("--steps", type=int | None, default=None, help="Steps of the program, if not the model's own.")
    parser.add_argument("--trust_code", action="store_true", help="Allow a model's experts to bring code of their own.")
    settings = parsed(parser, arguments)
    if settings.model is not None:
        return _export_model(settings, [word for word in arguments if word.startswith(LATTICE_OPTIONS)])
    if settings.steps is not None or settings.trust_code:
        raise ValueError(
            "--steps and --trust_code are for a trained model; got one of them without --model; name the model, or "
            "leave it out."
        )
    if settings.output.suffix in PROGRAMS:
        raise ValueError(
            f"a program is made of a trained model; got {settings.output.name!r} without --model; add for instance "
            "--model runs/latest, or write a lattice to a file that ends in .graphml, .gexf or .json."
        )
    graph = build_graph(settings.spec, settings.inputs, settings.outputs)
    print(write_network(graph, settings.output))
    return 0


def _export_model(settings: Any, others: list[str]) -> int:
    from latticegnn.exporting import export_model, format_of
    from latticegnn.lattice import write_network
    from latticegnn.model import LatticeModel
    from latticegnn.predictor import model_folder
    from latticegnn.training.run_graph import graph_of_run

    if others:
        raise ValueError(
            f"a trained model has its own lattice and ports; got --model beside {others[0].partition('=')[0]}; leave "
            "one of them out."
        )
    if settings.output.suffix in GRAPHS:
        if settings.steps is not None or settings.trust_code:
            raise ValueError(
                f"--steps and --trust_code are for programs; got one of them for the graph {settings.output.name}; "
                "leave it out."
            )
        print(write_network(graph_of_run(settings.model), settings.output))
        return 0
    format_of(settings.output)
    folder = model_folder(settings.model)
    model, file = LatticeModel.from_pretrained(folder, settings.trust_code), folder / "teacher.json"
    teacher = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    told = export_model(model, settings.output, steps=settings.steps, teacher=teacher)
    worst = told["check"]["worst_difference"]
    print(f"{told['steps']} steps; differs from the model by at most {worst:.1e}", file=sys.stderr)
    print(settings.output)
    return 0
