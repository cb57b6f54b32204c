"""Exports hold what the run holds, in the form that the other tool reads, whole or not at all, in bounded memory."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest

from mcscore import atomic
from mcscore.cells import unguarded
from mcscore.errors import RunError
from mcscore.machine import machine
from mcscore.pool import Pool, label_from
from mcscore.run import Run, export, score_pool
from mcscore.run.export import coco, cvat, formats, images
from mcscore.run.export.images import address

from .fakes import SPAN, Column, FakePool, FakeScorer, fail_at

N = 100
KEYS = [f'cats/{i}, the "good" 100%.png' if i == 7 else f"cats/ü{i}.png" for i in range(N)]
# What a spreadsheet would run, and what begins with the apostrophe that stops it from that.
FORMULAS = [
    "=1+1",
    "+x",
    "-x.png",
    "@SUM(A1)",
    "\tx",
    "\rx",
    "\nx",
    "＝1",
    "'=1+1",
    "''-x",
    "'tis.png",
    " padded ",
    "a\nb",
]
KEYS[20 : 20 + len(FORMULAS)] = FORMULAS
SKIPPED = {3, 50}  # labeled, excluded


class Scorer(FakeScorer):
    """Values that are hard to write: tiny, huge, negative zero, equal; one NaN."""

    def __call__(self, items: np.ndarray, ids: np.ndarray) -> dict[str, Column]:
        scores = super().__call__(items, ids)
        bald = scores["bald"].values
        for id, value in ((10, 1e-30), (11, 3e38), (12, -0.0), (13, 0.1), (14, np.nan), (15, 1e-45), (16, 16777216.0)):
            bald[ids == id] = value
        return scores


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    path = tmp_path_factory.mktemp("pools") / "pool"
    pool = Pool.create(path, FakePool().read(0, N), keys=KEYS, classes=[f"class {i}" for i in range(9)])
    pool.set_labels(np.array([3]), np.array([1]))
    pool.set_excluded(np.array([50]))
    return pool


@pytest.fixture(scope="module")
def run(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Run:
    with pytest.warns(UserWarning, match="ids 14"):
        run = score_pool(pool, Scorer(), tmp_path_factory.mktemp("runs") / "run", span=SPAN)
    run.select(12, by="bald", diversity="none")
    return run


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "_ROWS", 16)


def bits(values: list[float | None]) -> bytes:
    return np.array([math.nan if value is None else value for value in values], np.float32).tobytes()


def read_cells(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    numbers = {"id": int, "rank": int, "prediction": int, "bald": float, "entropy": float}
    return [{name: (numbers.get(name, str)(text) if text else None) for name, text in row.items()} for row in rows]


def read_csv(path: Path) -> list[dict[str, Any]]:
    rows = read_cells(path)
    return [{name: unguarded(cell) if name == "key" and cell else cell for name, cell in row.items()} for row in rows]


READ = {
    "parquet": lambda path: pq.read_table(path).to_pylist(),
    "csv": read_csv,
    "jsonl": lambda path: [json.loads(line) for line in path.read_text().splitlines()],
}


@pytest.mark.parametrize("format", READ)
def test_all_items_to_the_last_bit(run: Run, format: str) -> None:
    path = run.export(format)
    assert path == run.path / f"export-all.{format}"
    rows = READ[format](path)
    assert list(rows[0]) == ["id", "key", "bald", "entropy", "prediction"]
    assert [row["id"] for row in rows] == list(range(N))
    assert [row["key"] for row in rows] == KEYS
    for name in ("bald", "entropy"):
        assert bits([row[name] for row in rows]) == run.scores(name).tobytes()
    assert [-1 if row["prediction"] is None else row["prediction"] for row in rows] == run.prediction.tolist()
    assert {row["id"] for row in rows if row["bald"] is None} == SKIPPED | {14}


@pytest.mark.parametrize("format", READ)
@pytest.mark.parametrize("which", ["latest", "file"])
def test_a_selection_best_first(run: Run, format: str, which: str, tmp_path: Path) -> None:
    file = run.path / "selection-0001.parquet"
    path = run.export(format, tmp_path / "out", selection=which if which == "latest" else file)
    rows = READ[format](path)
    selected = pq.read_table(file)
    assert [row["id"] for row in rows] == selected["id"].to_pylist()
    assert [row["rank"] for row in rows] == selected["rank"].to_pylist() == list(range(12))
    assert [row["key"] for row in rows] == [KEYS[row["id"]] for row in rows]
    assert bits([row["bald"] for row in rows]) == run.scores("bald")[[row["id"] for row in rows]].tobytes()


def test_no_spreadsheet_runs_a_key_and_labels_come_back_to_it(run: Run, pool: Pool, tmp_path: Path) -> None:
    rows = read_cells(run.export("csv", tmp_path / "sent.csv"))
    cells = [row["key"] for row in rows[20 : 20 + len(FORMULAS)]]
    assert cells[:5] == ["'=1+1", "'+x", "'-x.png", "'@SUM(A1)", "'\tx"]
    assert cells[8:] == ["''=1+1", "'" + "''-x", "'tis.png", " padded ", "a\nb"]
    assert not any(cell[0] in "=+-@\t\r\n＝" for cell in cells)
    assert rows[16]["bald"] == 16777216.0
    with (tmp_path / "back.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["key", "label"])
        table.writerows((row["key"], row["id"] % 9) for row in rows if row["id"] not in SKIPPED)
    copy = Pool.create(tmp_path / "copy", np.zeros((N, 1), np.uint8), keys=KEYS)
    assert label_from(copy, tmp_path / "back.csv").changed == N - len(SKIPPED)
    assert copy.labels.tolist() == [-1 if i in SKIPPED else i % 9 for i in range(N)]


def test_parquet_says_where_its_rows_come_from(run: Run, tmp_path: Path) -> None:
    said = json.loads(pq.read_schema(run.export("parquet", tmp_path / "a", selection="latest")).metadata[b"mcscore"])
    assert (said["run"], said["by"], said["k"], said["method"]) == (run.meta["id"], "bald", 12, "none")
    file = pq.ParquetFile(run.export("parquet", tmp_path / "b"))
    assert file.num_row_groups == 3 + 3 + 2  # spans of 40, 40, 20 in blocks of 16


@pytest.mark.parametrize("prefix", ["/data/local-files/?d=img/", "https://host/bucket/", ""])
def test_addresses_of_the_web_lead_to_the_file(prefix: str) -> None:
    for key in ("plain.png", "cat+dog.png", "no #1.png", "50%25 off.png", "a&b=c.png", "\u00fc/\u00e9 ?.png"):
        parts = urlsplit(address(prefix, key))
        asked = parse_qs(parts.query)["d"][0].removeprefix("img/") if "?d=" in prefix else unquote(parts.path)
        assert asked.removeprefix("/bucket/") == key
        assert address("s3://bucket/", key) == f"s3://bucket/{key}", "taken literally"


@pytest.mark.parametrize("selection", [None, "latest"])
def test_label_studio_labels_the_most_informative_first(run: Run, selection: str | None, tmp_path: Path) -> None:
    path = run.export("label-studio", tmp_path / "tasks.json", selection=selection, prefix="s3://cats%20and/")
    tasks = json.loads(path.read_text())
    ids = [task["data"]["item"] for task in tasks]
    scores = run.scores("bald")
    assert set(ids) == (set(range(N)) - SKIPPED - {14} if selection is None else set(ids))
    assert len(ids) == (97 if selection is None else 12)
    for task in tasks:
        assert set(task) == {"data", "predictions"}
        assert task["data"]["image"] == f"s3://cats%20and/{KEYS[task['data']['item']]}"
        assert task["data"]["key"] == KEYS[task["data"]["item"]]
        (prediction,) = task["predictions"]
        told = task["data"]["prediction"]
        if int(told.removeprefix("class ")) < 9:
            (region,) = prediction["result"]
            assert region == {
                "from_name": "label",
                "to_name": "image",
                "type": "choices",
                "value": {"choices": [told]},
            }
        else:
            assert prediction["result"] == []  # a class without a name is no choice of the configuration
        assert prediction["model_version"] == "mcscore model bald"
        assert 0 < prediction["score"] <= 1
    assert not any(
        "id" in task["data"] for task in tasks
    )  # Label Studio has an id of its own, which would take its place
    config = ElementTree.parse(tmp_path / "tasks.xml").getroot()
    assert [each.get("value") for each in config.iter("Choice")] == [f"class {i}" for i in range(9)]
    lowest_first = sorted(tasks, key=lambda task: task["predictions"][0]["score"])
    order = [round(float(scores[task["data"]["item"]]), 15) for task in lowest_first]
    assert order == sorted(order, reverse=True)
    assert lowest_first[0]["data"]["item"] == 11
    assert {task["data"]["item"]: task["data"]["prediction"] for task in tasks}[16 if selection is None else 11] in (
        "class 6",
        "class 1",
    )
    assert bits([task["data"]["bald"] for task in tasks]) == scores[ids].tobytes()


def test_label_studio_gets_the_score_that_is_asked_for(run: Run, tmp_path: Path) -> None:
    tasks = json.loads(run.export("label-studio", tmp_path / "tasks.json", by="entropy").read_text())
    for task in tasks:
        assert task["predictions"][0]["score"] == pytest.approx(1 / (1 + task["data"]["entropy"]))


def test_regression_is_exported_as_numbers(pool: Pool, out: Path, tmp_path: Path) -> None:
    run = score_pool(pool, FakeScorer(likelihood="gaussian", scores=["variance"]), out, span=SPAN)
    rows = READ["jsonl"](run.export("jsonl", tmp_path / "a"))
    assert bits([row["prediction"] for row in rows]) == run.prediction.tobytes()
    assert json.loads(run.export("label-studio", tmp_path / "b").read_text())[0]["data"]["prediction"] == "0"


def test_nothing_that_has_a_score_is_an_empty_list(pool: Pool, out: Path, tmp_path: Path) -> None:
    class Nothing(FakeScorer):
        def __call__(self, items: np.ndarray, ids: np.ndarray) -> dict[str, Column]:
            scores = super().__call__(items, ids)
            scores["bald"].values[:] = np.nan
            return scores

    with pytest.warns(UserWarning, match="98 of 100 items have no finite score"):
        run = score_pool(pool, Nothing(), out)
    assert json.loads(run.export("label-studio", tmp_path / "a").read_text()) == []
    assert json.loads(run.export("fiftyone", tmp_path / "b").read_text()) == {"labels": {}}
    assert json.loads(run.export("coco", tmp_path / "c").read_text())["images"] == []


# -- what cannot be exported, and faults -------------------------------------------------------------------------------


def test_what_cannot_be_exported_is_refused(run: Run, pool: Pool, out: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no format 'xlsx'; choose from parquet, csv"):
        run.export("xlsx")
    with pytest.raises(RunError, match="no score 'margin'"):
        run.export("csv", by="margin")
    with pytest.raises(RunError, match="leave out by"):
        run.export("csv", by="bald", selection="latest")
    with pytest.raises(RunError, match="cannot be read as Parquet"):
        run.export("csv", selection=run.path / "run.json")
    bare = Pool.create(tmp_path / "bare", FakePool().read(0, N))
    with pytest.raises(RunError, match="could not be scored"):
        score_pool(bare, FakeScorer(on_block=fail_at(45)), out, span=SPAN)
    part = Run.open(out)
    with pytest.raises(RunError, match=r"is incomplete: 60 of 100 .*--partial"):
        part.export("csv")
    assert len(READ["csv"](part.export("csv", partial=True))) == 40
    with pytest.raises(RunError, match="no selection in"):
        part.export("csv", selection="latest")
    with pytest.raises(RunError, match="selected from another run"):
        part.export("csv", selection=run.path / "selection-0001.parquet")
    with pytest.raises(RunError, match=r"needs the key of every item, but the pool of .* has no keys"):
        part.export("fiftyone", partial=True)


def test_a_pool_that_is_gone_costs_the_keys(out: Path, tmp_path: Path) -> None:
    pool = Pool.create(tmp_path / "away", FakePool().read(0, N), keys=KEYS)
    score_pool(pool, FakeScorer(), out, span=SPAN)
    pool.path.rename(tmp_path / "moved")
    with pytest.warns(UserWarning, match=r"not where it was.*without keys"):
        rows = READ["jsonl"](Run.open(out).export("jsonl"))
    assert "key" not in rows[0]
    with pytest.raises(RunError, match="not where it was"):
        Run.open(out).export("fiftyone")
    assert READ["jsonl"](Run.open(out).export("jsonl", pool=Pool.open(tmp_path / "moved")))[7]["key"] == KEYS[7]


@pytest.mark.parametrize("format", formats.FORMATS)
def test_an_export_that_fails_leaves_what_was_there(
    run: Run, format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images.Images, "paths", lambda _self, table, _format: [("a.png", "a.png")] * len(table))
    for module in (coco, cvat):
        monkeypatch.setattr(module, "size_of", lambda _path: (4, 3))
    out = run.export(format, tmp_path / "there")
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    assert set(before) <= {"there", "there.xml"}
    shard = run.path / "scores.zarr" / "c" / "0" / "2"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1])
    try:
        with pytest.raises(RunError, match=r"of span 2 .* is damaged: .*scores.zarr/c/0/2: "):
            Run.open(run.path).export(format, out)
    finally:
        shard.write_bytes(data)
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before


def test_an_export_is_durable_before_it_has_its_name(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[str, str]] = []
    for name in ("sync", "rename"):
        real = getattr(atomic, name)
        monkeypatch.setattr(atomic, name, lambda *a, name=name, real=real: (steps.append((name, a[0].name)), real(*a)))
    run.export("csv", tmp_path / "a")
    temporary = steps[0][1]
    assert temporary != "a"
    assert steps == [("sync", temporary), ("rename", temporary), ("sync", tmp_path.name)]


def test_what_a_killed_export_left_goes_with_the_next(run: Run, tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here = machine()
    (tmp_path / f"a.{here}-{dead.pid}-0.tmp").write_text("half")
    others = [f"a.{here}-{os.getppid()}-0.tmp", f"a.00000000-{dead.pid}-0.tmp"]  # one lives, one is of another host
    for name in others:
        (tmp_path / name).write_text("half")
    run.export("csv", tmp_path / "a")
    assert sorted(os.listdir(tmp_path)) == sorted(["a", *others])
    with pytest.raises(RunError, match="could not be written"):
        run.export("csv", tmp_path / "nowhere" / "a")


_GROWS = """
import resource, sys
import numpy as np
from mcscore.pool import Pool, label_from
from mcscore.run.journal import Journal
from mcscore.run.run import Run
from benchmarks.bench_commit import fill
from pathlib import Path
n, out = int(sys.argv[1]), Path(sys.argv[2])
journal = fill(out, n, 1 << 16)[0]
for format in ("parquet", "csv", "jsonl"):
    Run(journal, journal.survey().records).export(format, out / format)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
"""


def test_memory_does_not_grow_with_the_items(tmp_path: Path) -> None:
    def mib(n: int) -> int:
        command = [sys.executable, "-W", "ignore", "-c", _GROWS, str(n), str(tmp_path / f"{n}")]
        root = Path(__file__).resolve().parents[2]
        return int(subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout)

    small, large = mib(1 << 17), mib(1 << 20)
    assert large - small < 40  # the rows of the larger are 25 MiB as columns, 80 MiB as text
