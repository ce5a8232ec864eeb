"""Runs that are done, without a training: a folder with figures, an untrained lattice, rows with hostile texts."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import yaml

from latticegnn.cli import main
from latticegnn.data.split import EmbeddingSplit
from latticegnn.lattice import LatticeSpec
from latticegnn.model import LatticeModel
from latticegnn.report.html import write_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HOSTILE = "</script><img src=x onerror=alert(1)> & \"so\" '$title'"

LOG = """epoch,gate/distant,gate/entropy,gate/functional,gate/local,step,train/loss,validation/fvu,validation/loss
0,,,,,9,2.5,,
0,0.25,0.9,0.5,0.25,9,,0.9,2.0
1,,,,,19,nan,,
1,0.5,0.9,0.25,0.25,19,,0.8,1.25
"""


@dataclass
class Finished:
    """What a report is made of."""

    folder: Path
    model: LatticeModel
    data: SimpleNamespace

    @property
    def whole(self) -> LatticeModel:
        return self.model


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Finished]:
    """Make a run that is done, of a shape and with further arguments of `LatticeModel`."""

    def make(shape=(8, 8, 8), name="a-run", texts=True, **settings) -> Finished:
        folder = tmp_path_factory.mktemp("runs") / name
        (folder / "logs").mkdir(parents=True)
        (folder / "logs" / "metrics.csv").write_text(LOG)
        (folder / "config.yaml").write_text(f"seed_everything: 7\ndata: {{path: {HOSTILE!r}}}\n")
        row = {"fvu": 0.5, "fvu_low": 0.4, "fvu_high": 0.6, "cosine": 0.75, "cosine_low": 0.7, "cosine_high": 0.8}
        gap = {"lattice_minus": -0.5, "lattice_minus_low": -0.6, "lattice_minus_high": -0.4}
        table = [
            {"model": "lattice", "parameters": 1234, "seconds": 9.0, "ms_per_update": 3.0, **row},
            {"model": "mean", "parameters": 16, **row, "fvu": 1.0, "cosine": 0.25, **gap},
        ]
        metrics = {
            "table": table, "task": "qa", "seed": 7, "parameters": {"cell": 1000, "total": 1234}, "backend": "sparse",
            "data": {"rows": {"train": 40, "test": 20}, "teacher": {"name": HOSTILE}}, "machine": {"threads": 1},
        }  # fmt: skip
        (folder / "metrics.json").write_text(json.dumps(metrics))
        embeddings = torch.randn(60, 16, generator=torch.Generator().manual_seed(3))
        splits = {}
        for part, rows in {"train": embeddings[:40], "test": embeddings[40:]}.items():
            said = [f"{HOSTILE} {row}" for row in range(len(rows))] if texts else []
            splits[part] = EmbeddingSplit(rows, rows.roll(1, dims=1), said, said)
        spec = LatticeSpec(shape, radii=(0.5, 1.0, 1.6))
        model = LatticeModel(spec, embedding_dim=16, **settings)
        return Finished(folder, model, SimpleNamespace(splits=splits))

    return make


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a configuration that trains in a second, without baselines."""
    folder = tmp_path_factory.mktemp("tiny")
    np.save(folder / "v.npy", np.random.default_rng(0).normal(size=(150, 12)).astype(np.float32))
    content = {
        "data": {"task": "vectors", "path": str(folder / "v.npy"), "limit": None, "batch_size": 16},
        "model": {
            "spec": {"shape": [3, 3, 5], "radii": [0.5, 1.0, 1.5]}, "embedding_dim": 12, "channels": 4, "hidden": 4,
            "steps": 5,
        },
        "trainer": {"max_epochs": 2, "accelerator": "cpu", "devices": 1, "enable_progress_bar": False},
        "log_level": "error", "baselines": [],
    }  # fmt: skip
    (folder / "tiny.yaml").write_text(yaml.safe_dump(content))
    return folder / "tiny.yaml"


@pytest.fixture(scope="session")
def tiny_run(tiny_config: Path) -> Path:
    """The folder of a run that ``latticegnn fit`` trained."""
    assert main(["fit", "--config", str(tiny_config), "--run_dir", str(tiny_config.parent), "--run_name", "run"]) == 0
    return tiny_config.parent / "run"


class Seen:
    """A page that is open, with everything it said and asked for."""

    def __init__(self, page: "Page", file) -> None:
        self.page, self.asked, self.said = page, [], []
        # Plain functions: playwright sets attributes on what it calls.
        page.on("request", lambda request: self.asked.append(request))
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.goto(file.as_uri())
        self.file = file

    def __call__(self, expression: str):
        return self.page.evaluate(expression)

    def picture(self, number: int = 0) -> str:
        return self(f"document.querySelectorAll('canvas')[{number}].toDataURL()")

    def drawn(self) -> list[int]:
        return [int(count) for count in self("document.documentElement.dataset.drawn").split()]

    def slide(self, control: str, value: float) -> None:
        self(f"""(() => {{
            const input = document.getElementById('{control}');
            input.value = {value};
            input.dispatchEvent(new Event('input', {{ bubbles: true }}));
        }})()""")

    def inspection(self) -> dict[str, str]:
        rows = self.page.locator(".inspection tr")
        return dict(rows.evaluate_all("rows => rows.map((row) => [...row.cells].map((cell) => cell.innerText))"))

    def well(self) -> None:
        assert [request.url for request in self.asked] == [self.file.as_uri()]
        assert self.said == []


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """A browser; on a developer's machine it may be missing, where every change is judged it may not."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None and "CI" not in os.environ:
        pytest.skip("no chromium is installed")
    arguments = ["--no-sandbox", "--disable-gpu"]
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def run(finished):
    """A run that is done, at the default run's size."""
    return finished()


@pytest.fixture(scope="module")
def file(run):
    """Its page."""
    return write_report(run)


@pytest.fixture
def see(browser, file) -> Iterator[Callable[..., Seen]]:
    """Open a page, with settings of the browser's context."""
    contexts = []

    def show(shown=file, **settings) -> Seen:
        contexts.append(browser.new_context(viewport={"width": 1280, "height": 900}, **settings))
        return Seen(contexts[-1].new_page(), shown)

    yield show
    for context in contexts:
        context.close()
