"""The page in a real browser, without a graphics card: it plays, filters, answers keys and asks for nothing."""

import os
import shutil
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from playwright.sync_api import Browser, Page, sync_playwright

from latticegnn.lattice import LatticeSpec, build_graph, hops
from latticegnn.report.html import write_report
from latticegnn.report.playback import DECADES

CHROMIUM = shutil.which("chromium")
#: On a developer's machine the browser may be missing; where every change is judged it may not.
pytestmark = pytest.mark.skipif(CHROMIUM is None and "CI" not in os.environ, reason="no chromium is installed")


OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


class Seen:
    """A page that is open, with everything it said and asked for."""

    def __init__(self, page: Page, file) -> None:
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
def browser() -> Iterator[Browser]:
    arguments = ["--no-sandbox", "--disable-gpu"]
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def run(finished):
    """At the default run's size."""
    return finished()


@pytest.fixture(scope="module")
def file(run):
    return write_report(run)


@pytest.fixture
def see(browser, file) -> Iterator[Callable[..., Seen]]:
    contexts = []

    def show(shown=file, **settings) -> Seen:
        contexts.append(browser.new_context(viewport={"width": 1280, "height": 900}, **settings))
        return Seen(contexts[-1].new_page(), shown)

    yield show
    for context in contexts:
        context.close()


def signal_of(run, row: int, step: int) -> torch.Tensor:
    """The signal of a test row, cell by cell, from the model itself."""
    inputs, train = run.data.splits["test"].inputs, run.data.splits["train"].inputs
    with torch.no_grad():
        states = run.model.rollout(torch.stack([inputs[row], train.mean(dim=0)]), trajectory=True).trajectory[step]
    return (states[0] - states[1]).square().mean(dim=1).sqrt()


def test_the_page_plays_and_filters_and_asks_for_nothing(see, run) -> None:
    seen = see()
    page = seen.page
    before, cells = seen.picture(), run.model.spec.num_nodes
    assert page.locator("#step").input_value() == "4"
    assert seen.drawn() == [cells]
    seen.slide("step", 7)
    assert page.locator("figcaption").inner_text().startswith("a-run, row 0: ")
    assert "after step 7 of 8" in page.locator("figcaption").inner_text()
    assert seen.picture() != before
    seen.slide("step", 4)
    assert seen.picture() == before

    seen.slide("threshold", 1)
    inside = int((hops(run.model.spec, run.model.input_nodes) <= 4).sum())
    assert seen.drawn() == [inside]
    seen.slide("threshold", 150)
    top = seen("panes[0].rollout.top")
    wanted = int((signal_of(run, 0, 4) >= top * 10 ** (DECADES * (149.5 / 254 - 1))).sum())
    assert 0 < wanted < inside
    assert seen.drawn() == [wanted]
    seen.slide("threshold", 0)

    page.locator("#axis").select_option("x")
    seen.slide("depth", 40)
    assert page.locator("#depth-text").inner_text() == "x = 3"
    assert seen.drawn() == [4 * 64]
    page.locator("#only").check()
    assert seen.drawn() == [64]
    page.locator("#axis").select_option("")
    assert page.locator("#depth").is_disabled()
    assert seen.picture() == before

    pictures = {before}
    for change in (
        lambda: page.locator("#colour").select_option("gate"),
        lambda: page.locator("#colour").select_option("arrival"),
        lambda: page.locator("#front").uncheck(),
        lambda: page.locator("#row").select_option("1"),
    ):
        change()
        pictures.add(seen.picture())
    assert len(pictures) == 4  # the row moves no arrival
    page.locator("#colour").select_option("signal")
    assert seen.picture() not in pictures
    page.wait_for_selector("#gates .js-plotly-plot .scatterlayer path.js-line")
    assert page.locator(".chart .main-svg .scatterlayer path:visible").count() >= 8
    seen.well()


@pytest.mark.slow
def test_something_is_painted_within_two_seconds(see) -> None:
    """The fastest of three: what the page takes, and not what else the machine does."""
    times = []
    for _ in range(3):
        seen = see()
        seen.page.wait_for_function("performance.getEntriesByName('first-contentful-paint').length > 0")
        times.append(seen("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
    assert min(times) < 2000


@pytest.mark.slow
def test_a_chosen_cell_says_what_it_is(see, run) -> None:
    seen = see()
    page, model = seen.page, run.model
    canvas = page.locator("canvas")
    canvas.focus()
    page.keyboard.press("ArrowRight")
    assert seen.inspection()["Place"] == "x 4, y 4, z 4; no port"
    for key, wanted in {
        "ArrowLeft": (3, 4, 4), "ArrowUp": (3, 5, 4), "ArrowDown": (3, 4, 4), "PageDown": (3, 4, 3),
        "PageUp": (3, 4, 4),
    }.items():  # fmt: skip
        page.keyboard.press(key)
        assert "cell {}, {}, {},".format(*wanted) in page.locator("#said").text_content()
    rows = seen.inspection()
    node = model.graph.pos.long().tolist().index([3, 4, 4])
    with torch.no_grad():
        states = model.rollout(run.data.splits["test"].inputs[:1], trajectory=True).trajectory[4]
    scale = seen("panes[0].rollout.scale")
    for channel in range(8):
        found = float(rows[f"Channel {channel}"].replace("−", "-"))
        assert found == pytest.approx(float(states[0, node, channel]), abs=scale[channel] / 200)
    for name, weight in zip(model.cell.experts, model.cell.gates(states)[0, node].tolist(), strict=True):
        assert float(rows[f"Gate: {name}"].split()[0]) == pytest.approx(100 * weight, abs=1)
    assert float(rows["Signal"]) == pytest.approx(float(signal_of(run, 0, 4)[node]), rel=0.03)
    assert rows["Light cone"].startswith("from step 4 on (inside at step 4)")
    assert rows["Neighbours: local"] == "itself"
    assert rows["Neighbours: functional"].startswith("6: (2,\u00a04,\u00a04) ")
    assert rows["Neighbours: distant"].startswith("12: ")
    before = seen.picture()
    page.locator("#tiers input").nth(2).uncheck()
    assert seen.picture() != before
    page.locator("#tiers input").nth(2).check()
    assert seen.picture() == before
    canvas.focus()
    page.keyboard.press("Escape")
    assert "No cell is chosen" in page.locator(".inspection").inner_text()
    spot = seen("(() => { const [x, y] = panes[0].cube.seen[panes[0].rollout.join([0, 0, 0])]; return [x, y]; })()")
    canvas.click(position={"x": spot[0], "y": spot[1]})
    assert "x 0, y 0, z 0; input port" in page.locator(".inspection").inner_text()
    seen.well()


@pytest.mark.slow
def test_everything_answers_to_the_keyboard_alone_and_shows_its_focus(see) -> None:
    seen = see()
    page = seen.page
    visited, outlines = [], []
    for _ in range(30):
        page.keyboard.press("Tab")
        visited.append(seen("document.activeElement.id || document.activeElement.tagName"))
        outlines.append(seen("getComputedStyle(document.activeElement).outlineStyle"))
        if visited[-1] == "SUMMARY":
            break
    wanted = ["play", "step", "row", "colour", "front", "threshold", "axis", "CANVAS"]
    assert [name for name in visited if name in wanted] == wanted
    assert set(outlines) == {"solid"}
    before = seen.picture()
    page.locator("#step").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#step-text").inner_text() == "5 of 8"
    page.keyboard.press("ArrowLeft")
    page.locator("canvas").focus()
    for key in ("Shift+ArrowLeft", "Shift+ArrowUp", "+"):
        page.keyboard.press(key)
        turned = seen.picture()
        assert turned != before
        before = turned
    page.keyboard.press(" ")
    assert page.locator("#play").get_attribute("aria-pressed") == "true"
    page.keyboard.press(" ")
    assert page.locator("#play").inner_text() == "Play"
    unnamed = seen("""[...document.querySelectorAll('input, select')].filter((e) => !e.labels.length).length
        + [...document.querySelectorAll('canvas, [role=img], [role=region]')].filter((e) => !e.ariaLabel).length""")
    assert unnamed == 0
    seen.well()


@pytest.mark.slow
def test_playing_moves_a_step_at_a_time_slower_where_motion_is_unwelcome(browser, file) -> None:
    for motion, moves in (("no-preference", ["5 of 8", "6 of 8"]), ("reduce", ["4 of 8", "4 of 8"])):
        context = browser.new_context(reduced_motion=motion)
        page = context.new_page()
        page.clock.install()
        page.goto(file.as_uri())
        page.locator("#play").click()
        for wanted in moves:
            page.clock.run_for(750)
            assert page.locator("#step-text").inner_text() == wanted
        page.clock.run_for(20_000)
        assert page.locator("#step-text").inner_text() == "8 of 8"
        assert page.locator("#play").inner_text() == "Play"
        context.close()


@pytest.mark.slow
def test_two_runs_lie_side_by_side_and_move_together(see, run, finished, tmp_path) -> None:
    other = finished((5, 5, 7), name="other-run", texts=False, steps=6)
    seen = see(write_report(run, other, output=tmp_path / "both.html"))
    page = seen.page
    left, right = (page.locator("canvas").nth(k).bounding_box() for k in (0, 1))
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] <= right["x"]
    before = [seen.picture(k) for k in (0, 1)]
    seen.slide("step", 6)
    assert all(seen.picture(k) != before[k] for k in (0, 1))
    seen.slide("step", 8)
    captions = page.locator("figcaption").all_inner_texts()
    assert "after step 8 of 8" in captions[0]
    assert "after step 6 of 6; it takes no further step" in captions[1]
    before = [seen.picture(k) for k in (0, 1)]
    page.locator("canvas").nth(1).focus()
    page.keyboard.press("Shift+ArrowLeft")
    assert all(seen.picture(k) != before[k] for k in (0, 1))
    page.keyboard.press("PageUp")
    assert "x 4, y 4, z 4" in page.locator(".inspection").nth(0).inner_text()
    assert "x 2, y 2, z 3" in page.locator(".inspection").nth(1).inner_text()
    seen.well()


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec",
    [
        LatticeSpec((3, 4, 5), radii=(1.0, 1.5, 2.3)),
        LatticeSpec((3, 4, 2), radii=(0.5, 1.5, 2.3), boundary=("periodic", "reflecting", "open")),
        LatticeSpec((4, 1, 3), connectivity="full", boundary="periodic"),
    ],
    ids=["open", "mixed", "full"],
)
def test_the_page_knows_a_cells_neighbours_as_the_graph_does(see, finished, spec, tmp_path) -> None:
    run = finished((3, 3, 3), steps=3)
    run.model = type(run.model)(spec, embedding_dim=16, steps=4, require_light_cone=False)
    seen = see(write_report(run, output=tmp_path / "page.html"))
    graph = build_graph(spec)
    place = graph.pos.long().tolist()
    for cell, at in enumerate(place):
        found = seen(f"panes[0].rollout.neighbours(panes[0].rollout.join({at}))")
        for tier in range(3):
            edges = (graph.edge_index[1] == cell) & (graph.edge_tier == tier)
            wanted = sorted(
                (place[source], offset)
                for source, offset in zip(
                    graph.edge_index[0, edges].tolist(), graph.edge_offset[edges].tolist(), strict=True
                )
                if any(offset)
            )
            assert sorted((one["place"], one["offset"]) for one in found[tier]) == wanted


@pytest.mark.slow
def test_the_page_cannot_reach_out_and_runs_no_script_but_its_own(see) -> None:
    seen = see()
    refused = seen("""async () => {
        const broken = [];
        document.addEventListener('securitypolicyviolation', (event) => broken.push(event.effectiveDirective));
        const fetched = await fetch('https://example.invalid/').then(() => 'reached', () => 'refused');
        const script = document.createElement('script');
        script.textContent = 'window.foreign = true';
        document.head.append(script);
        document.body.append(Object.assign(new Image(), { src: 'https://example.invalid/x.png' }));
        await new Promise((resolve) => setTimeout(resolve, 200));
        return [fetched, window.foreign === undefined, ...broken.sort()];
    }""")
    assert refused == ["refused", True, "connect-src", "img-src", "script-src-elem"]
    assert [request.failure for request in seen.asked[1:]] == ["csp"] * (len(seen.asked) - 1)


@pytest.mark.slow
def test_dark_readers_and_printers_have_pages_of_their_own(see) -> None:
    light, dark = see(color_scheme="light"), see(color_scheme="dark")
    grounds = [seen("getComputedStyle(document.body).backgroundColor") for seen in (light, dark)]
    assert grounds == ["rgb(255, 255, 255)", "rgb(20, 24, 28)"]
    assert light.picture() != dark.picture()
    dark.page.emulate_media(color_scheme="light")
    dark("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert dark.picture() == light.picture()
    light.page.emulate_media(media="print")
    assert not light.page.locator("#controls").is_visible()
    assert light.page.locator("canvas").is_visible()


@pytest.mark.slow
def test_paper_is_light_and_holds_what_is_folded_away(see) -> None:
    dark = see(color_scheme="dark")
    dark.page.set_viewport_size({"width": 794, "height": 1123})  # A4
    fill = "getComputedStyle(document.querySelector('#curves .xtick text')).fill"
    dark.page.wait_for_selector("#curves .xtick text")
    shown, picture = dark(fill), dark.picture()
    dark.page.emulate_media(media="print")
    dark("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert dark(fill) == "rgb(0, 0, 0)" != shown
    assert dark.picture() != picture
    dark("window.dispatchEvent(new Event('beforeprint'))")
    assert dark.page.locator("pre").is_visible()
    assert dark(OVERFLOW) == 0
    dark("window.dispatchEvent(new Event('afterprint'))")
    assert not dark.page.locator("pre").is_visible()


@pytest.mark.slow
@pytest.mark.parametrize("width", [320, 390, 640])
def test_narrow_pages_scroll_one_way_and_fingers_too(see, width) -> None:
    """320 pixels are what WCAG 2.2 asks for (1.4.10), and what a page of 1280 has left at 400 %."""
    seen = see()
    page = seen.page
    page.set_viewport_size({"width": width, "height": 800})
    seen("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    page.locator("canvas").focus()
    page.keyboard.press("ArrowRight")
    assert seen(OVERFLOW) == 0
    assert seen("getComputedStyle(document.querySelector('canvas')).touchAction") == "pan-y pinch-zoom"
    table = page.locator(".scroll").first
    name = table.locator("tbody th").first
    before = name.bounding_box()["x"]
    table.evaluate("element => { element.scrollLeft = 50; }")
    assert name.bounding_box()["x"] == before, "a row keeps its name in sight"


@pytest.mark.slow
def test_buttons_turn_and_zoom_as_keys_and_dragging_do(see) -> None:
    seen = see()
    page = seen.page
    start = seen.picture()
    canvas = page.locator("canvas")
    for button, key in {"Turn left": "Shift+ArrowLeft", "Tilt down": "Shift+ArrowDown", "Zoom in": "+"}.items():
        page.get_by_role("button", name=button).click()
        turned = seen.picture()
        assert turned != start
        page.get_by_role("button", name="Reset").click()
        assert seen.picture() == start
        canvas.focus()
        page.keyboard.press(key)
        assert seen.picture() == turned
        page.keyboard.press("Home")
        assert seen.picture() == start
    page.locator("#step").focus()
    page.keyboard.press("ArrowRight")
    assert seen("document.getElementById('step').ariaValueText") == "5 of 8"
    seen.well()


@pytest.mark.slow
def test_cells_coloured_by_gate_are_filtered_by_tier(see, run) -> None:
    seen = see()
    page, model = seen.page, run.model
    page.locator("#colour").select_option("gate")
    assert seen.drawn() == [512]
    with torch.no_grad():
        states = model.rollout(run.data.splits["test"].inputs[:1], trajectory=True).trajectory[4]
        weights = model.cell.gates(states)[0]
    signal = signal_of(run, 0, 4)
    heard = signal >= seen("panes[0].rollout.top") * 10 ** (-DECADES - 0.5 * DECADES / 254)
    (most, next_most), tier = weights.sort(dim=1, descending=True).values[:, :2].T, weights.argmax(dim=1)
    close = int((heard & (most - next_most < 1 / 255)).sum())  # a byte tells no smaller difference
    for number, name in enumerate(["local", "functional", "distant"]):
        gone = int((heard & (tier == list(model.cell.experts).index(name))).sum())
        page.locator("#tiers input").nth(number).uncheck()
        assert abs(512 - seen.drawn()[0] - gone) <= close
        page.locator("#tiers input").nth(number).check()
    page.locator("#tiers input").nth(int(tier[heard].mode().values)).uncheck()
    assert seen.drawn() != [512]
    page.locator("#colour").select_option("signal")
    assert seen.drawn() == [512]
    seen.well()


@pytest.mark.slow
def test_a_large_cube_is_decimated_and_says_so(see, finished, tmp_path) -> None:
    run = finished((32, 32, 32), steps=8, require_light_cone=False)
    file = write_report(run, output=tmp_path / "32.html")
    assert file.stat().st_size < 8e6
    seen = see(file)
    kept = seen("panes[0].rollout.count")
    assert 4000 < kept < 32**3
    assert f"decimated: {kept:,} of 32,768 cells" in seen.page.locator("figcaption").inner_text()
    took = seen(
        """(() => {
            const start = performance.now();
            for (let k = 0; k < 5; k++) turn(0.1, 0);
            return performance.now() - start;
        })()"""
    )
    assert took / 5 < 500
    assert np.unique(seen("panes[0].rollout.planes[2]")).tolist()[-1] == 31
    seen.well()
