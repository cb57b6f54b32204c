"""Runs in object stores: whatever happens at whatever request, going on ends in the scores of an undisturbed local run."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

pytest.importorskip("obstore")
from mcscore.cli import main
from mcscore.errors import RunError
from mcscore.pool import Pool
from mcscore.run import Screen, score_pool
from mcscore.run.journal import Journal
from mcscore.run.run import Run
from mcscore.run.status import info, verify
from mcscore.scorer import Scorer
from mcscore.store.place import any_path, objects, place_at

from ..s3 import LATE, Fault, every, faulty, s3, s3_server
from .fakes import SPAN, FakePool, FakeScorer, N, content, fail_at, grown, kill_five_times

__all__ = ["faulty", "s3", "s3_server"]  # fixtures


@pytest.fixture
def memory() -> str:
    return f"memory://{uuid.uuid4().hex}"


@pytest.fixture(params=["memory", "s3"])
def store(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


def score(where: str, **changes: Any) -> Run:
    """Score the pool of the fakes into a URL, whatever is there of it."""
    there = place_at(any_path(where)).version("run.json") is not None
    return score_pool(FakePool(), FakeScorer(step=2 if there else 1, **changes), where, span=SPAN)


def names_in(where: str) -> list[str]:
    place = place_at(any_path(where))
    return [*place.names(), *place.names("commits"), *place.names("scores.zarr/c/0")]


WHOLE = ["commits", "run.json", "scores.zarr", "skipped", "packed.jsonl", "0", "1", "2"]


class Killed(BaseException):
    """The process is gone: nothing that would come after this has happened."""


Act = Callable[[Callable[..., Any], tuple[Any, ...]], Any]


@contextmanager
def at_request(n: int, act: Act) -> Iterator[list[str]]:
    """Call ``act`` in place of the n-th request that writes; the requests there were come out."""
    seen: list[str] = []

    def step(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        async def request(*args: Any) -> None:
            seen.append(name)
            await (act(real, args) if len(seen) == n + 1 else real(*args))

        return request

    with pytest.MonkeyPatch.context() as patch:
        for name in ("put", "delete"):
            patch.setattr(objects, name, step(name, getattr(objects, name)))
        yield seen


@pytest.fixture(scope="module")
def requests() -> list[str]:
    async def never(*_: Any) -> None: ...

    with at_request(10**9, never) as seen:
        score(f"memory://{uuid.uuid4().hex}/run")
    assert seen.count("put") == 4 + 3 + 2 * 3 + 1  # conditions, run.json and two more, spans, records
    assert seen.count("delete") == 2
    return seen


def test_a_run_in_a_store_is_that_on_a_disk(store: str, out: Path, undisturbed: dict[str, bytes]) -> None:
    here, there = score_pool(FakePool(), FakeScorer(), out, span=SPAN), score(f"{store}/deep/run")
    assert content(there) == content(Run.open(f"{store}/deep/run")) == undisturbed
    assert names_in(f"{store}/deep/run") == WHOLE
    for own, other in zip(here._records, there._records, strict=True):
        assert own._replace(run="", seconds=0) == other._replace(run="", seconds=0)
    place = place_at(any_path(f"{store}/deep/run"))
    for index in range(3):
        name = f"scores.zarr/c/0/{index}"
        assert place.read(name)[48:] == (out / name).read_bytes()[48:]  # the header names the run
    assert place.read("scores.zarr/zarr.json") == (out / "scores.zarr" / "zarr.json").read_bytes()
    assert list(verify(f"{store}/deep/run")) == []
    status = info(f"{store}/deep/run")
    assert (status.spans_done, status.holder, status.bytes) == (3, None, place.size())


def test_any_request_may_be_refused(memory: str, requests: list[str], undisturbed: dict[str, bytes]) -> None:
    async def refuse(_real: Any, _args: Any) -> None:
        raise PermissionError("no")

    for n, name in enumerate(requests):
        where = f"{memory}/{n}"
        with at_request(n, refuse):
            if name == "delete":  # of records that are packed, or of what tried the conditions: nothing depends on it
                assert content(score(where)) == undisturbed
            else:
                with pytest.raises(RunError, match="cannot be written: PermissionError: no"):
                    score(where)
        assert content(score(where)) == undisturbed, (n, name)


@pytest.mark.parametrize("carried_out", [False, True])
def test_a_kill_may_come_at_any_request(
    memory: str, requests: list[str], undisturbed: dict[str, bytes], carried_out: bool
) -> None:
    async def kill(real: Any, args: Any) -> None:
        if carried_out:
            with suppress(Exception):  # its condition may fail
                await real(*args)
        raise Killed

    for n, name in enumerate(requests):
        where = f"{memory}/{n}"
        with at_request(n, kill), pytest.raises(Killed):
            score(where)
        assert content(score(where)) == undisturbed, (n, name)
        assert [each for each in names_in(where) if not each.startswith(".mcscore-probe-")] == WHOLE, (n, name)
        assert list(verify(where)) == [], (n, name)


@pytest.mark.filterwarnings("ignore:.*Trying again")
def test_the_answer_to_any_request_may_be_lost(
    memory: str, requests: list[str], undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcscore.store.remote._FIRST_PAUSE", 0.0)

    async def lose(real: Any, args: Any) -> None:
        await real(*args)
        raise ConnectionResetError("the connection broke off")

    for n, name in enumerate(requests):
        where = f"{memory}/{n}"
        with at_request(n, lose):
            assert content(score(where)) == undisturbed, (n, name)
        assert names_in(where) == WHOLE, (n, name)


def test_five_real_kills(s3: str, undisturbed: dict[str, bytes]) -> None:
    where = f"{s3}/run"
    kill_five_times(where)
    assert content(score(where)) == undisturbed
    assert names_in(where) == WHOLE


@pytest.mark.filterwarnings("ignore:.*Trying again")
@pytest.mark.parametrize("kinds", [("500", "lost", "429"), ("dropped", "late", "503")])
def test_writers_that_race_on_a_bad_network_agree(
    faulty: tuple[str, Callable[[Fault], None]], undisturbed: dict[str, bytes], kinds: tuple[str, ...]
) -> None:
    url, fail = faulty
    fail(every(7, *kinds))
    runs, errors = list[Run](), list[Exception]()

    def worker() -> None:
        for _ in range(3):  # one makes the run; who comes too late for that takes it up
            try:
                there = place_at(any_path(f"{url}/run")).version("run.json") is not None
                runs.append(score_pool(FakePool(), FakeScorer(step=2 if there else 1), f"{url}/run", span=SPAN))
                return
            except RunError as error:
                if "was made a run by another process meanwhile" not in str(error):
                    errors.append(error)
                    return

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        threads = [threading.Thread(target=worker) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        fail(lambda _method, _path: "")
        time.sleep(2 * LATE)  # for what comes late
        assert errors == []
        assert [content(run) for run in runs] == [undisturbed] * 4
        assert content(Run.open(f"{url}/run")) == undisturbed
        assert list(verify(f"{url}/run")) == []


def test_two_drivers_of_other_conditions_mix_no_scores(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where = f"{memory}/run"
    with pytest.raises(RunError, match="could not be scored"):
        score(where, on_block=fail_at(5))
    one, other = Journal.open(any_path(where)), Journal.open(any_path(where))
    values = {name: np.full(SPAN, 1, one.empty(name, 0).dtype) for name in one.rows}
    changed = {**values, "bald": values["bald"] + 1}
    real, records = objects.put, list[Any]()

    async def put(store: Any, key: str, data: bytes, mode: Any) -> None:
        await real(store, key, data, mode)
        if key.endswith("c/0/0"):  # the other one comes between shard and record
            monkeypatch.setattr(objects, "put", real)
            threading.Thread(
                target=lambda: records.append(
                    other.commit(other.spans[0], changed, held=None, conditions=2, scored=SPAN)
                )
            ).start()
            while not records:
                await asyncio.sleep(0.01)

    monkeypatch.setattr(objects, "put", put)
    with pytest.raises(RunError, match="was committed by another process meanwhile"):
        one.commit(one.spans[0], values, held=None, conditions=1, scored=SPAN)
    (record,) = Journal.open(any_path(where)).survey().records
    assert record == records[0]
    assert other.read(record, "bald").tolist() == changed["bald"].tolist()


def test_what_is_damaged_is_scored_again(memory: str, undisturbed: dict[str, bytes]) -> None:
    where = f"{memory}/run"
    score(where)
    place = place_at(any_path(where))
    place.replace("scores.zarr/c/0/1", place.read("scores.zarr/c/0/1")[:-1])
    place.remove("scores.zarr/zarr.json")
    assert [damage.facts()["file"] for damage in verify(where)] == [
        f"{where}/scores.zarr/c/0/1",
        f"{where}/scores.zarr/zarr.json",
    ]
    with pytest.raises(
        RunError, match=rf"bald of span 1 .* is damaged: {where}/scores.zarr/c/0/1: 591 bytes instead of 592"
    ):
        Run.open(where).scores("bald")
    scorer = FakeScorer(step=2)
    with pytest.warns(UserWarning, match="what is damaged is scored again"):
        assert content(score_pool(FakePool(), scorer, where)) == undisturbed
    assert scorer.seen == list(range(40, 80))
    assert list(verify(where)) == []


def test_a_pool_may_grow(store: str, out: Path) -> None:
    for where in (out, f"{store}/run"):
        score_pool(FakePool(), FakeScorer(), where, span=SPAN)
        score_pool(grown(130), FakeScorer(step=2), where)
    assert content(Run.open(f"{store}/run")) == content(Run.open(out))
    assert list(verify(f"{store}/run")) == []


def test_a_screened_run(store: str, out: Path) -> None:
    screen = Screen(top=5, passes=10)
    here, there = (
        score_pool(FakePool(), FakeScorer(), where, span=SPAN, screen=screen) for where in (out, f"{store}/run")
    )
    assert here.screen is not None
    assert there.screen is not None
    assert content(there) == content(here)
    assert there.screen.scores("bald").tolist() == here.screen.scores("bald").tolist()
    assert info(f"{store}/run").screen is not None
    assert list(verify(f"{store}/run")) == []


def test_a_place_that_holds_something_else_becomes_no_run(store: str) -> None:
    place_at(any_path(f"{store}/mine")).create("notes.txt", b"mine")
    with pytest.raises(RunError, match=rf"{store}/mine holds notes.txt and is not a run"):
        score(f"{store}/mine")
    score(f"{store}/run")
    with pytest.raises(RunError, match=rf"{store}/run/inner would be in the run {store}/run"):
        score(f"{store}/run/inner")
    place_at(any_path(f"{store}/pool")).create("zarr.json", b"{}")
    with pytest.raises(RunError, match=rf"would be in the pool {store}/pool"):
        score(f"{store}/pool/a/b")


def test_there_is_no_run_where_nothing_is(store: str) -> None:
    with pytest.raises(RunError, match=rf"{store}/none is not a run: it has no run.json"):
        Run.open(f"{store}/none")


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    keys = [f"{i}.png" for i in range(N)]
    return Pool.create(tmp_path / "pool", FakePool().read(0, N), keys=keys, classes=[f"class {i}" for i in range(10)])


def run_verbs(*words: str) -> dict[str, Any]:
    result = CliRunner().invoke(main, [*words, "--json"])
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def test_every_verb_works_on_a_run_in_a_store(s3: str, pool: Pool, tmp_path: Path) -> None:
    url, out = f"{s3}/run", tmp_path / "run"
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(), torch.nn.Linear(8, 10))
    for where in (url, out):
        score_pool(pool, Scorer(model, passes=10), where, span=SPAN)
    assert run_verbs("run", "info", url)["done"] == N
    assert run_verbs("run", "verify", url)["damage"] == []
    for number, k in enumerate((7, 9), 1):
        chosen = run_verbs("select", url, "-k", f"{k}", "--diversity", "none")
        assert chosen["ids"] == run_verbs("select", str(out), "-k", f"{k}", "--diversity", "none")["ids"]
        assert chosen["file"] == f"{url}/selection-000{number}.parquet"
    for words in (
        ["--selection", "latest"],
        ["--selection", f"{url}/selection-0002.parquet"],
        ["--selection", "2"],
        [],
    ):
        files = [tmp_path / f"{i}.jsonl" for i in range(2)]
        for where, file in zip((url, str(out)), files, strict=True):
            named = [word.replace(url, where) for word in words]
            run_verbs("export", where, "--format", "jsonl", "--out", str(file), *named)
        assert files[0].read_bytes() == files[1].read_bytes()
    result = CliRunner().invoke(main, ["export", url])
    assert result.exit_code == 1
    assert "say where with out (--out)" in result.output
    pytest.importorskip("jinja2")
    assert run_verbs("report", url)["report"] == f"{url}/report.html"
    page = place_at(any_path(url)).read("report.html")
    assert b'<meta name="generator" content="mcscore ' in page
    assert run_verbs("report", url, "--out", str(tmp_path / "page.html"))["report"] == str(tmp_path / "page.html")


def test_a_file_of_somebody_else_is_not_replaced(memory: str, pool: Pool) -> None:
    run = score_pool(pool, FakeScorer(), f"{memory}/run", span=SPAN)  # type: ignore[arg-type]
    place_at(any_path(f"{memory}/run")).create("selection-0001.parquet", b"mine")
    assert run.select(3, by="bald", diversity="none").file == any_path(f"{memory}/run/selection-0002.parquet")
    assert place_at(any_path(f"{memory}/run")).read("selection-0001.parquet") == b"mine"


def test_no_verb_makes_a_folder_of_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: Pool) -> None:
    score_pool(pool, FakeScorer(), tmp_path / "run", span=SPAN)  # type: ignore[arg-type]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    np.save("array.npy", np.zeros((3, 2, 2), np.float32))
    for words in (
        ["pool", "import", "array.npy", "s3://bucket/pool"],
        ["pool", "compact", str(pool.path), "--out", "s3://bucket/pool"],
        ["pool", "info", str(pool.path), "--contact-sheet", "s3://bucket/sheet.png"],
        ["score", str(pool.path), "--model", "a.py:Net", "--out", "ftp://bucket/run"],
        ["export", str(tmp_path / "run"), "--out", "s3://bucket/all.parquet"],
        ["report", str(tmp_path / "run"), "--out", "s3://bucket/report.html"],
        ["demo", "--out", "s3://bucket/demo"],
    ):
        result = CliRunner().invoke(main, words)
        assert result.exit_code in (1, 2), (words, result.output)
        assert "://" in result.output, (words, result.output)
    run = Run.open(tmp_path / "run")
    for call in (
        lambda: Pool.create("s3://bucket/pool", np.zeros((3, 2), np.float32)),
        lambda: run.export("csv", "s3://bucket/all.csv"),
        lambda: run.select(3, by="bald", diversity="none").write_parquet("s3://bucket/chosen.parquet"),
        lambda: score_pool(FakePool(), FakeScorer(), Path("s3://bucket/run")),
    ):
        with pytest.raises(ValueError, match="no local path"):
            call()
    assert os.listdir() == ["array.npy"]


def test_records_of_their_own_are_read_many_at_a_time(memory: str, undisturbed: dict[str, bytes]) -> None:
    where = f"{memory}/run"
    score(where)
    place = place_at(any_path(where))
    for number, line in enumerate(place.read("commits/packed.jsonl").splitlines(keepends=True)):
        place.create(f"commits/{number:06d}.json", line)
    place.remove("commits/packed.jsonl")
    assert content(Run.open(where)) == undisturbed
