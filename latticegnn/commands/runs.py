"""Training runs, and what is looked at once they are done."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from latticegnn.commands.parsing import command_parser, parsed


def fit(arguments: list[str]) -> int:
    """Train, print the honest table, draw the figures, write card and report; the run folder is printed last."""
    from latticegnn.report.card import write_card
    from latticegnn.report.html import write_report
    from latticegnn.report.live import LivePictures
    from latticegnn.report.run import ROWS, draw_model, draw_run
    from latticegnn.report.tables import format_table, format_verdict
    from latticegnn.text_model import inputs_of
    from latticegnn.training.callbacks import Stopped
    from latticegnn.training.fit import Run

    run = Run(arguments)
    first = run.trainer.is_global_zero
    run.trainer.callbacks.append(LivePictures())  # type: ignore[attr-defined]
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
        split = run.data.splits["test"]
        draw_model(run.model, inputs_of(run.whole, split, split.spread(ROWS)), run.folder)
        write_card(run.folder)
        print(format_table(result["table"]))
        print(format_verdict(result["table"]))
        try:
            write_report(run)
        except ModuleNotFoundError as error:  # of an extra; the run itself is done
            print(f"latticegnn: no report.html was written: {error}", file=sys.stderr)
        print(run.folder)
    return 0


def doctor(arguments: list[str]) -> int:
    """Check a configuration without training it; exit status 0 when ready, 1 when not. ``--json`` prints JSON."""
    from latticegnn.training.doctor import examine

    if {"-h", "--help"} & set(arguments):
        about = "Say whether a configuration is ready to run. Takes what `latticegnn fit` takes, see its --help, and:"
        parser = command_parser("doctor", about)
        parser.add_argument("--json", action="store_true", help="Print JSON.")
        parser.parse_args(["--help"])
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

    from latticegnn.report.experiment import draw_experiment
    from latticegnn.report.sweep import draw_analyses
    from latticegnn.report.tables import format_differences, format_trials, format_variants
    from latticegnn.training.callbacks import Stopped
    from latticegnn.training.experiment import load_experiment, places, run_experiment
    from latticegnn.training.search import run_search

    parser = command_parser("experiment", "Train variants of a configuration over several seeds.")
    parser.add_argument("--config", type=Path, required=True, help="YAML file that names base, seeds and variants.")
    parser.add_argument("--workers", type=PositiveInt, default=1, help="Runs that are trained at a time.")
    settings = parsed(parser, arguments)
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
            draw_experiment(folder, rows, places(settings.config))
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

    parser = command_parser("analyse", "Look closer at a run that is done, on its held-out rows.")
    parser.add_argument("run", type=Path, help="Folder of the run, for instance runs/latest.")
    parser.add_class_arguments(Analyses)
    settings = parsed(parser, arguments)
    folder = settings.pop("run")
    for name, rows in look(folder, Analyses(**settings)).items():
        print(f"{name}\n{format_rows(rows)}")
    for file in draw_analyses(folder):
        print(file)
    return 0


def report(arguments: list[str]) -> int:
    """Write the interactive page of a run, or of two side by side, and print its file."""
    from latticegnn.report.html import write_report
    from latticegnn.training.analyses import FinishedRun

    parser = command_parser("report", "Write the interactive page of a run that is done: one HTML file.")
    parser.add_argument("run", type=Path, help="Folder of the run, for instance runs/latest.")
    parser.add_argument("--other", type=Path | None, default=None, help="Folder of a run to show beside it.")
    parser.add_argument("--rows", type=list[int] | None, default=None, help="Test rows to play, by number: '[0, 5]'.")
    parser.add_argument("--output", type=Path | None, default=None, help="File; report.html in the run's folder.")
    settings = parsed(parser, arguments)
    other = None if settings.other is None else FinishedRun(settings.other)
    print(write_report(FinishedRun(settings.run), other, settings.rows, settings.output))
    return 0
