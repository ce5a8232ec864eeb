"""The interactive report of a run: one HTML file that needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any, Protocol

import torch
from matplotlib import colormaps
from matplotlib.colors import to_hex
from torch import Tensor, nn

from latticegnn.data import EmbeddingData
from latticegnn.data.split import SAMPLE
from latticegnn.lattice.storage import write_atomically
from latticegnn.model import LatticeModel
from latticegnn.nn import silence
from latticegnn.report.playback import BUDGET, pack_rollout
from latticegnn.report.plots import INPUT, METRICS, OUTPUT, TIERS
from latticegnn.report.run import CURVES, read_history
from latticegnn.report.sections import answers_table, details, summary
from latticegnn.text_model import TextModel, inputs_of
from latticegnn.training.configuration import CONFIG_FILE

ASSETS = Path(__file__).parent / "assets"
SCRIPTS = ("cube.js", "inspection.js", "charts.js", "report.js")

ROWS = 3
"""Held-out rows on a page, unless they are named."""


class Done(Protocol):
    """A run that is done: a `latticegnn.training.fit.Run` that was executed, or a `FinishedRun`."""

    folder: Path
    model: LatticeModel
    data: EmbeddingData

    @property
    def whole(self) -> LatticeModel | TextModel:
        """The model, with its text decoder where it has one."""


def write_report(
    run: Done, other: Done | None = None, rows: Sequence[int] | None = None, output: Path | None = None
) -> Path:
    """Write a run's report as one HTML file, which asks for nothing from outside and forbids it to itself.

    It holds the honest table with its verdicts, the curves, the data card, the configuration, and the cube: the signal
    of held-out rows, step by step, see `latticegnn.report.playback.pack_rollout`. No test row but these is in the file,
    and no weight.

    Args:
        run: The run.
        other: A second one to show beside it, cube by cube.
        rows: Rows of the test split, by number; evenly spaced ones unless given.
        output: The file; ``report.html`` in the run's folder unless given.

    Returns:
        The file.

    Raises:
        ModuleNotFoundError: When plotly, of the extra ``viz``, is missing.
        ValueError: When a row is not in the test split, or its signal is not finite.
    """
    runs = [run] if other is None else [run, other]
    contents = [_content(shown, rows, BUDGET // len(runs)) for shown in runs]
    palette = {
        "tiers": TIERS,
        "input": INPUT,
        "output": OUTPUT,
        "signal": [to_hex(colormaps["viridis"](place / 255)) for place in range(256)],
    }
    scripts = {"plotly": _plotly(), "program": "\n".join(_asset(name) for name in SCRIPTS)}
    page = Template(_asset("report.html")).substitute(
        scripts,
        title=escape(" and ".join(content["name"] for content in contents)),
        policy=_policy(scripts.values()),
        style=_asset("report.css"),
        summaries="\n".join(summary(content) for content in contents),
        rows="\n".join(answers_table(content) for content in contents),
        details="\n".join(details(content) for content in contents),
        data=_json({"runs": [content["page"] for content in contents], "palette": palette, "metrics": METRICS}),
    )
    file = run.folder / "report.html" if output is None else output
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, page.encode())
    return file


def _content(run: Done, rows: Sequence[int] | None, budget: int) -> dict[str, Any]:
    """Gather what the page says of one run."""
    metrics = json.loads((run.folder / "metrics.json").read_text(encoding="utf-8"))
    history = read_history(run.folder)
    name = run.folder.resolve().name
    chosen = _chosen(rows, len(run.data.splits["test"]))
    run.model.eval()
    shown = inputs_of(run.whole, run.data.splits["test"], torch.tensor(chosen))
    if run.model.tokens is None:
        reference = run.data.splits["train"].tensors(SAMPLE)[0].mean(dim=0)
    else:
        reference = silence(shown, run.model.tokens)[0]
    validation = [f"validation/{quantity}" for quantity in CURVES]  # a term of the loss may have a metric's name
    return {
        "name": name,
        "shape": run.model.spec.shape,
        "steps": run.model.steps,
        "metrics": metrics,
        "config": (run.folder / CONFIG_FILE).read_text(encoding="utf-8"),
        "history": history,
        "answers": _answers(run, chosen, shown, embeds="fvu" in metrics["table"][0]),
        "page": {
            "name": name,
            "rows": [_label(run.data, row) for row in chosen],
            "cube": pack_rollout(run.model, shown, reference, budget),
            "curves": {key: history[key] for key in ("train/loss", *validation) if key in history},
            "gates": {key[5:]: values for key, values in history.items() if key.startswith("gate/")},
        },
    }


def _chosen(rows: Sequence[int] | None, count: int) -> list[int]:
    """Check the numbers of rows, or choose some evenly."""
    if rows is None:
        return [place * count // ROWS for place in range(min(ROWS, count))]
    if not rows or not all(0 <= row < count for row in rows) or len(set(rows)) < len(rows):
        raise ValueError(
            f"rows are different numbers of test rows, from 0 to {count - 1}, at least one; got {list(rows)}; write "
            "for instance --rows '[0, 5]'."
        )
    return list(rows)


def _label(data: EmbeddingData, row: int) -> str:
    texts = data.splits["test"].input_texts
    return f"row {row}: {_short(texts[row])}" if texts else f"row {row}"


def _short(text: str, most: int = 90) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


@torch.no_grad()
def _answers(run: Done, rows: Sequence[int], inputs: Tensor, embeds: bool) -> list[dict[str, str]]:
    """Say of each row what was asked, wanted and written, and, of trained embeddings, the test target nearest."""
    split, whole = run.data.splits["test"], run.whole
    texts = split.target_texts or [f"row {row}" for row in range(len(split))]
    found = [
        {
            "row": str(row),
            "input": _short(split.input_texts[row]) if split.input_texts else "–",
            "wanted": _short(texts[row]),
        }
        for row in rows
    ]
    if isinstance(whole, TextModel):
        for answer, text in zip(found, whole.generate(inputs), strict=True):
            answer["written"] = _short(text)
    if embeds:
        targets = nn.functional.normalize(split.tensors()[1], dim=1)
        answers = nn.functional.normalize(run.model(inputs).embedding, dim=1)
        for row, answer, cosines in zip(rows, found, answers @ targets.T, strict=True):
            answer |= {
                "nearest": _short(texts[int(cosines.argmax())]),
                "cosine": f"{float(cosines[row]):.3f}",
                "rank": str(int((cosines >= cosines[row]).sum())),
            }
    return found


def _policy(scripts: Any) -> str:
    """Write the page's Content-Security-Policy: its own scripts, by their hashes, and no request at all."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    own = " ".join(f"'sha256-{value}'" for value in hashes)
    # plotly sets styles on elements; the empty icon, which spares a request, is a data: address.
    return f"default-src 'none'; script-src {own}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'"


def _json(content: Any) -> str:
    """Write JSON that may stand in a script element; what is not finite becomes null."""

    def finite(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: finite(part) for key, part in value.items()}
        if isinstance(value, list | tuple):
            return [finite(part) for part in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(finite(content), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the report's curves are plotly's; the package plotly is not installed; run pip install 'latticegnn[viz]'."
        ) from error
    return str(get_plotlyjs())
