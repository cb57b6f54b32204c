"""A real browser for tests of pages; a module that imports this is skipped where Playwright or Chromium is not installed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

playwright = pytest.importorskip(
    "playwright.sync_api", reason="pages are tested with Playwright: pip install playwright"
)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("pages are tested in Chromium, which is not installed", allow_module_level=True)

PHONE, DESK = {"width": 390, "height": 844}, {"width": 1440, "height": 900}
SECONDS = 60_000  # of Playwright's patience, in its milliseconds; the machine may be busy


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=SECONDS)
        yield browser
        browser.close()


def wait_for(page: Any, text: str, at: str) -> None:
    """Wait until the element has the text."""
    playwright.expect(page.locator(at)).to_contain_text(text, timeout=SECONDS)
