"""The page for those who have no mouse, little room, a dark screen or paper, and for whom motion is unwelcome."""

import pytest

OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


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
    page.wait_for_function(f"{OVERFLOW} === 0")  # charts follow the window a moment later
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
