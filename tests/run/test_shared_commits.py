"""Spans that several processes commit into one run at a time: the first commit stands, and nothing is replaced."""

from __future__ import annotations

import os
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcscore import atomic
from mcscore.errors import RunError
from mcscore.run.journal import Journal, records
from mcscore.run.journal.reader import Values
from mcscore.run.run import Run
from mcscore.run.schema import Hardware, PoolState, RunHeader, Settings
from mcscore.run.spans import Span

from .fakes import SPAN, FakeScorer, N, at_step, killed_at

HEADER = RunHeader(
    id="0f" * 16,
    pool=PoolState(fingerprint="sha256:pool", n=N),
    settings=Settings.of_scorer(FakeScorer().describe()),
    span=SPAN,
    block_items=16,
)
COMMIT: dict[str, Any] = {"held": None, "conditions": 7, "shared": True}


@pytest.fixture
def journal(out: Path) -> Journal:
    out.mkdir()
    return Journal.create(out, HEADER)


def values_of(span: Span, by: float = 0.0) -> dict[str, Values]:
    ids = np.arange(span.start, span.stop)
    return {
        "bald": (np.sin(ids) + by).astype(np.float32),
        "entropy": np.where(ids % 7 == 0, np.nan, np.cos(ids)).astype(np.float32),
        "prediction": (ids % 10).astype(np.int32),
    }


def commit(journal: Journal, index: int, by: float = 0.0, **changes: Any) -> Any:
    span = journal.spans[index]
    return journal.commit(span, values_of(span, by), **{"scored": span.n, "seconds": 1.0, **COMMIT, **changes})


def files(out: Path) -> dict[str, bytes]:
    return {str(file.relative_to(out)): file.read_bytes() for file in sorted(out.rglob("*")) if file.is_file()}


def test_a_span_committed_twice_keeps_its_first_record(journal: Journal) -> None:
    first = commit(journal, 1, seconds=1.0)
    before = files(journal.path)
    assert commit(Journal.open(journal.path), 1, seconds=2.0) == first
    assert first.seconds == 1.0
    assert files(journal.path) == before


def test_a_commit_of_other_conditions_leaves_that_of_another_process(journal: Journal) -> None:
    first = commit(journal, 0)
    before = files(journal.path)
    assert commit(journal, 0, by=1e-6, conditions=8) == first
    assert files(journal.path) == before


def test_equal_conditions_and_other_bits_are_an_error_with_or_without_a_record(journal: Journal) -> None:
    commit(journal, 0)
    record = journal.path / "commits" / "000000.json"
    for _ in range(2):
        with pytest.raises(RunError, match=r"span 0 .* scored twice under the same conditions, and 40 of its items"):
            commit(journal, 0, by=0.5)
        record.unlink(missing_ok=True)


def test_other_items_are_no_contradiction(journal: Journal) -> None:
    first = commit(journal, 2)
    fewer = values_of(journal.spans[2])
    fewer["bald"][3] = np.nan  # labeled meanwhile
    assert journal.commit(journal.spans[2], fewer, scored=19, **COMMIT) == first


@pytest.mark.parametrize("there", ["other bits", "torn", "nothing in it"])
def test_a_shard_without_a_record_is_left_to_who_holds_the_run_alone(journal: Journal, there: str) -> None:
    commit(journal, 0)
    (journal.path / "commits" / "000000.json").unlink()
    shard = journal.path / "scores.zarr" / "c" / "0" / "0"
    if there != "other bits":
        shard.write_bytes(shard.read_bytes()[:100] if there == "torn" else b"")
    before = files(journal.path)
    assert commit(journal, 0, by=1e-6, conditions=8) is None
    assert files(journal.path) == before
    assert [span.index for span in journal.unrecorded()] == [0, 1, 2]
    alone = commit(journal, 0, by=1e-6, conditions=8, shared=False)  # who holds it replaces the shard
    assert journal.read(alone, "bald").tolist() == values_of(journal.spans[0], 1e-6)["bald"].tolist()


@pytest.mark.parametrize("why", ["torn", "another run", "other checksums"])
def test_a_record_that_does_not_hold_is_left_to_who_holds_the_run_alone(journal: Journal, why: str) -> None:
    record = journal.path / "commits" / "000000.json"
    first = commit(journal, 0)
    if why == "torn":
        record.write_bytes(record.read_bytes()[:-9])
    elif why == "another run":
        record.write_bytes(records.encode(first._replace(run="aa" * 16)))
    else:
        (journal.path / "scores.zarr" / "c" / "0" / "0").unlink()  # lost, and scored again with other bits
    before = files(journal.path)
    by, conditions = (1e-6, 8) if why == "other checksums" else (0.0, 7)
    assert commit(journal, 0, by=by, conditions=conditions) is None
    changed = {name for name, data in files(journal.path).items() if before.get(name) != data}
    assert changed == ({"scores.zarr/c/0/0"} if why == "other checksums" else set())


def test_what_is_held_is_not_committed_shared(journal: Journal) -> None:
    held = commit(journal, 2)
    with pytest.raises(ValueError, match=r"span 2 .* is held"):
        commit(journal, 2, held=held)


def test_the_record_of_a_span_shows_at_once_and_in_the_list(journal: Journal) -> None:
    other = Journal.open(journal.path)
    assert [other.recorded(span) for span in other.spans] == [False, False, False]
    commit(journal, 1)
    assert [other.recorded(span) for span in other.spans] == [False, True, False]
    assert [span.index for span in other.unrecorded()] == [0, 2]
    journal.pack([commit(journal, 0), commit(journal, 1), commit(journal, 2)])
    assert [other.recorded(span) for span in other.spans] == [True, True, True]
    assert other.unrecorded() == []
    (journal.path / "commits" / "packed.jsonl").unlink()
    assert [span.index for span in other.unrecorded()] == [0, 1, 2]


def test_many_processes_commit_every_span_and_all_get_the_same_records(journal: Journal) -> None:
    got: list[list[Any]] = [[] for _ in range(6)]
    barrier = threading.Barrier(len(got))

    def worker(own: list[Any], number: int) -> None:
        mine = Journal.open(journal.path)
        for index in range(3):
            barrier.wait()
            own.append(commit(mine, index, seconds=float(number)))

    threads = [threading.Thread(target=worker, args=(own, number)) for number, own in enumerate(got)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(own == got[0] for own in got)
    assert Run.open(journal.path).complete
    assert not list(journal.path.rglob("*.tmp"))


def test_a_kill_at_any_step_of_a_shared_commit_costs_nothing_but_the_attempt(journal: Journal) -> None:
    with at_step(10**9, lambda *_: None) as seen:
        commit(journal, 0)
    steps = list(seen)
    for n, step in enumerate(steps):
        for file in (journal.path / "commits").iterdir():
            file.unlink()
        for file in (journal.path / "scores.zarr" / "c" / "0").iterdir():
            file.unlink()
        killed_at(n, partial(commit, journal, 0))
        record = commit(journal, 0)
        assert record is not None, (n, step)
        assert [each.span.index for each in journal.survey().records] == [0], (n, step)
        assert list(journal.damage()) == [], (n, step)


def test_a_name_that_another_process_made_is_durable_before_its_record_is_returned(journal: Journal) -> None:
    commit(journal, 0)
    synced: list[Path] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atomic, "sync", synced.append)
        commit(journal, 0)
    assert journal.path / "scores.zarr" / "c" / "0" in synced
    assert journal.path / "commits" in synced


def test_what_another_process_changed_in_the_header_is_not_undone(journal: Journal) -> None:
    other = Journal.open(journal.path)
    more = PoolState(fingerprint="sha256:more", n=N + 30)
    assert journal.grow(more).header.pool == more
    assert other.grow(more).header.pool == more  # the same change is no conflict
    with pytest.raises(RunError, match=r"run\.json was changed by another process meanwhile; start again"):
        other.certify({"items": 1})
    assert Journal.open(journal.path).header.pool == more


def test_hardware_named_by_several_processes_at_once_is_all_kept(journal: Journal) -> None:
    kinds = [Hardware(device=f"CPU {number}") for number in range(5)]
    stale = [Journal.open(journal.path) for _ in range(10)]
    threads = [
        threading.Thread(target=each.add_hardware, args=(kinds[number % 5],)) for number, each in enumerate(stale)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    named = Journal.open(journal.path).header.hardware
    assert sorted(each.device for each in named) == [f"CPU {number}" for number in range(5)]
    again = stale[0].add_hardware(kinds[3])
    assert list(again.header.hardware) == list(named)
    assert os.listdir(journal.path).count("run.json") == 1


@pytest.mark.parametrize("shared", [True, False])
def test_a_record_that_is_packed_at_that_moment_is_found(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    """Where there is no lock, who finds nothing left packs the records while another still commits its last span."""
    committed = [commit(journal, index) for index in range(len(journal.spans))]
    late = Journal.open(journal.path)
    create = late.place.create

    def created(name: str, data: bytes) -> None:
        try:
            create(name, data)
        finally:
            if name.startswith("commits/"):
                journal.pack(committed)

    monkeypatch.setattr(late.place, "create", created)
    assert commit(late, 1, seconds=2.0, shared=shared) == committed[1]
    assert os.listdir(journal.path / "commits") == ["packed.jsonl"]
