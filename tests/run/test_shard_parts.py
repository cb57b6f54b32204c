"""Which shard a process is, which spans it scores in which order, and what it asks of the file system."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from mcscore import atomic
from mcscore.errors import RunError
from mcscore.run.shards import Shard, probe
from mcscore.run.shards.order import Order
from mcscore.run.spans import Span, cut
from mcscore.store import mount
from mcscore.store.mount import Mount

# -- number ------------------------------------------------------------------------------------------------------------

SLURM = {"SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_COUNT": "5"}


@pytest.mark.parametrize(
    ("text", "environment", "shard"),
    [
        ("0/1", {}, Shard(0, 1)),
        (" 7/8 ", {}, Shard(7, 8)),
        ("auto", {**SLURM, "SLURM_ARRAY_TASK_ID": "4"}, Shard(4, 5)),
        ("auto", {**SLURM, "SLURM_ARRAY_TASK_ID": "12", "SLURM_ARRAY_TASK_MIN": "10"}, Shard(2, 5)),
        ("auto", {**SLURM, "SLURM_ARRAY_TASK_ID": "13", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_STEP": "4"}, Shard(3, 5)),
        ("auto/20", {**SLURM, "SLURM_ARRAY_TASK_ID": "4"}, Shard(4, 20)),
        ("auto/8", {"JOB_COMPLETION_INDEX": "0"}, Shard(0, 8)),
        ("auto", {"JOB_COMPLETION_INDEX": "6", "MCSCORE_SHARDS": "7"}, Shard(6, 7)),
        ("auto/9", {"JOB_COMPLETION_INDEX": "6", "MCSCORE_SHARDS": "7"}, Shard(6, 9)),
    ],
)  # fmt: skip
def test_a_shard_is_given_or_read_from_a_job_array(text: str, environment: dict[str, str], shard: Shard) -> None:
    assert Shard.parse(text, environment) == shard


@pytest.mark.parametrize(
    ("text", "environment", "says"),
    [
        ("8/8", {}, "there is no shard 8 of 8: they are numbered 0 to 7"),
        ("0/0", {}, "0 shards cannot score a run"),
        ("-1/8", {}, "'-1/8' is no shard: write 2/8 for the third of eight, or auto"),
        ("3", {}, "'3' is no shard"),
        ("1/2/3", {}, "is no shard"),
        ("auto", {}, "neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX is set"),
        ("auto", {"JOB_COMPLETION_INDEX": "1"}, "MCSCORE_SHARDS is '', and a number is needed; write auto/8, or set MCSCORE_SHARDS"),
        ("auto/2", {"JOB_COMPLETION_INDEX": "2"}, "there is no shard 2 of 2"),
        ("auto", {"SLURM_ARRAY_TASK_ID": "1"}, "SLURM_ARRAY_TASK_MIN is ''"),
        ("auto", {**SLURM, "SLURM_ARRAY_TASK_ID": "9"}, "5 tasks, but not at equal distances from 0 on: write the shard as 2/8"),
        ("auto", {**SLURM, "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_STEP": "2"}, "not at equal distances"),
    ],
)  # fmt: skip
def test_what_is_no_shard_is_refused(text: str, environment: dict[str, str], says: str) -> None:
    with pytest.raises(RunError, match=says):
        Shard.parse(text, environment)


@pytest.mark.parametrize(("spans", "count"), [(63, 4), (4, 4), (3, 7), (1, 1), (1000, 999)])
def test_every_span_is_of_one_shard(spans: int, count: int) -> None:
    ranges = [Shard(index, count).own(spans) for index in range(count)]
    assert [index for own in ranges for index in own] == list(range(spans))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


# -- order -------------------------------------------------------------------------------------------------------------


class Recorded:
    """A journal of which only the names of records are looked at."""

    def __init__(self, spans: int, recorded: set[int]) -> None:
        self.spans, self.there = cut(10 * spans, 10), recorded

    def recorded(self, span: Span) -> bool:
        return span.index in self.there

    def unrecorded(self) -> list[Span]:
        return [span for span in self.spans if span.index not in self.there]


def order(journal: Recorded, own: range, given: dict[int, Span] | None = None, name: str = "a") -> Order:
    return Order(journal, own, {} if given is None else given, name)  # type: ignore[arg-type]


def test_the_own_spans_come_in_order_and_then_those_that_nobody_has_recorded() -> None:
    spans = [span.index for span in order(Recorded(20, {1, 6, 15}), range(5, 10))]
    assert spans[:4] == [5, 7, 8, 9]
    assert sorted(spans[4:]) == [0, 2, 3, 4, *range(10, 15), 16, 17, 18, 19]


def test_those_who_help_do_not_go_the_same_way() -> None:
    ways = [tuple(span.index for span in order(Recorded(50, set()), range(0), name=name)) for name in "abcdef"]
    assert len(set(ways)) == len(ways)
    assert {tuple(sorted(way)) for way in ways} == {tuple(range(50))}
    firsts = {way[0] for way in ways}
    assert len(firsts) > 3


def test_what_another_has_recorded_by_its_turn_is_passed_over() -> None:
    journal = Recorded(10, set())
    seen = []
    for span in order(journal, range(3, 6)):
        seen.append(span.index)
        journal.there |= {4, *range(7, 10)}
    assert seen[:2] == [3, 5]
    assert sorted(seen[2:]) == [0, 1, 2, 6]


def test_what_was_tried_before_does_not_come_again() -> None:
    given = {2: Span(2, 20, 30)}
    assert sorted(span.index for span in order(Recorded(4, set()), range(1, 3), given)) == [0, 1, 3]
    assert sorted(given) == [0, 1, 2, 3]


def test_a_shard_need_not_finish_what_others_have_committed_at_the_end() -> None:
    journal = Recorded(4, set())
    mine = order(journal, range(2))
    spans = iter(mine)
    first, second = next(spans), next(spans)
    mine.done(first)
    journal.there = {0, 1, 3}
    assert not mine.settled  # span 2 comes yet
    third = next(spans)
    assert third.index == 2
    assert next(spans, None) is None
    assert not mine.settled  # span 2 has no record
    journal.there |= {2}
    assert mine.settled
    mine.done(second)
    mine.done(third)
    assert mine.settled


# -- file systems ------------------------------------------------------------------------------------------------------


def test_a_disk_of_this_machine_is_trusted_and_left_as_it_was(tmp_path: Path) -> None:
    assert probe(tmp_path) == []
    assert os.listdir(tmp_path) == []


def broken_link(_source: Path, _target: Path) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


def link_twice(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())


def rename_beside(source: Path, target: Path) -> None:
    source.unlink()


@pytest.mark.parametrize(
    ("step", "broken", "says"),
    [
        ("link", broken_link, r"its file system \(fuse.s3fs\) cannot create a file by a link \(Operation not permitted\)"),
        ("link", link_twice, "lets two create the same file"),
        ("rename", rename_beside, "does not replace a file by a rename"),
    ],
)  # fmt: skip
def test_a_file_system_whose_names_do_not_hold_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, broken: object, says: str
) -> None:
    monkeypatch.setattr(atomic, step, broken)
    monkeypatch.setattr("mcscore.run.shards.disk.mount_of", lambda _path: Mount("fuse.s3fs", frozenset()))
    with pytest.raises(RunError, match=rf"cannot hold a run that several processes score: .*{says}. Use a disk"):
        probe(tmp_path)
    assert os.listdir(tmp_path) == []


def never(_descriptor: int, _how: int) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


def always(_descriptor: int, _how: int) -> None: ...


def only_alone(descriptor: int, how: int, real: object = fcntl.flock) -> None:
    fcntl_flock = real
    fcntl_flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("flock", "says"),
    [
        (never, r"cannot lock files \(No locks available\)"),
        (always, "gives a lock to two at a time"),
        (only_alone, "has no locks that are shared"),
    ],
)
def test_a_file_system_whose_locks_do_not_hold_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flock: object, says: str
) -> None:
    monkeypatch.setattr("mcscore.run.shards.disk.fcntl.flock", flock)
    with pytest.raises(RunError, match=says):
        probe(tmp_path)
    assert os.listdir(tmp_path) == []


def test_locks_that_may_stay_on_a_machine_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "mcscore.run.shards.disk.mount_of", lambda _path: mount.Mount("lustre", frozenset({"localflock"}))
    )
    (said,) = probe(tmp_path)
    assert "may not see the locks of another, as it is mounted with localflock" in said
    assert "start the first shard alone" in said
