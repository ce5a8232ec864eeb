"""Benchmarks and the embedding cache."""

from __future__ import annotations

import math
from pathlib import Path

from latticegnn.commands.parsing import command_parser, parsed


def bench(arguments: list[str]) -> int:
    """Measure speed and memory, print tables and verdicts, and write them where asked; a broken claim is no error."""
    from latticegnn.benchmarks import suite

    parser = command_parser("bench", "Measure speed and memory, and hold them against what is claimed.")
    parser.add_argument("names", nargs="*", default=[], help=f"Benchmarks to run, of {', '.join(suite.NAMES)}.")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"Small cases only, less than a minute in all; unless named, {', '.join(suite.QUICK)}.",
    )
    parser.add_argument("--json", type=Path | None, default=None, help="File for the figures, as JSON.")
    parser.add_argument("--markdown", type=Path | None, default=None, help="File for the tables, as a page.")
    settings = parsed(parser, arguments)
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

    parser = command_parser("cache", "List, verify or prune the embeddings that are kept on disk.")
    parser.add_argument("action", choices=["ls", "verify", "prune"], help="What to do.")
    parser.add_argument("--root", type=Path | None, default=None, help="Folder of the cache, if not the default one.")
    parser.add_argument("--max_gb", type=NonNegativeFloat | None, default=None, help="Gigabytes that prune leaves.")
    settings = parsed(parser, arguments)
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
