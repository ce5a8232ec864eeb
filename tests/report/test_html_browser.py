"""The page in a real browser, without a graphics card: it plays, filters, answers and asks for nothing."""

import numpy as np
import pytest
import torch

from latticegnn.lattice import LatticeSpec, build_graph, hops
from latticegnn.report.html import write_report
from latticegnn.report.playback import DECADES


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
