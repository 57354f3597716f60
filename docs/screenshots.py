"""Take the screenshots of docs/mlflow.md.

Run `python -m docs.screenshots URI STUDY` in the root of the repository. URI is the address at
which `sabtune ui` shows the study. The script needs Debian's chromium and the `dev` extra.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

from tests import browser
from tests.experiments import Place

WIDTH_PIXELS = 1000

SETTLE_MILLISECONDS = 3000
"""How long the animations of a page take."""


def save(page: Page, name: str) -> None:
    """Write a screenshot of the page, reduced to 256 colors, next to this file."""
    page.mouse.move(0, 0)
    page.wait_for_timeout(SETTLE_MILLISECONDS)
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    image = image.resize((WIDTH_PIXELS, WIDTH_PIXELS * image.height // image.width))
    path = Path(__file__).with_name(f"mlflow-{name}.png")
    image.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def main(uri: str, study: str) -> None:
    """Take the screenshots of a study with a best trial and a report."""
    place = Place(uri, study, None)
    best = place.trials()[int(place.searches()[0].data.tags["sabtune.best"])]
    with browser.browser(height=720) as page:
        browser.enter(page, place)
        browser.open_experiment(page, place)
        page.get_by_role("link", name=best.info.run_name).wait_for()
        save(page, "experiment")
        browser.open_ladder(page, place, best.info.run_id).wait_for()
        save(page, "ladder")
        report = browser.open_report(page, place)
        report.locator("figure .main-svg").first.wait_for()
        report.locator("#answer").scroll_into_view_if_needed()
        save(page, "report")


if __name__ == "__main__":
    main(*sys.argv[1:])
