"""The card of a run's model: what it is, what it was trained on, and how it stands against its baselines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from latticegnn.hub import CARD_FILE, described
from latticegnn.lattice.storage import write_atomically
from latticegnn.model import LatticeModel
from latticegnn.pretrained import CONFIG_FILE
from latticegnn.report.tables import METRICS, format_verdict


def write_card(run: Path) -> Path:
    """Write a run's `model_card` as ``README.md`` into its folder ``model``, and return the file."""
    file = run / "model" / CARD_FILE
    write_atomically(file, str(model_card(run)).encode())
    return file


def model_card(run: Path) -> ModelCard:
    """Make the card of a run's model from ``metrics.json`` and ``model/config.json``; nothing in it is made up.

    Args:
        run: The run's folder.

    Raises:
        FileNotFoundError: When the run has not come to its end.
    """
    if not (run / "metrics.json").is_file():
        raise FileNotFoundError(
            f"a card tells of a run that has measured its model; {run} has no metrics.json; let the run come to its "
            f"end: latticegnn fit --resume {run}."
        )
    result = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    settings = json.loads((run / "model" / CONFIG_FILE).read_text(encoding="utf-8"))["model"]
    rows = result["table"]
    metrics = [name for name in METRICS if any(name in row for row in rows)]
    own = LatticeModel._hub_mixin_info.model_card_data.to_dict()
    front = ModelCardData(**own, metrics=metrics)
    sections = [described(settings, result["parameters"]), *_decoder(run), _results(rows, metrics, result["data"])]
    text = "\n".join([*sections, _data(result["data"]), _run(result)])
    return ModelCard(f"---\n{front.to_yaml()}\n---\n\n{text}")


def _decoder(run: Path) -> list[str]:
    if not (run / "model" / "decoder").is_dir():
        return []
    return [
        "A decoder of tokens lies in `decoder/`, and its tokenizer in `tokenizer/`: "
        "`latticegnn.text_model.TextModel.from_pretrained` loads all three.\n"
    ]


def _results(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str], data: Mapping[str, Any]) -> str:
    lines = [["model", "parameters", *metrics], ["---"] * (2 + len(metrics))]
    for row in rows:
        figures = [
            f"{row[m]:.3f} [{row[f'{m}_low']:.3f}, {row[f'{m}_high']:.3f}]" if m in row else "–" for m in metrics
        ]
        lines.append([row["model"], f"{row['parameters']:,}", *figures])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    verdict = "".join(f"\n- {line}" for line in format_verdict(rows).splitlines())
    against = f"Against the baselines, paired on the same rows:\n{verdict}" if verdict else "No baseline was asked for."
    return f"""## Results

On {data["rows"]["test"]:,} rows that training did not see, with 95 % bootstrap intervals; `lattice` is this model.

{table}

{against}
"""


def _data(card: Mapping[str, Any]) -> str:
    teacher, dropped = card["teacher"], {reason: n for reason, n in card["dropped"].items() if n}
    rows = ", ".join(f"{name} {count:,}" for name, count in card["rows"].items())
    files = [Path(source["path"]).name for source in card["sources"] if source["path"]]
    lines = [
        f"task: {card['task']}" + (f", limited to {card['limit']:,}" if card["limit"] else ""),
        f"rows: {rows}; split by seed {card['seed']}",
        f"dropped: {', '.join(f'{reason} {n:,}' for reason, n in dropped.items()) or 'nothing'}",
        f"files: {', '.join(files) or 'the packaged corpus'}",
        f"embeddings: {card['dim']} numbers, "
        + (f"by {teacher['name']}, fingerprint `{teacher['fingerprint'][:12]}`" if teacher else "prepared beforehand"),
        f"sha256 of the source: `{card['source_sha256']}`",
    ]
    return "## Data\n\n" + "\n".join(f"- {line}" for line in lines) + "\n"


def _run(result: Mapping[str, Any]) -> str:
    machine, cost = result["machine"], result["table"][0]
    took = f"{cost['updates']:,} updates in {cost['seconds']:,.0f} s" if "seconds" in cost else "not timed"
    return f"""## Training

- seed {result["seed"]}, {took}, aggregation backend {result["backend"]}
- processes {machine["processes"]}, threads {machine["threads"]}, {machine["processor"]}, torch {machine["torch"]}
"""
