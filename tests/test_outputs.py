"""A file that a verb is told to write replaces one of its kind that mcscore made, and nothing else."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mcscore import Pool, demo
from mcscore.errors import Error, PoolError, RunError
from mcscore.machine import machine
from mcscore.pool.pictures.contact_sheet import contact_sheet
from mcscore.report import view, write_report
from mcscore.run import Run, score_pool
from mcscore.run.export.formats import FORMATS

from .run.fakes import SPAN, FakeScorer
from .run.made_up import tiny_scorer

N = 60


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Pool]:
    folder = tmp_path_factory.mktemp("outputs")
    images = np.random.default_rng(0).integers(0, 255, (N, 1, 2, 4), np.uint8)
    for i in range(N):
        Image.fromarray(images[i, 0]).save(folder / f"{i}.png")
    pool = Pool.create(folder / "pool", images, keys=[f"{i}.png" for i in range(N)])
    flat = Pool.create(folder / "flat", images.reshape(N, 8), keys=[f"{i}.png" for i in range(N)])
    run = score_pool(flat, tiny_scorer(), folder / "run", span=SPAN)
    run.select(5, diversity="none")
    return run, pool


@pytest.fixture(scope="module", autouse=True)
def _drawn_once(scored: tuple[Run, Pool]) -> Iterator[None]:
    """A report takes a second to draw; exports that name pictures find them in the current directory."""
    drawn = view.view(scored[0], None, None, [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(view, "view", lambda *_: drawn)
        patch.chdir(scored[0].path.parent)
        yield


Write = Callable[[Run, Pool, Path], object]
WRITES: dict[str, Write] = {
    **{f"export {name}": lambda run, _pool, out, name=name: run.export(name, out) for name in FORMATS},
    "export of a selection": lambda run, _pool, out: run.export("parquet", out, selection="latest"),
    "report": lambda run, _pool, out: write_report(run, out=out),
    "contact sheet": lambda _run, pool, out: contact_sheet(pool, out),
    "selection": lambda run, _pool, out: run.select(5, diversity="none").write_parquet(out),
}


def beside(verb: str) -> list[str]:
    """What a verb writes beside the file of the name "out"."""
    return ["out.xml"] if verb == "export label-studio" else []


EACH = pytest.mark.parametrize("verb", WRITES)
MINE: dict[str, bytes] = {
    "text": b"my notes\n",
    "csv": b"id,prediction\n0,3\n",
    "json": b'{"labels": {"a": 1}}',
    "jsonl": b'{"id": 1, "text": "a", "prediction": 2}\n',
    "list": b'[\n{"data": {"image": "a.png"}}\n]\n',
    "html": b"<!doctype html><title>mine</title>",
    "png": b"\x89PNG\r\n\x1a\n" + bytes(300),
    "parquet": b"PAR1" + bytes(20) + b"PAR1",
}


@EACH
def test_a_file_of_the_kind_is_replaced_and_an_empty_one_too(
    scored: tuple[Run, Pool], verb: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for start in (None, b""):
        if start is not None:
            out.write_bytes(start)
        WRITES[verb](*scored, out)
        first = out.read_bytes()
        WRITES[verb](*scored, out)
        assert len(out.read_bytes()) == len(first) > 0
    assert sorted(os.listdir(tmp_path)) == ["out", *beside(verb)]


@EACH
def test_a_file_of_anyone_else_stays(scored: tuple[Run, Pool], verb: str, tmp_path: Path) -> None:
    for name, content in MINE.items():
        out = tmp_path / name
        out.write_bytes(content)
        with pytest.raises(Error, match=rf"{name} exists and is not (an? .*) that mcscore made; choose another name"):
            WRITES[verb](*scored, out)
        assert out.read_bytes() == content
    assert sorted(os.listdir(tmp_path)) == sorted(MINE)


@EACH
def test_a_kind_does_not_replace_another(scored: tuple[Run, Pool], verb: str, tmp_path: Path) -> None:
    for other, write in WRITES.items():
        if other.split()[0] == verb.split()[0]:
            continue
        out = tmp_path / other
        write(*scored, out)
        before = out.read_bytes()
        with pytest.raises(Error, match="that mcscore made"):
            WRITES[verb](*scored, out)
        assert out.read_bytes() == before


@EACH
def test_what_is_no_file_stays_as_it_is(scored: tuple[Run, Pool], verb: str, tmp_path: Path) -> None:
    WRITES[verb](*scored, tmp_path / "file")
    whole = (tmp_path / "file").read_bytes()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("nothing")
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
        kinds = {"folder": "a directory", "link": "a symbolic link", "dangling": "a symbolic link", "fifo": "a FIFO"}
        for name, kind in {**kinds, "socket": "a socket", "/dev/null": "a device"}.items():
            before = os.lstat(tmp_path / name)
            with pytest.raises(Error, match=rf"{name} is {kind}: .*; nothing was written"):
                WRITES[verb](*scored, tmp_path / name)
            assert (os.lstat(tmp_path / name).st_ino, os.lstat(tmp_path / name).st_mode) == (
                before.st_ino,
                before.st_mode,
            )
    assert (tmp_path / "file").read_bytes() == whole


@EACH
def test_files_of_a_run_or_pool_are_not_written_over(scored: tuple[Run, Pool], verb: str) -> None:
    run, pool = scored
    inside = [
        run.path / name for name in ("run.json", "lock", "commits/x", "scores.zarr/c/0/0", "scores.zarr/new", "a.tmp")
    ]
    inside += [pool.path / name for name in ("zarr.json", "x", "labels/c.0", "items/new")]
    before = {path: path.read_bytes() for root in (run.path, pool.path) for path in root.rglob("*") if path.is_file()}
    for out in inside:
        with pytest.raises(
            Error, match=rf"{out.name} would be in the (run|pool) .*, among its files; choose another name"
        ):
            WRITES[verb](*scored, out)
    for path, content in before.items():
        assert path.read_bytes() == content
    new = run.path / "chosen-by-me"
    WRITES[verb](*scored, new)  # a new name beside what a run has
    new.unlink()


def test_the_error_is_that_of_the_verb(scored: tuple[Run, Pool], tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    for verb in ("export csv", "report", "selection"):
        with pytest.raises(RunError):
            WRITES[verb](*scored, tmp_path / "mine")
    with pytest.raises(PoolError):
        WRITES["contact sheet"](*scored, tmp_path / "mine")


# -- directories -------------------------------------------------------------------------------------------------------


def array_of_mine(folder: Path) -> None:
    import zarr

    zarr.create_array(folder / "scores.zarr", shape=(4,), dtype="f4")[:] = 1


OTHERS: dict[str, Callable[[Path], object]] = {
    "scores.zarr": array_of_mine,
    "notes.txt": lambda folder: (folder / "notes.txt").write_text("mine"),
    "lock": lambda folder: (folder / "lock").write_text("mine"),
    "commits": lambda folder: ((folder / "commits").mkdir(), (folder / "commits" / "a.tmp").write_text("mine")),
    "thesis": lambda folder: (folder / "thesis").mkdir(),
    "run.json.tmp": lambda folder: (folder / "run.json.tmp").write_text("mine"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_directory_of_anyone_else_is_no_place_for_a_run(scored: tuple[Run, Pool], name: str, tmp_path: Path) -> None:
    OTHERS[name](tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match=rf"holds {name}.* and is not a run .*; choose another directory"):
        score_pool(scored[1], FakeScorer(), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_run_is_not_made_in_a_run_or_a_pool(scored: tuple[Run, Pool]) -> None:
    run, pool = scored
    for out in (run.path / "again", run.path / "commits" / "x", pool.path / "run", pool.path / "items" / "run"):
        with pytest.raises(RunError, match=r"would be in the (run|pool) .*, among its files; choose another directory"):
            score_pool(pool, FakeScorer(), out)
        assert not out.exists()


@pytest.mark.parametrize("name", ["notes.txt", "pool.zarr"])
def test_the_demo_removes_a_demo_and_nothing_else(name: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    Pool.create(out / "pool.zarr", np.zeros((3, 2), np.uint8), source="mine")
    if name != "pool.zarr":
        (out / name).write_text("mine")
    with pytest.raises(FileExistsError, match=rf"holds {name} and is not a former demo; choose another --out"):
        demo.main(out)
    assert (out / "pool.zarr").exists()


# -- what the killed leave ---------------------------------------------------------------------------------------------


@EACH
def test_what_a_killed_verb_left_goes_with_the_next_that_writes_there(
    scored: tuple[Run, Pool], verb: str, tmp_path: Path
) -> None:
    here, dead = machine(), 2**22 + 1
    spared = [f"a.{here}-{os.getppid()}-7.tmp", "notes.tmp"]
    for name in (*spared, f"out.{here}-{dead}-0.tmp", f"other.csv.{here}-{dead}-12.tmp"):
        (tmp_path / name).write_bytes(b"partial")
    WRITES[verb](*scored, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == sorted(["out", *beside(verb), *spared])
