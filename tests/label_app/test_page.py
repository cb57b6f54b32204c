"""The page in a real browser, by its keys alone; what counts is what is in the pool after."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcscore import Pool
from mcscore.run import Run

from ..chromium import DESK, PHONE, SECONDS, browser, playwright, wait_for
from .conftest import Client, Serve, make_run

__all__ = ["browser"]  # a fixture


@pytest.fixture
def window(browser: Any) -> Iterator[Any]:
    """window(client, size) -> a page that shows the session; no error may be told on its console."""
    told: list[str] = []
    pages = []

    def show(client: Client, size: dict[str, int]) -> Any:
        page = browser.new_page(viewport=size)
        page.set_default_timeout(SECONDS)
        page.on("pageerror", lambda error: told.append(str(error)))
        page.goto(f"http://127.0.0.1:{client.port}/?token={client.token}")
        page.wait_for_selector("button.class")
        pages.append(page)
        return page

    yield show
    for page in pages:
        page.close()
    assert told == []


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["390", "1440"])
def test_items_are_labeled_skipped_excluded_and_undone_by_keys(
    run: Run, serve: Serve, window: Any, size: dict[str, int]
) -> None:
    pool, ids = Pool.open(run.meta["pool"]["path"]), run.select(7, "bald", "none").ids
    page = window(serve(run), size)
    wait_for(page, f"#{ids[0]}", "#facts")
    for key in ("2", "3", " ", ".", "1"):  # dog, emu, skipped, excluded, cat: faster than any answer
        page.keyboard.press(key)
    wait_for(page, "3 of 7 labeled, 1 excluded", "#progress")
    wait_for(page, f"#{ids[5]}", "#facts")
    assert pool.labels[ids].tolist() == [1, 2, -1, -1, 0, -1, -1]
    assert pool.excluded[ids].tolist() == [False, False, False, True, False, False, False]
    page.keyboard.press("Backspace")
    page.keyboard.press("Backspace")
    playwright.expect(page.locator("#progress")).not_to_contain_text("excluded", timeout=SECONDS)  # the second one, too
    wait_for(page, "2 of 7 labeled", "#progress")
    assert pool.labels[ids].tolist() == [1, 2, -1, -1, -1, -1, -1]
    assert not pool.excluded.any()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")  # back to the second item, whose label is taken away
    page.keyboard.press(",")
    wait_for(page, "1 of 7 labeled", "#progress")
    assert pool.labels[ids].tolist() == [1, -1, -1, -1, -1, -1, -1]
    page.reload()  # what is skipped and what can be undone outlive it
    wait_for(page, "1 of 7 labeled", "#progress")
    page.keyboard.press("Backspace")
    wait_for(page, "2 of 7 labeled", "#progress")
    assert pool.labels[ids[1]] == 2
    page.keyboard.press("Escape")
    page.keyboard.press("End")
    wait_for(page, f"#{ids[6]}", "#facts")
    for _ in range(5):  # the last item; then those that are left, the skipped one last
        page.keyboard.press("1")
    wait_for(page, "Nothing is left to do: 7 labeled", "#done")
    assert pool.labels[ids].tolist() == [1, 2, 0, 0, 0, 0, 0]
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]  # nothing sticks out


def test_a_window_shows_what_another_gave_and_does_not_replace_it(run: Run, serve: Serve, window: Any) -> None:
    client, pool, ids = serve(run), Pool.open(run.meta["pool"]["path"]), run.select(7, "bald", "none").ids
    page = window(client, DESK)
    wait_for(page, f"#{ids[0]}", "#facts")
    page.evaluate(
        "Object.defineProperty(document, 'hidden', { get: () => true, configurable: true })"
    )  # it does not look by itself
    assert client.give(int(ids[0]), None, 2)[0] == 200
    page.evaluate(
        "for (const key of '123') document.body.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }))"
    )
    wait_for(page, "was labeled “emu” in another window meanwhile", "#toast")
    wait_for(page, "emu", "#facts .state")
    assert pool.labels[ids].tolist() == [2, -1, -1, -1, -1, -1, -1]  # the keys after it did not go astray
    page.wait_for_timeout(1000)  # keys that are pressed at once are not heard
    page.keyboard.press("1")  # knowing what it replaces
    wait_for(page, f"#{ids[1]}", "#facts")
    assert pool.labels[ids[0]] == 0
    page.evaluate("Object.defineProperty(document, 'hidden', { get: () => false })")
    assert client.give(int(ids[1]), None, 0)[0] == 200
    wait_for(page, f"Another window changed item {ids[1]}: “cat”", "#toast")


def test_one_of_a_few_classes_is_found_by_its_name(run: Run, serve: Serve, window: Any) -> None:
    pool, ids = Pool.open(run.meta["pool"]["path"]), run.select(7, "bald", "none").ids
    page = window(serve(run), DESK)
    page.keyboard.press("/")
    page.keyboard.type("emu")
    playwright.expect(page.locator("#find")).to_have_value("emu", timeout=SECONDS)
    page.keyboard.press("Enter")
    wait_for(page, f"#{ids[1]}", "#facts")
    assert pool.labels[ids].tolist() == [2, -1, -1, -1, -1, -1, -1]
    playwright.expect(page.locator("#find-form")).to_be_hidden(timeout=SECONDS)


def test_a_thousand_items_are_filtered_sorted_and_found(tmp_path: Path, serve: Serve, window: Any) -> None:
    items = np.random.default_rng(8).integers(0, 256, (1100, 1, 6, 6), np.uint8)
    names = [f"kind {i}" for i in range(40)]
    run = make_run(tmp_path, items, k=1000, classes=names, outputs=40)
    pool, ids = Pool.open(run.meta["pool"]["path"]), run.select(1000, "bald", "none").ids
    predictions, scores = run.prediction[ids], run.values("bald", ids)
    page = window(serve(run), DESK)
    page.keyboard.press("Escape")
    page.keyboard.press("a")  # the tenth class
    wait_for(page, f"#{ids[1]}", "#facts")
    assert pool.labels[ids[0]] == 9
    page.keyboard.press("/")
    page.keyboard.type("kind 38")  # it has no key
    page.keyboard.press("Enter")
    wait_for(page, f"#{ids[2]}", "#facts")
    assert pool.labels[ids[1]] == 38
    assert page.locator(".tile").count() == 1000
    most = int(np.bincount(predictions).argmax())
    page.click("#filters")
    page.select_option("#f-predicted", str(most))
    page.select_option("#f-sort", "low")
    shown = page.eval_on_selector_all(".tile", "tiles => tiles.map((tile) => Number(tile.dataset.id))")
    of_class = ids[predictions == most]
    order = np.lexsort((np.arange(len(of_class)), scores[predictions == most]))
    assert shown == of_class[order].tolist()


def test_several_labels_are_toggled_and_saved_by_enter(
    tmp_path: Path, images: np.ndarray, serve: Serve, window: Any
) -> None:
    run = make_run(tmp_path, images, likelihood="bernoulli", k=3)
    client = serve(run)
    page = window(client, PHONE)
    for key in ("1", "3", "2", "2", "Enter", "Enter"):
        page.keyboard.press(key)
    wait_for(page, "2 of 3 labeled", "#progress")
    assert client.ask("/api/states") == [[[0, 2], False], [[], False], [None, False]]
    page.keyboard.press("Backspace")
    wait_for(page, "1 of 3 labeled", "#progress")
    assert client.ask("/api/states") == [[[0, 2], False], [None, False], [None, False]]


def test_the_picture_is_zoomed_by_keys(run: Run, serve: Serve, window: Any) -> None:
    page = window(serve(run), DESK)
    page.wait_for_function("document.querySelector('#stage img')?.style.width")
    width = page.evaluate("document.querySelector('#stage img').offsetWidth")
    assert width == 480  # of an image of 13 pixels
    page.keyboard.press("+")
    page.keyboard.press("+")
    page.wait_for_function(f"document.querySelector('#stage img').offsetWidth >= {2 * width - 2}")
    page.keyboard.press("-")
    page.wait_for_function(f"document.querySelector('#stage img').offsetWidth <= {1.5 * width + 2}")
