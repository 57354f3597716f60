"""Takes the pictures of docs/mlflow.md, from the root: python -m docs.screenshots URI STUDY.

URI: where `sabtune ui` shows the study. It wants Debian's chromium and the dev extra.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

from tests import browser
from tests.experiments import Place

WIDTH = 1000  # pixels
SETTLED = 3000  # milliseconds, after which nothing moves


def keep(page: Page, name: str) -> None:
    """The page as a small picture of 256 colours, beside this file."""
    page.mouse.move(0, 0)
    page.wait_for_timeout(SETTLED)
    view = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    view = view.resize((WIDTH, WIDTH * view.height // view.width))
    path = Path(__file__).with_name(f"mlflow-{name}.png")
    view.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def main(uri: str, study: str) -> None:
    place = Place(uri, study, None)
    best = place.trials()[int(place.searches()[0].data.tags["sabtune.best"])]
    with browser.browser(height=720) as page:
        browser.enter(page, place)
        browser.open_experiment(page, place)
        page.get_by_role("link", name=best.info.run_name).wait_for()
        keep(page, "experiment")
        browser.open_ladder(page, place, best.info.run_id).wait_for()
        keep(page, "ladder")
        report = browser.open_report(page, place)
        report.locator("figure .main-svg").first.wait_for()
        report.get_by_role("heading", name="Accuracy against length").scroll_into_view_if_needed()
        report.locator("figure").first.scroll_into_view_if_needed()
        keep(page, "report")


if __name__ == "__main__":
    main(*sys.argv[1:])
