"""The records of a complete run lie in one file; what happens to it costs spans, never more, and never in silence."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mcscore.errors import RunError
from mcscore.run import Run, score_pool
from mcscore.run.journal import Journal
from mcscore.run.status import verify

from .fakes import SPAN, FakePool, FakeScorer, N, begin, content, fail_at, go_on, unpacked


def packed(run: Path) -> Path:
    return run / "commits" / "packed.jsonl"


def test_a_complete_run_has_one_file_of_records_which_is_the_single_ones_in_order(out: Path) -> None:
    with pytest.raises(RunError):
        begin(out, on_block=fail_at(85))
    assert sorted(os.listdir(out / "commits")) == ["000000.json", "000001.json"]
    single = [(out / "commits" / f"00000{span}.json").read_bytes() for span in (0, 1)]
    go_on(out)
    assert os.listdir(out / "commits") == ["packed.jsonl"]
    lines = packed(out).read_bytes().splitlines(keepends=True)
    assert lines[:2] == single
    assert [json.loads(line)["record"]["span"] for line in lines] == [0, 1, 2]


def test_nothing_is_written_into_a_complete_run(out: Path) -> None:
    begin(out)
    before = packed(out).stat()
    go_on(out)
    assert packed(out).stat().st_mtime_ns == before.st_mtime_ns
    assert packed(out).stat().st_ino == before.st_ino


def test_single_and_packed_records_of_the_same_spans_are_read_once(out: Path, undisturbed: dict[str, bytes]) -> None:
    begin(out)
    data = packed(out).read_bytes()
    unpacked(Run.open(out))
    packed(out).write_bytes(data)  # as a kill between packing and removing leaves them
    run = Run.open(out)
    assert (run.done, run.scored, content(run)) == (N, N, undisturbed)
    scorer = FakeScorer()
    assert score_pool(FakePool(), scorer, out).complete
    assert scorer.seen == []
    assert os.listdir(out / "commits") == ["packed.jsonl"]


def cut_last(lines: list[bytes]) -> list[bytes]:
    return [*lines[:-1], lines[-1][:-20]]


def flip_second(lines: list[bytes]) -> list[bytes]:
    return [lines[0], lines[1].replace(b'"scored":40', b'"scored":41'), *lines[2:]]


DAMAGE: dict[
    str, tuple[Callable[[list[bytes]], list[bytes]], list[int], list[int]]
] = {  # spans lost, spans verify names
    "a line flipped": (flip_second, [1], [1]),
    "the end cut off": (cut_last, [2], [2]),
    "a line lost": (lambda lines: [lines[0], lines[2]], [1], [1]),
    "lines swapped": (lambda lines: [lines[1], lines[0], lines[2]], [], []),
    "a line of garbage": (lambda lines: [lines[0], b"\xff{\n", lines[2]], [1], [1]),
    "two lines in one": (lambda lines: [lines[0], lines[1][:-1] + b" ", lines[2]], [1, 2], [1, 2]),
    "a line too many": (lambda lines: [*lines, b"{}\n"], [], []),
    "empty": (lambda _lines: [], [0, 1, 2], [0, 1, 2]),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_line_costs_its_span(out: Path, undisturbed: dict[str, bytes], kind: str) -> None:
    begin(out)
    damage, spans, named = DAMAGE[kind]
    lines = packed(out).read_bytes().splitlines(keepends=True)
    packed(out).write_bytes(b"".join(damage(lines)))
    assert [one.span.index for one in verify(out) if one.span] == named
    assert bool(verify(out)) == (kind != "lines swapped")
    scorer = FakeScorer(step=2)
    run = score_pool(FakePool(), scorer, out)
    assert scorer.seen == [id for span in spans for id in range(span * SPAN, min((span + 1) * SPAN, N))]
    assert content(run) == content(Run.open(out)) == undisturbed
    if spans:
        assert packed(out).read_bytes().count(b"\n") == 3
        assert os.listdir(out / "commits") == ["packed.jsonl"]


def test_a_record_that_does_not_hold_is_taken_out_of_the_packed_ones(out: Path) -> None:
    begin(out)
    shard = out / "scores.zarr" / "c" / "0" / "1"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(RunError, match="60 of 100 items are done"):
        go_on(out, on_block=fail_at(45))
    assert [int(span.index) for span in Run.open(out)._journal.spans] == [0, 1, 2]
    assert [record.span.index for record in Journal.open(out).survey().records] == [0, 2]
    assert Run.open(out).done == 60


def test_a_bad_sector_under_the_packed_records_costs_scoring_and_no_score(
    out: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(out)
    real, code = Path.read_bytes, errno.EACCES

    def read_bytes(path: Path) -> bytes:
        if path == packed(out) and code:
            raise OSError(code, os.strerror(code), str(path))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    with pytest.raises(RunError, match=r"cannot be resumed: .*Permission denied"):
        go_on(out)
    code = errno.EIO
    assert {one.why for one in verify(out)} == {"the disk cannot read it"}

    def lies_elsewhere(_ids: np.ndarray) -> None:
        nonlocal code
        code = 0

    assert content(go_on(out, on_block=lies_elsewhere)) == undisturbed


def test_a_grown_run_is_packed_again(out: Path) -> None:
    from .fakes import grown

    begin(out)
    run = score_pool(grown(150), FakeScorer(), out)
    assert run.complete
    assert os.listdir(out / "commits") == ["packed.jsonl"]
    assert [record.span.n for record in Journal.open(out).survey().records] == [40, 40, 40, 30]
