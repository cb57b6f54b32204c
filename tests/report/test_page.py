"""The page: complete in itself, honest about what it does not know, and never half written."""

from __future__ import annotations

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcscore import report
from mcscore.errors import RunError
from mcscore.report import write_report
from mcscore.report.source import chosen_items
from mcscore.text import duration, number

from .conftest import FakePool, FakeRun, Make

N = 300


class Page(HTMLParser):
    """Text, tags and attributes of a page; fails where a tag is closed that is not open."""

    VOID = frozenset({"meta", "img", "input", "br", "col"})

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.data: Any = None
        self.feed(self.source)
        assert self.stack == []
        self.text = re.sub(r"\s+", " ", self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.stack):
            self.text += data
        elif self.tags[-1][1].get("id") == "data":
            self.data = json.loads(data)

    @property
    def plots(self) -> list[str]:
        """What each plot says in words."""
        return [
            attrs["aria-label"] or ""
            for tag, attrs in self.tags
            if tag == "svg" and "item" not in (attrs.get("class") or "")
        ]


@pytest.fixture
def pool() -> FakePool:
    items = np.random.default_rng(3).integers(0, 256, (N, 1, 8, 8), dtype=np.uint8)
    return FakePool(items, np.full(N, -1, np.int32), classes=["cat", "dog", "eel"])


@pytest.fixture
def run(make_run: Make) -> FakeRun:
    rng = np.random.default_rng(0)
    bald = rng.uniform(0, 0.6, N)
    return make_run(rng.integers(0, 3, N).astype(np.int32), bald=bald, entropy=bald + rng.uniform(0, 0.4, N))


def _write(run: FakeRun, pool: FakePool | None) -> Page:
    return Page(write_report(run, pool))  # type: ignore[arg-type]


def test_page_shows_the_run_and_the_selection_in_its_order(run: FakeRun, pool: FakePool) -> None:
    run.select([17, 4, 250], "bald")
    pool.labels[17] = run.values_of["prediction"][17]
    pool.labels[4] = (run.values_of["prediction"][4] + 1) % 3
    pool.keys = np.array([f"img/{i}.png" for i in range(N)])
    page = _write(run, pool)
    told = (
        "net.Net",
        "sha256:0123456789abcdef",
        "T = 50",
        "seed 7",
        "p = 0.25",
        "body.drop",
        "torch 2.13.0",
        "img/250.png",
    )
    for word in told:
        assert word in page.text
    places = [page.text.index(f"#{i} ") for i in (17, 4, 250)]
    assert places == sorted(places)
    sheets = [index for index, (_tag, attrs) in enumerate(page.tags) if "sheet" in (attrs.get("class") or "").split()]
    cards = [index for index, (_tag, attrs) in enumerate(page.tags) if attrs.get("class") == "card"]
    assert len(sheets) == 2
    assert [sum(a < card for card in cards) for a in sheets] == [6, 3]
    marks = [attrs["class"] for _tag, attrs in page.tags if attrs.get("class") in ("right", "wrong")]
    assert marks[:2] == ["right", "wrong"]
    names = pool.classes or []
    assert f"is {names[pool.labels[4]]}" in page.text
    assert number(float(run.values_of["bald"][17])) in page.text


def test_page_needs_no_network_and_tells_every_picture_in_words(run: FakeRun, pool: FakePool) -> None:
    run.select([1, 2], "bald")
    page = _write(run, pool)
    assert re.findall('https?://[^ "]*', page.source) == ["http://www.w3.org/2000/svg"]  # the name of SVG, for a script
    (policy,) = [attrs["content"] or "" for _, attrs in page.tags if attrs.get("http-equiv")]
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert len(re.findall(r"script-src 'sha256-[\w+/=]{44}';", policy)) == 1
    for tag, attrs in page.tags:
        assert tag not in ("iframe", "link", "object")
        for name in ("src", "srcset", "href"):
            assert (attrs.get(name) or "data:image/").startswith("data:image/")
        if tag == "img":
            assert attrs["alt"]
    assert "url(" not in page.source


def test_names_from_outside_are_escaped(run: FakeRun, pool: FakePool) -> None:
    pool.keys = np.array(["<script>alert(1)</script>"] * N)
    pool.classes = ["<b>cat</b>", "dog", "eel"]
    run.select(list(range(20)), "bald")
    page = _write(run, pool)
    assert [attrs.get("type") for tag, attrs in page.tags if tag == "script"] == ["application/json", "module"]
    assert "<b>cat" not in page.source
    assert "<b>cat</b>" in page.text
    assert [item["key"] for item in page.data["items"]] == ["<script>alert(1)</script>"] * 20
    assert page.data["classes"][0] == "<b>cat</b>"


STRANGE = {  # a class name, and how the page shows it
    r"$\foo$": r"$\foo$",
    "$": "$",
    r"\frac{1}{2}_a^b": r"\frac{1}{2}_a^b",
    "a\nb\tc": r"a\nb\tc",
    "\x00\x1b[31m": r"\x00\x1b[31m",
    "name-\udcff": r"name-\udcff",
    "\u202egnp.exe": r"\u202egnp.exe",
    "שלום עולם": "שלום עולם",
    "🦊👩‍🔬": "🦊👩‍🔬",
    "long " * 2000 + "end": "long " * 2000 + "end",
    "": "10 (its name is blank)",
    "  ": "11 (its name is blank)",
    "{{ 7 * 7 }}<b>&amp;": "{{ 7 * 7 }}<b>&amp;",
    "a" + "\u0301" * 200: "a" + "\u0301" * 200,
}


def test_names_of_every_kind_are_shown_as_they_are(make_run: Make, pool: FakePool) -> None:
    pool.classes = list(STRANGE)
    pool.keys = np.array([f"{i}-{list(STRANGE)[i % len(STRANGE)][:50]}/" for i in range(N)])
    pool.source = "folder-\udcff"
    run = make_run(np.arange(N, dtype=np.int32) % len(STRANGE), bald=np.linspace(0, 1, N))
    run.select(list(range(N - 1, N - 40, -1)), "bald")
    pool.labels[:] = run.values_of["prediction"]
    page = _write(run, pool)
    for shown in STRANGE.values():
        assert f"says {shown}, is {shown}" in page.text
        assert page.text.count(shown) >= 3  # in the chart, too
    assert r"from folder-\udcff" in page.text
    assert "\x1b" not in page.source


def test_predicted_classes_have_bars_of_their_shares(make_run: Make, pool: FakePool) -> None:
    run = make_run(np.repeat(np.array([0, 1], np.int32), [225, 75]), bald=np.linspace(0, 1, N))
    run.select([299, 298], "bald")
    page = _write(run, pool)
    assert "cat 75.0%0.0%" in page.text
    assert "dog 25.0%100.0%" in page.text
    assert "eel 0.0%0.0%" in page.text
    bars = [attrs["style"] for tag, attrs in page.tags if tag == "i" and attrs.get("style")]
    assert bars == [f"width: {length}%" for length in ("75.00", "0.00", "25.00", "100.00", "0.00", "0.00")]
    (run.path / "selection-a.parquet").unlink()
    assert "cat 75.0% dog 25.0%" in _write(run, pool).text


def test_newest_selection_is_shown_unless_another_is_named(run: FakeRun) -> None:
    old = run.select([5], "entropy", name="selection-entropy-1.parquet")
    new = run.select([6], "bald", name="selection-bald-1.parquet")
    os.utime(old, ns=(1, 1))
    latest, named = chosen_items(run), chosen_items(run, old)  # type: ignore[arg-type]
    assert latest is not None
    assert named is not None
    assert (latest.name, latest.by, latest.ids.tolist()) == (new.name, "bald", [6])
    assert (named.name, named.by, named.ids.tolist()) == (old.name, "entropy", [5])


def test_selection_of_another_run_is_refused(run: FakeRun, pool: FakePool) -> None:
    run.select([5], "bald", run="r2")
    with pytest.raises(RunError, match="selected from another run"):
        _write(run, pool)
    (run.path / "notes.parquet").write_text("no")
    with pytest.raises(RunError, match=r"notes\.parquet: (cannot be read as Parquet|not a selection of mcscore)"):
        chosen_items(run, run.path / "notes.parquet")  # type: ignore[arg-type]


def test_pool_of_another_run_is_refused(run: FakeRun, pool: FakePool) -> None:
    pool.fingerprint = "sha256:other"
    with pytest.raises(RunError, match=r"is not the pool that .* scored"):
        _write(run, pool)


def test_warnings_tell_what_a_reader_must_know(make_run: Make) -> None:
    bald = np.full(N, 0.25)
    bald[[3, 8]] = np.nan
    run = make_run(np.zeros(N, np.int32), bald=bald, entropy=np.full(N, np.nan), done=200)
    run.nonfinite_ids = np.array([3, 8])
    run.unreadable_ids = np.arange(64, 128)
    page = _write(run, None)
    for told in (
        "This run is not complete: 200 of 300 items are done",
        "64 items could not be read from the pool and cannot be selected",
        "no finite output for 2 items, which cannot be selected: 3, 8.",
        "Every item has the same BALD score, 0.250",
        "No item has a finite entropy score",
        f"No selection yet. To make one: mcscore select {run.path} -k 50 --by bald",
        "No pictures, labels and class names: the pool is not where it was scored",
    ):
        assert told in page.text
    assert "67% done" in page.text


def test_ties_at_the_noise_floor_of_bald_are_told(make_run: Make) -> None:
    bald = np.full(N, 0.25)
    bald[[3, 8, 9]] = 0.0
    run = make_run(np.zeros(N, np.int32), bald=bald, entropy=np.full(N, 0.5))
    run.select([1, 8, 9], "bald")
    text = _write(run, None).text
    assert "BALD of 3 items is below what rounding lets one tell" in text
    assert "2 items of the selection are among them." in text


def test_sites_that_draw_random_numbers_have_no_p(run: FakeRun) -> None:
    drawn = {"index": 0, "name": "rand", "kind": "uniform (rand)", "p": None, "shape": [1], "active": True}
    run.meta["sites"] = [drawn]
    page = _write(run, None)
    assert "p = drawn" in page.text
    assert "uniform (rand)" in page.text


def test_run_without_trouble_warns_of_nothing(run: FakeRun, pool: FakePool) -> None:
    run.select([1], "bald")
    assert "warnings" not in [attrs.get("class") for _tag, attrs in _write(run, pool).tags]


@pytest.mark.parametrize("shape", [(5,), (400,), (2, 3, 4, 5), (3, 200, 100)])
def test_items_of_any_shape_are_shown(run: FakeRun, pool: FakePool, shape: tuple[int, ...]) -> None:
    run.select([1, 2, 3], "bald")
    pool.items = np.random.default_rng(0).normal(size=(N, *shape)).astype(np.float32)
    page = _write(run, pool)
    pictures = [tag for tag, attrs in page.tags if "item" in (attrs.get("class") or "").split()]
    assert len(pictures) == 6


def test_regression_shows_numbers_for_predictions(make_run: Make, pool: FakePool) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=N).astype(np.float32)
    run = make_run(values, likelihood="gaussian", variance=rng.gamma(1.0, 1.0, N), bald=rng.gamma(1.0, 1.0, N))
    run.select([9], "variance")
    page = _write(run, pool)
    assert f"predicts {number(float(values[9]))}" in page.text
    assert "Predicted values" in page.text
    assert "½ log(1 + variance / mean noise)" in page.text


def test_one_score_many_classes_and_large_selections_fit(make_run: Make) -> None:
    n = 5000
    rng = np.random.default_rng(0)
    run = make_run(rng.integers(0, 200, n).astype(np.int32), margin=rng.random(n))
    run.select(list(range(1200)), "margin")
    page = _write(run, None)
    assert "Of 200 classes, the 20 whose shares differ most" in page.text
    assert "The first 1,000 are shown" in page.text
    assert sum(attrs.get("class") == "card" for _tag, attrs in page.tags) == 1060
    assert "Two kinds of doubt" not in page.text


def test_a_page_is_replaced_whole_or_not_at_all(run: FakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    page = write_report(run, None)  # type: ignore[arg-type]
    before = page.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(report.os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(run, None)  # type: ignore[arg-type]
    assert page.read_bytes() == before
    assert [file.name for file in run.path.iterdir()] == ["report.html"]


def test_page_may_be_written_elsewhere(run: FakeRun, tmp_path_factory: pytest.TempPathFactory) -> None:
    out = tmp_path_factory.mktemp("pages") / "mine.html"
    before = os.umask(0o027)
    try:
        assert write_report(run, None, out) == out  # type: ignore[arg-type]
    finally:
        os.umask(before)
    assert out.stat().st_mode & 0o777 == 0o640
    out.chmod(0o600)
    write_report(run, None, out)  # type: ignore[arg-type]
    assert out.stat().st_mode & 0o777 == 0o600
    assert not (run.path / "report.html").exists()


def test_what_is_not_installed_is_named_with_the_remedy(run: FakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(report.NEEDED, "a_module_that_is_not_there", "jinja2")
    with pytest.raises(ImportError, match=r"a report needs jinja2: pip install 'mcscore\[report\]'"):
        write_report(run, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.5, "0.500"), (0.01234, "0.0123"), (0.00001234, "1.2e-05"), (12.345, "12.3"), (123456.0, "1.23e+05"),
     (-0.25, "-0.250"), (float("nan"), "nan")],
)  # fmt: skip
def test_numbers_keep_their_digits(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(4.25, "4.2 s"), (89.0, "89.0 s"), (600.0, "10 min"), (9000.0, "2.5 h")])
def test_durations_are_told_in_their_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_joint_selection_tells_what_each_item_adds(make_run: Make) -> None:
    run = make_run(np.zeros(N, np.int32), bald=np.linspace(0, 1, N))
    run.select([17, 4], "bald")
    assert "What each selected item adds" not in Page(write_report(run)).text  # type: ignore[arg-type]
    run.select([17, 4], "bald", method="batchbald", facts={"gains": [0.5, 0.125], "exact": 1})
    page = Page(write_report(run))  # type: ignore[arg-type]
    assert "The labels of the 2 selected items together tell 0.625 nats of the model; the last adds 25%" in page.text
    assert "Gains from pick 2 on are estimated" in page.text
    assert "Information of 2 picks in order, from 0.500 to 0.125 nats." in page.plots
    run.select([17, 4], "bald", method="epig", facts={"gains": [0.5, 0.125], "exact": 2})
    assert "tells 0.125 to 0.5 nats of the prediction for a target" in Page(write_report(run)).text  # type: ignore[arg-type]


def test_a_selection_by_embeddings_has_its_map(make_run: Make) -> None:
    run = make_run(np.zeros(N, np.int32), bald=np.linspace(0, 1, N))
    run.select([17, 4], "bald")
    assert "among the candidates" not in Page(write_report(run)).text  # type: ignore[arg-type]
    near = {"distance": 0.5, "selected": 0, "random": 2, "of": 2}
    places = {
        "explained": [0.5, 0.25],
        "candidates": [[0, 0], [1, 2]],
        "labeled": [],
        "selected": [[1, 2]],
        "near": near,
    }
    run.select([17, 4], "bald", map=places)
    page = Page(write_report(run))  # type: ignore[arg-type]
    assert "they hold 75% of the variance" in page.text
    assert "0 of 2 selected items have another within 0.5, half of what is usual" in page.text
    assert [alt for alt in page.plots if alt.endswith("2 candidates, 0 labeled, 1 selected.")]


def test_scripts_are_put_together_once_each_after_what_they_import() -> None:
    from mcscore.report.inline import read, script

    text = str(script().text)
    assert not re.findall(r"^(import|export) ", text, re.M)
    names = re.findall(r"^(?:async )?(?:const|let|function) (\w+)", text, re.M)
    assert len(names) == len(set(names)) > 40  # one scope for all
    firsts = [
        text.index(read(name).splitlines()[0]) for name in ("dom.js", "words.js", "classes.js", "look.js", "main.js")
    ]
    assert firsts == sorted(firsts)
