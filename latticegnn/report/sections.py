"""What a run's page says without its script: tables, verdicts, cards."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from latticegnn.report.plots import METRICS
from latticegnn.report.tables import METRICS as COLUMNS
from latticegnn.report.tables import format_verdict

ANSWER = {
    "row": "row",
    "input": "input",
    "wanted": "wanted",
    "written": "written",
    "nearest": "nearest held-out target",
    "cosine": "cosine with the wanted one",
    "rank": "its rank",
}
"""What is told of a row that is played, and its column's head."""


def summary(content: Mapping[str, Any]) -> str:
    """Show a run's verdicts and its honest table."""
    rows, name = content["metrics"]["table"], escape(content["name"])
    columns = [metric for metric in COLUMNS if metric in rows[0]]
    heads = [_label_of(metric) for metric in columns]
    found = {m: [row[m] for row in rows if m in row] for m in columns if m in METRICS}
    best = {m: (min if METRICS[m][1] == "lower" else max)(values) for m, values in found.items()}
    lines = []
    for row in rows:
        cells = []
        for metric in columns:
            if metric not in row:
                cells.append("–")
                continue
            value = f"{row[metric]:.3f}"
            value = f"<strong>{value}</strong>" if row[metric] == best.get(metric) else value
            cells.append(f"{value} <small>[{row[f'{metric}_low']:.3f}, {row[f'{metric}_high']:.3f}]</small>")
        cells += [f"{row['parameters']:,}", f"{row['seconds']:.0f} s" if "seconds" in row else "–"]
        cells = [f'<th scope="row">{escape(row["model"])}</th>', *(f"<td>{cell}</td>" for cell in cells)]
        ours = ' class="ours"' if row["model"] == "lattice" else ""
        lines.append(f"<tr{ours}>{''.join(cells)}</tr>")
    head = "".join(f'<th scope="col">{text}</th>' for text in ["model", *heads, "parameters", "training"])
    verdicts = "".join(
        f'<li class="{line.rpartition(" ")[2]}">{escape(line)}</li>' for line in format_verdict(rows).splitlines()
    )
    size = f"{' × '.join(map(str, content['shape']))} cells, {content['steps']} steps"
    seed, task = content["metrics"]["seed"], escape(content["metrics"]["task"])
    return (
        f'<section><h2>Does it win? <span class="run">{name}</span></h2>'
        f"<p>{size}; task {task}, seed {seed}. Values on the {content['metrics']['data']['rows']['test']} rows held "
        "out; in brackets the 95 % bootstrap interval over these rows, in bold the best value of a column.</p>"
        + _scroll(
            f"<table><caption>The honest table of {name}</caption><thead><tr>{head}</tr></thead>"
            f"<tbody>{''.join(lines)}</tbody></table>",
            f"Table of {name}",
        )
        + (f"<h3>Verdicts, paired row by row</h3><ul>{verdicts}</ul>" if verdicts else "")
        + "</section>"
    )


def _scroll(table: str, label: str) -> str:
    """Let a table that is wider than the page scroll, by keys too; the label is HTML."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">{table}</div>'


def _label_of(metric: str) -> str:
    label, better = METRICS.get(metric, (metric, None))
    return f"{escape(label)}<br><small>{better} is better</small>" if better else escape(label)


def answers_table(content: Mapping[str, Any]) -> str:
    """Show what the lattice answered to the rows that are played."""
    heads = [ANSWER[key] for key in content["answers"][0]]
    lines = [
        f'<tr><th scope="row">{answer["row"]}</th>'
        + "".join(f"<td>{escape(answer[key])}</td>" for key in list(answer)[1:])
        + "</tr>"
        for answer in content["answers"]
    ]
    name = escape(content["name"])
    return _scroll(
        f"<table><caption>What {name} answers to these rows of the test split</caption><thead><tr>"
        + "".join(f'<th scope="col">{head}</th>' for head in heads)
        + f"</tr></thead><tbody>{''.join(lines)}</tbody></table>",
        f"Rows of {name}",
    )


def details(content: Mapping[str, Any]) -> str:
    """Show a run's validation figures, data card, sizes, machine and configuration."""
    name, metrics = escape(content["name"]), content["metrics"]
    sizes = {"parameters": metrics["parameters"], "backend": metrics["backend"], "machine": metrics["machine"]}
    parts = {"Data card": _pairs_table(metrics["data"]), "Sizes and machine": _pairs_table(sizes)}
    validation = {key[11:]: dict(values) for key, values in content["history"].items() if key.startswith("validation/")}
    if validation:
        parts = {"Validation, epoch by epoch": _scroll(_history_table(validation), f"Validation of {name}")} | parts
    parts["Configuration"] = f'<pre tabindex="0">{escape(content["config"])}</pre>'
    opened = "".join(f"<details><summary>{title}</summary>{body}</details>" for title, body in parts.items())
    return f'<section><h2>What the run is <span class="run">{name}</span></h2>{opened}</section>'


def _history_table(series: Mapping[str, Mapping[int, float]]) -> str:
    updates = sorted({update for values in series.values() for update in values})
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in ["update", *series])
    body = "".join(
        f'<tr><th scope="row">{update}</th>'
        + "".join(f"<td>{values[update]:.4f}</td>" if update in values else "<td>–</td>" for values in series.values())
        + "</tr>"
        for update in updates
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _pairs_table(values: Mapping[str, Any]) -> str:
    body = "".join(f'<tr><th scope="row">{escape(k)}</th><td>{escape(v)}</td></tr>' for k, v in _flat(values))
    return f'<table class="pairs"><tbody>{body}</tbody></table>'


def _flat(values: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    """Name nested values by their paths."""
    pairs: list[tuple[str, str]] = []
    for key, value in values.items():
        path = f"{above}{key}"
        pairs += _flat(value, f"{path}.") if isinstance(value, Mapping) else [(path, str(value))]
    return pairs
