"""Take the README's pictures of a run's report: the cube half way, and the table with the curves."""

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

WIDTH = 1200


def main(arguments: list[str] | None = None) -> None:
    """Write report_cube.png and report_table.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path, nargs="?", default=Path("runs/latest/report.html"), help="the page")
    parser.add_argument("--output", type=Path, default=Path("docs/images"), help="folder of the pictures")
    settings = parser.parse_args(arguments)
    chromium = shutil.which("chromium")
    if chromium is None or not settings.report.is_file():
        raise FileNotFoundError(
            f"a picture needs a report and the program chromium; got {settings.report} and {chromium}; train a run, or "
            "install chromium."
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 900})
        page.goto(settings.report.resolve().as_uri())
        page.wait_for_selector("#gates .js-plotly-plot .scatterlayer")
        canvas = page.locator("canvas").first
        canvas.focus()
        for key in ("PageUp", "Shift+ArrowRight", "Shift+ArrowDown"):
            page.keyboard.press(key)
        page.locator("#axis").select_option("x")
        page.evaluate("document.activeElement.blur()")
        _shoot(page, "#controls", "#cubes", settings.output / "report_cube.png")
        page.locator("section", has=page.locator("#controls")).evaluate("section => section.remove()")
        _shoot(page, "h1", "#curves", settings.output / "report_table.png")
        browser.close()


def _shoot(page: Page, first: str, last: str, file: Path) -> None:
    """Take what lies from one element to another, over the page's width."""
    top = page.locator(first).evaluate("element => element.getBoundingClientRect().top + scrollY - 12")
    end = page.locator(last).evaluate("element => element.getBoundingClientRect().bottom + scrollY + 12")
    page.screenshot(path=file, full_page=True, clip={"x": 0, "y": top, "width": WIDTH, "height": end - top})
    print(file)


if __name__ == "__main__":
    main()
