"""run info and run verify: what they say, and that they only look."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from mcscore.env import machine
from mcscore.errors import RunError
from mcscore.run import score_pool
from mcscore.run.status import info, verify
from mcscore.store.lock import locked

from .fakes import SPAN, Column, FakePool, FakeScorer, N, begin, fail_at, go_on, unpacked
from .test_resume import DAMAGE, flip, shard, snapshot


def test_a_complete_run(out: Path) -> None:
    begin(out)
    facts = info(out).facts()
    assert json.loads(json.dumps(facts)) == facts
    assert (facts["items"], facts["done"], facts["left"], facts["scored"]) == (N, N, 0, N)
    assert (facts["spans"], facts["spans_done"], facts["spans_left"], facts["complete"]) == (3, 3, 0, True)
    assert facts["seconds_left"] == 0
    assert facts["items_per_second"] == pytest.approx(N / facts["seconds"])
    assert (facts["nonfinite_ids"], facts["unreadable_ranges"], facts["lock"]) == ([], [], None)
    assert facts["bytes"] == sum(len(data) for data in snapshot(out).values()) > 9 * SPAN * 4
    assert [each["device"] for each in facts["hardware"]] == [machine()["processor"]]


def test_time_left_is_told_by_the_pace_so_far(out: Path) -> None:
    with pytest.raises(RunError):
        begin(out, on_block=fail_at(3))
    assert (info(out).seconds_left, info(out).spans_done) == (None, 0)
    with pytest.raises(RunError):
        begin(out, on_block=fail_at(85))
    facts = info(out).facts()
    assert (facts["done"], facts["left"], facts["spans_done"], facts["spans_left"]) == (80, 20, 2, 1)
    assert facts["seconds_left"] == pytest.approx(facts["seconds"] / 80 * 20)


def test_bad_items_are_listed_by_what_is_wrong_with_them(out: Path) -> None:
    class Broken(FakeScorer):
        def __call__(self, items: np.ndarray, ids: np.ndarray) -> dict[str, Column]:
            scores = super().__call__(items, ids)
            scores["bald"].values[np.isin(ids, [5, 50])] = np.nan
            return scores

    pool = FakePool()
    pool.bad = [(30, 44), (60, 61)]
    with pytest.warns(UserWarning, match="of 100 items"):
        score_pool(pool, Broken(), out, span=SPAN, on_bad_chunk="skip")
    facts = info(out).facts()
    assert (facts["nonfinite"], facts["nonfinite_ids"]) == (2, [5, 50])
    assert (facts["unreadable"], facts["unreadable_ranges"]) == (15, [[30, 44], [60, 61]])


def test_the_writer_is_named_and_not_disturbed(out: Path) -> None:
    begin(out)
    with locked(out, RunError):
        said = info(out).facts()["lock"]
        assert datetime.fromisoformat(said.pop("since")) <= datetime.now().astimezone()
        assert said == {"pid": os.getpid(), "host": socket.gethostname(), "alive": True}
        verify(out)
    said = {"pid": 2**22 + 1, "host": socket.gethostname(), "boot_id": "an earlier start"}
    (out / "lock").write_text(json.dumps(said))
    assert info(out).facts()["lock"]["alive"] is False
    (out / "lock").write_text(json.dumps({**said, "host": "node7"}))
    assert info(out).facts()["lock"] == {"pid": said["pid"], "host": "node7", "alive": None, "since": ""}


def test_a_whole_run_has_no_damage(out: Path) -> None:
    with pytest.raises(RunError):
        begin(out, on_block=fail_at(85))
    assert verify(out) == []
    go_on(out)
    assert verify(out) == []


@pytest.mark.parametrize("kind", [kind for kind in DAMAGE if kind != "all records deleted"])
def test_verify_lists_what_will_be_scored_again_and_changes_nothing(out: Path, kind: str) -> None:
    unpacked(begin(out))
    damage, spans = DAMAGE[kind]
    damage(out)
    before = snapshot(out)
    found = verify(out)
    assert snapshot(out) == before
    assert all(str(out) in str(one.file) and one.why for one in found)
    if kind == "record deleted":  # a span that has no record was never done
        assert found == []
        return
    assert [one.span.index for one in found if one.span] == spans
    assert found
    go_on(out)
    assert verify(out) == []


def test_lost_records_are_items_that_are_left(out: Path) -> None:
    begin(out)
    shutil.rmtree(out / "commits")
    assert info(out).facts()["left"] == N


def test_what_is_no_run_is_told(tmp_path: Path) -> None:
    looks: list[Callable[[Path], object]] = [info, verify]
    for look in looks:
        with pytest.raises(RunError, match="is not a run"):
            look(tmp_path)


def test_damage_of_two_kinds_is_told_with_its_files(out: Path) -> None:
    begin(out)
    flip(shard(out, 0), "entropy")
    shard(out, 2).unlink()
    assert [(one.file, one.why) for one in verify(out)] == [
        (shard(out, 0), "row 1: crc32c mismatch"),
        (shard(out, 2), "missing"),
    ]
