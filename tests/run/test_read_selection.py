"""A selection is read only if it is as it was written, and its items are those of the run and of the pool."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet as pq
import pytest

from mcscore.errors import RunError
from mcscore.pool import Pool
from mcscore.run import Run, score_pool
from mcscore.run.selecting.kept import read_selection
from mcscore.selection import Selection, read_parquet

from .fakes import SPAN, FakePool, FakeScorer, N, unpacked
from .test_resume import flip, record, shard


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return Pool.create(tmp_path / "pool", FakePool().read(0, N), keys=[f"{i}.png" for i in range(N)])


@pytest.fixture
def run(pool: Pool, out: Path) -> Run:
    run = score_pool(pool, FakeScorer(), out, span=SPAN)  # type: ignore[arg-type]
    run.select(9, by="bald", diversity="none")
    return run


def craft(run: Run, sealed: bool, metadata: dict[str, Any] | None = None, **columns: list[Any]) -> Path:
    """A selection of three items with other columns; as an older mcscore wrote it, or with checksums that hold."""
    chosen = Selection(np.array([1, 2, 3]), np.float32([0.5, 0.4, 0.3]), np.arange(3), None, "none")
    how = {
        "run": run.meta["id"],
        "by": "bald",
        "k": 3,
        "version": 2,
        "method": "none",
        "radius": None,
        **(metadata or {}),
    }
    data = {**chosen.to_table().to_pydict(), **columns}
    path = run.path / "selection-bald-3.parquet"
    if sealed:
        ids, rank, scores = (np.array(data.pop(name)) for name in ("id", "rank", "score"))
        own = {name: value for name, value in how.items() if name in ("run", "by")}
        return Selection(ids, scores.astype(np.float32), rank, None, "none").write_parquet(path, data, own)
    types = {"id": pyarrow.int64(), "rank": pyarrow.int64(), "score": pyarrow.float32()}
    table = pyarrow.table({name: pyarrow.array(values, types.get(name)) for name, values in data.items()})
    pq.write_table(table.replace_schema_metadata({"mcscore": json.dumps(how)}), path)
    return path


CRAFTED: dict[str, tuple[dict[str, list[Any]], str]] = {
    "beyond": ({"id": [1, 100, 3]}, "has the item 100, but .* has 100 items"),
    "far beyond": ({"id": [1, 2**62, 3]}, f"has the item {2**62}, but"),
    "negative": ({"id": [1, -2, 3]}, "column 'id' has the negative value -2"),
    "twice": ({"id": [1, 3, 3]}, "column 'id' has the value 3 more than once"),
    "rank twice": ({"rank": [0, 0, 2]}, "column 'rank' has the value 0 more than once"),
    "rank negative": ({"rank": [0, -1, 2]}, "column 'rank' has the negative value -1"),
    "NaN": ({"score": [0.5, float("nan"), 0.3]}, "item 2 has no finite score"),
    "infinite": ({"score": [float("inf"), 0.4, 0.3]}, "item 1 has no finite score"),
    "another's key": ({"key": ["1.png", "3.png", "3.png"]}, r"item 2 has the key '3.png' in .*, but '2.png' in"),
}


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("kind", CRAFTED)
def test_items_that_cannot_be_are_refused(run: Run, pool: Pool, kind: str, sealed: bool) -> None:
    columns, says = CRAFTED[kind]
    path = craft(run, sealed, **columns)
    with pytest.raises(RunError, match=says):
        read_selection(run, path, pool)
    with pytest.raises(RunError, match=says):
        run.export("jsonl", run.path.parent / "a", selection=path)
    assert not (run.path.parent / "a").exists()


def test_items_that_have_no_value_are_refused(run: Run) -> None:
    with pytest.raises(RunError, match="column 'id' has 1 rows without a value"):
        read_selection(run, craft(run, False, id=[1, None, 3]))
    with pytest.raises(RunError, match=r"was selected by 'margin'; .* has bald, entropy"):
        read_selection(run, craft(run, False, {"by": "margin"}))
    with pytest.raises(RunError, match=r"was selected by None; "):
        read_selection(run, craft(run, False, {"by": None}))


def test_an_older_selection_without_checksums_is_read(run: Run, pool: Pool) -> None:
    _, table, how = read_selection(run, craft(run, False, key=["1.png", "2.png", "3.png"]), pool)
    assert (table["id"].to_pylist(), how["k"]) == ([1, 2, 3], 3)


@pytest.mark.parametrize("gone", [b"mcscore_checksum", "content"])
def test_a_checksum_that_is_lost_is_no_older_file(run: Run, gone: Any) -> None:
    path = run.path / "selection-0001.parquet"
    table = pq.read_table(path)
    said = dict(table.schema.metadata)
    if gone in said:
        del said[gone]
    else:
        said[b"mcscore"] = said[b"mcscore"].replace(b'"content"', b'"contend"')
    pq.write_table(table.replace_schema_metadata(said), path)
    with pytest.raises(RunError, match=r"is damaged: checksum mismatch, it is not as it was written. Select again"):
        read_parquet(path)


def test_a_selection_is_read_by_one_thread(run: Run) -> None:
    """Another thread of pyarrow lets go of the file late; a process that ends meanwhile is aborted."""
    program = """
        import os, sys, pyarrow.parquet
        from mcscore.selection import read_parquet

        def threads():
            return len(os.listdir("/proc/self/task"))

        before, _ = threads(), read_parquet(sys.argv[1])
        alone = threads()
        pyarrow.parquet.read_table(open(sys.argv[1], "rb"))
        print(alone - before, threads() > before)
        sys.stdout.flush()
        os._exit(0)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(run.path / "selection-0001.parquet")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == ["0", "True"]


def test_parquet_files_have_page_checksums(run: Run) -> None:
    """A reader that asks for it finds a flipped bit of any page."""
    exported = run.export("parquet", run.path.parent / "a")
    for path in (run.path / "selection-0001.parquet", exported):
        whole, data = pq.read_table(path), path.read_bytes()
        for at in range(4, 300, 9):
            path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
            with contextlib.suppress(pyarrow.ArrowException, OSError):
                assert pq.read_table(path, page_checksum_verification=True).equals(whole)
        path.write_bytes(data[:60] + bytes([data[60] ^ 4]) + data[61:])
        with pytest.raises(OSError, match="CRC checksum verification failed"):
            pq.read_table(path, page_checksum_verification=True)


@pytest.mark.parametrize("damage", ["record", "shard"])
def test_a_selection_of_items_that_are_damaged_by_now_is_not_exported(run: Run, pool: Pool, damage: str) -> None:
    ids = pq.read_table(run.path / "selection-0001.parquet")["id"].to_pylist()
    span = ids[0] // SPAN
    unpacked(run)
    flip(record(run.path, span) if damage == "record" else shard(run.path, span))
    opened = Run.open(run.path)
    says = (
        rf"item \d+ of .* has no bald in .*: span {span} .* `mcscore run verify` tells"
        if damage == "record"
        else "is damaged"
    )
    for format in ("jsonl", "parquet", "csv"):
        with pytest.raises(RunError, match=says):
            opened.export(format, run.path.parent / "a", selection="latest", pool=pool)
    assert not (run.path.parent / "a").exists()
    with pytest.raises(RunError, match="is incomplete" if damage == "record" else "is damaged"):
        opened.export("jsonl", run.path.parent / "a", pool=pool)
