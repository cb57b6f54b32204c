"""The report in a real browser: by keys, by pointer, at two widths, and without scripts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcscore import Pool
from mcscore.pool.tables import label_from
from mcscore.report import write_report
from mcscore.run import Run

from ..chromium import DESK, PHONE, SECONDS, browser, playwright, wait_for
from ..label_app.conftest import make_run

__all__ = ["browser"]  # a fixture

STRANGE = ["=cat", 'a "dog", or so', "</script><b>emu"]
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    images = np.random.default_rng(5).integers(0, 256, (60, 1, 9, 9), np.uint8)
    return make_run(tmp_path_factory.mktemp("run"), images, classes=STRANGE, k=12)


@pytest.fixture
def window(browser: Any) -> Iterator[Open]:
    """window(run, size) -> the run's report; no error may be told on its console."""
    told: list[str] = []
    contexts = []

    def show(run: Run, size: dict[str, int], **options: Any) -> Any:
        contexts.append(browser.new_context(viewport=size, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(SECONDS)
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("console", lambda message: told.append(message.text) if message.type in ("error", "warning") else None)
        page.goto(Path(write_report(run)).as_uri())
        return page

    yield show
    for context in contexts:
        context.close()
    assert told == []


def ids_shown(page: Any) -> list[int]:
    found: list[int] = page.eval_on_selector_all(
        "#sheet .card", "cards => cards.map((card) => Number(card.dataset.id))"
    )
    return found


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["390", "1440"])
def test_labels_are_given_by_keys_kept_and_taken_by_the_pool(
    run: Run, window: Open, size: dict[str, int], tmp_path: Path
) -> None:
    ids = run.select(12, "bald", "none").ids.tolist()
    page = window(run, size)
    page.focus("#sheet .card")
    for key in (
        "2",
        "3",
        "ArrowRight",
        "1",
        "Backspace",
        "1",
    ):  # dog, emu, one left out, cat, taken back and given again
        page.keyboard.press(key)
    wait_for(page, "3 of 12 labeled here", "#given")
    page.keyboard.press("Enter")
    wait_for(page, f"#{ids[4]}", "#look-facts")
    page.keyboard.press("2")
    wait_for(page, f"#{ids[5]}", "#look-facts")
    page.keyboard.press("ArrowLeft")
    wait_for(page, STRANGE[1], "#look-facts h2")
    page.keyboard.press(",")
    wait_for(page, "no label yet", "#look-facts h2")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.dataset.id") == str(ids[4])
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"  # the focus can be seen
    page.reload()
    wait_for(page, "3 of 12 labeled here", "#given")
    with page.expect_download() as download:
        page.click("#download")
    table = tmp_path / "labels.csv"
    download.value.save_as(table)
    keys = Pool.open(run.meta["pool"]["path"]).keys_of(range(60))
    pool = Pool.create(tmp_path / "pool", np.zeros((60, 1), np.uint8), classes=STRANGE, keys=keys)
    assert label_from(pool, table).changed == 3
    expected = np.full(60, -1)
    expected[[ids[0], ids[1], ids[3]]] = [1, 2, 0]
    np.testing.assert_array_equal(pool.labels, expected)
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]  # nothing sticks out
    sizes = page.eval_on_selector_all(
        ".tick", "ticks => ticks.map((tick) => parseFloat(getComputedStyle(tick).fontSize))"
    )
    assert min(sizes) >= 12


def test_items_are_sorted_filtered_and_found(run: Run, window: Open) -> None:
    ids = run.select(12, "bald", "none").ids
    page, entropy, predictions = window(run, DESK), run.values("entropy", ids), run.prediction[ids]
    page.select_option("#f-score", "entropy")
    page.select_option("#sort", "low")
    assert ids_shown(page) == ids[np.argsort(entropy, kind="stable")].tolist()
    page.select_option("#f-class", str(predictions[0]))
    page.fill("#f-high", str(np.median(entropy)))
    order = np.argsort(entropy, kind="stable")
    assert ids_shown(page) == [
        ids[i] for i in order if predictions[i] == predictions[0] and entropy[i] <= np.median(entropy)
    ]
    page.click("#arrange [type=reset]")
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    page.keyboard.type(f"in/{ids[4]:03}")
    assert ids_shown(page) == [ids[4]]
    wait_for(page, "1 of 12 shown", "#counted")
    page.fill("#f-key", "no such key")
    wait_for(page, "No item passes the filter.", "#sheet")


def test_a_rectangle_on_a_plot_chooses_items_by_pointer_touch_and_keys(run: Run, window: Open) -> None:
    ids = run.select(12, "bald", "radius").ids
    page = window(run, PHONE, has_touch=True)
    assert page.locator("[data-plot]").count() == 2  # entropy against BALD, and embeddings
    area = page.locator('[data-plot="map"] .area')
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    at = page.evaluate("JSON.parse(document.getElementById('data').textContent).plots.map")
    inside = [i for i, (x, y) in zip(at["ids"], at["at"], strict=True) if 300 <= x <= 900 and 200 <= y <= 800]
    place = lambda x, y: (box["x"] + box["width"] * x / 1000, box["y"] + box["height"] * y / 1000)  # noqa: E731
    page.mouse.move(*place(300, 200))
    page.mouse.down()
    page.mouse.move(*place(900, 800), steps=3)
    page.mouse.up()
    wait_for(page, f"{len(inside)} of 12 selected items are in it", '.brush[data-for="map"]')
    assert set(ids_shown(page)) == set(inside)
    area.focus()
    page.keyboard.press("Escape")
    assert ids_shown(page) == ids.tolist()
    page.keyboard.press("ArrowRight")  # a rectangle in the middle
    for _ in range(20):
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("Shift+ArrowRight")
        page.keyboard.press("ArrowUp")
        page.keyboard.press("Shift+ArrowDown")
    assert set(ids_shown(page)) == set(ids.tolist())  # as large as the plot
    page.select_option("#color-by", "score")
    assert page.locator("g.candidates path").count() == 5
    client = page.context.new_cdp_session(page)
    box = area.bounding_box()
    for kind, *at_point in (
        ("Start", 100, 100),
        ("Move", 300, 110),
        ("Move", 500, 500),
        ("End",),
    ):  # upwards it would scroll
        points = [dict(zip("xy", place(*at_point), strict=True))] if at_point else []
        client.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})
    found = [i for i, (x, y) in zip(at["ids"], at["at"], strict=True) if 100 <= x <= 500 and 100 <= y <= 500]
    wait_for(page, f"{len(found)} of 12 selected items are in it", '.brush[data-for="map"]')


def test_several_labels_are_toggled_and_downloaded_as_columns(tmp_path: Path, window: Open) -> None:
    images = np.random.default_rng(5).integers(0, 256, (20, 1, 9, 9), np.uint8)
    run = make_run(tmp_path, images, likelihood="bernoulli", k=3)
    ids = run.select(3, "bald", "none").ids.tolist()
    page = window(run, DESK)
    page.focus("#sheet .card")
    for key in ("3", "1", "2", "2", "ArrowRight", "2", "2"):
        page.keyboard.press(key)
    with page.expect_download() as download:
        page.click("#download")
    table = Path(download.value.path()).read_text()
    assert table == f"id,key,cat,dog,emu\n{ids[0]},in/{ids[0]:03}.png,1,0,1\n{ids[1]},in/{ids[1]:03}.png,0,0,0\n"


def test_a_thousand_items_stay_usable(tmp_path: Path, window: Open) -> None:
    items = np.random.default_rng(8).integers(0, 256, (1100, 1, 6, 6), np.uint8)
    run = make_run(tmp_path, items, k=1000, classes=[f"kind {i}" for i in range(40)], outputs=40)
    page = window(run, PHONE)
    assert Path(run.path / "report.html").stat().st_size < 4_000_000
    assert len(ids_shown(page)) == 1000
    page.focus("#sheet .card")
    page.keyboard.press("End")
    page.keyboard.press("a")  # the tenth class
    page.keyboard.press("Enter")
    page.keyboard.press("/")
    page.keyboard.type("kind 38")  # it has no key
    page.keyboard.press("Enter")
    wait_for(page, "kind 38", "#look-facts h2")
    page.keyboard.press("Escape")
    page.select_option("#f-show", "labeled")
    assert ids_shown(page) == [int(run.select(1000, "bald", "none").ids[-1])]


def test_without_scripts_the_page_shows_the_same_items(run: Run, window: Open) -> None:
    ids = run.select(12, "bald", "none").ids.tolist()
    page = window(run, DESK, java_script_enabled=False)
    playwright.expect(page.locator("#sheet .card")).to_have_count(12)
    texts = page.locator("#sheet .card .id").all_inner_texts()
    assert texts == [f"#{i}" for i in ids]
    playwright.expect(page.locator("#arrange")).to_be_hidden()
    playwright.expect(page.locator("#download")).to_be_hidden()
    playwright.expect(page.locator(".plot svg").first).to_be_visible()
