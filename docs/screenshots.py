"""Take the screenshots of docs/mlflow.md.

Run `python -m docs.screenshots URI STUDY` in the root of the repository. URI is the address at
which `sabtune ui` serves MLflow, such as http://127.0.0.1:5000. The script needs Debian's chromium
and the `dev` extra.
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
    with browser.browser(width=1400, height=720) as page:
        browser.open_study(page, f"{uri}/studies/{study}")
        save(page, "table")
        page.set_viewport_size({"width": 1400, "height": 1660})
        browser.open_study(page, f"{uri}/studies/{study}", charts=True)
        browser.chart(page, "score vs score_at_schedule_end").wait_for()
        save(page, "charts")
        page.set_viewport_size({"width": 1400, "height": 1120})
        browser.open_run(page, place, best.info.run_id)
        page.get_by_text("Show more").click()
        page.locator('img[src*="figures/recall"]').wait_for()
        save(page, "trial")
        page.set_viewport_size({"width": 1280, "height": 720})
        report = browser.open_report(page, place)
        report.locator("figure .main-svg").first.wait_for()
        report.locator("#answer").scroll_into_view_if_needed()
        save(page, "report")


if __name__ == "__main__":
    main(*sys.argv[1:])
