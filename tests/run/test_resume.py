from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mcscore.errors import RunError, Stopped
from mcscore.fields import unsealed
from mcscore.machine import machine
from mcscore.run import score_pool
from mcscore.run.journal.shard import HEADER_BYTES, crc32c
from mcscore.run.run import Run

from .fakes import SPAN, FakePool, FakeScorer, N, begin, content, fail_at, go_on, reheader, unpacked


@pytest.fixture
def done(out: Path) -> Path:
    """A complete run with a file for every record."""
    return unpacked(begin(out)).path


def test_a_complete_run_is_not_scored_again(done: Path, undisturbed: dict[str, bytes]) -> None:
    scorer = FakeScorer()
    run = score_pool(FakePool(), scorer, done)
    assert content(run) == undisturbed
    assert scorer.seen == []
    assert scorer.plan == {}  # not even prepared


def test_the_recorded_plan_and_cut_are_adopted(done: Path, undisturbed: dict[str, bytes]) -> None:
    (done / "commits" / "000001.json").unlink()
    scorer = FakeScorer(step=7)
    run = score_pool(FakePool(), scorer, done)
    assert scorer.plan["items"] == 1
    assert scorer.seen == list(range(40, 80))
    assert content(run) == undisturbed


def test_blocks_are_those_that_were_recorded(done: Path) -> None:
    reheader(done, block_items=15)
    (done / "commits" / "000001.json").unlink()
    shard(done, 1).unlink()
    sizes: list[int] = []
    go_on(done, on_block=lambda ids: sizes.append(len(ids)))
    assert sizes == [15, 15, 10]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"passes": 50}, "started with passes=100, now 50"),
        ({"seed": 1}, "started with seed=0, now 1"),
        ({"masks": "shared"}, 'started with masks="independent", now "shared"'),
        ({"scores": ["bald"]}, r'started with scores=\["bald", "entropy"\], now \["bald"\]'),
        ({"likelihood": "bernoulli"}, 'started with likelihood="categorical", now "bernoulli"'),
        ({"input": "probs"}, 'started with input="logits", now "probs"'),
        ({"dtype": "bfloat16"}, 'started with dtype="float32", now "bfloat16"'),
        ({"model": "sha256:other"}, 'started with model.fingerprint="sha256:model", now "sha256:other"'),
        ({"normalize": [[0.1], [0.2]]}, "started with normalize=null, now"),
    ],
)
def test_a_run_of_something_else_is_refused(done: Path, changes: dict[str, Any], says: str) -> None:
    before = snapshot(done)
    with pytest.raises(RunError, match=says + ".*score into another directory"):
        go_on(done, **changes)
    assert snapshot(done) == before


def test_a_run_of_another_pool_is_refused(done: Path) -> None:
    for pool, says in (
        (FakePool(fingerprint="sha256:grown"), 'started with pool.fingerprint="sha256:pool", now "sha256:grown"'),
        (FakePool(n=N + 1), "started with pool.n=100, now 101"),
    ):
        with pytest.raises(RunError, match=says):
            score_pool(pool, FakeScorer(), done)
    assert score_pool(FakePool(path="moved/there"), FakeScorer(), done).complete


def test_another_span_is_refused_and_none_means_the_recorded(done: Path) -> None:
    with pytest.raises(RunError, match="started with span=40, now 50"):
        score_pool(FakePool(), FakeScorer(), done, span=50)
    assert score_pool(FakePool(), FakeScorer(), done).meta["span"] == SPAN


def test_other_sites_are_refused_once_they_are_known(done: Path) -> None:
    (done / "commits" / "000000.json").unlink()
    with pytest.raises(RunError, match="started with sites="):
        go_on(done, sites=[{"index": 0, "name": "drop", "p": 0.25}])


def test_another_version_is_told(done: Path) -> None:
    (done / "commits" / "000000.json").unlink()
    reheader(done, versions={**Run.open(done).meta["versions"], "torch": "2.0"})
    with pytest.warns(UserWarning, match=rf"last bits of scores may differ: torch 2.0 then, {torch.__version__[:3]}"):
        go_on(done)


def test_a_run_json_that_is_not_one_is_refused(done: Path) -> None:
    said = unsealed(json.loads((done / "run.json").read_text()))
    for text, says in (
        ("{", r"run.json is damaged: .* keep the directory: put run.json back from a copy"),
        (json.dumps({**said, "format": "zip"}), "does not have the format"),
        (json.dumps({**said, "version": 99}), "format version 99; this mcscore reads version 2: upgrade mcscore"),
        (json.dumps({**said, "version": 1}), "format version 1, which .* does not read .* into another directory"),
        (json.dumps({**said, "temperature": 2.0}), "unknown field 'temperature': it was written by a newer mcscore"),
        (json.dumps({**said, "pool": {**said["pool"], "owner": "me"}}), "pool has the unknown field 'owner'"),
        (json.dumps({**said, "model": {}}), "model lacks the field 'fingerprint'"),
        (json.dumps({name: value for name, value in said.items() if name != "passes"}), "lacks the field 'passes'"),
    ):
        (done / "run.json").write_text(text)
        with pytest.raises(RunError, match=says):
            go_on(done)
        with pytest.raises(RunError, match=says):
            Run.open(done)
    with pytest.raises(RunError, match=r"it has no run\.json"):
        Run.open(done / "commits")


# -- damage ------------------------------------------------------------------------------------------------------------


def shard(run: Path, index: int) -> Path:
    return run / "scores.zarr" / "c" / "0" / str(index)


def record(run: Path, index: int) -> Path:
    return run / "commits" / f"{index:06d}.json"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


ROWS = ("bald", "entropy", "prediction")
PLACES = {name: HEADER_BYTES + row * (SPAN * 4 + 4) + 5 for row, name in enumerate(ROWS)}
PLACES |= {"header": 13, "crc": HEADER_BYTES + SPAN * 4 + 1, "index": -20, "end": -1}


def flip(path: Path, place: str = "bald") -> None:
    """Change a bit of a shard, or one in the middle of any other file."""
    data = bytearray(path.read_bytes())
    data[PLACES[place] if path.parent.name == "0" else len(data) // 3] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def swap(a: Path, b: Path) -> None:
    one, other = a.read_bytes(), b.read_bytes()
    a.write_bytes(other)
    b.write_bytes(one)


def of_another_run(path: Path) -> None:
    other = path.parents[1].with_name("other")
    unpacked(begin(other, seed=9))
    shutil.copy(other / "commits" / path.name, path)


def exchange(run: Path) -> None:
    """Spans 0 and 1 whole: every checksum still holds."""
    swap(record(run, 0), record(run, 1))
    swap(shard(run, 0), shard(run, 1))


def swap_rows(path: Path) -> None:
    """Two scores: the checksums beside them still hold."""
    data, size = path.read_bytes(), SPAN * 4 + 4
    first, second = data[HEADER_BYTES:][:size], data[HEADER_BYTES + size :][:size]
    path.write_bytes(data[:HEADER_BYTES] + second + first + data[HEADER_BYTES + 2 * size :])


def other_magic(path: Path) -> None:
    """A header that is whole and not ours."""
    data = path.read_bytes()
    packed = b"mcshard9" + data[8 : HEADER_BYTES - 4]
    path.write_bytes(packed + crc32c(packed).to_bytes(4, "little") + data[HEADER_BYTES:])


def reword(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def said_by(path: Path) -> dict[str, Any]:
    return json.loads(path.read_bytes())["record"]


def forge(path: Path, **changes: Any) -> None:
    """Another record whose checksum holds."""
    said = said_by(path) | changes
    text = json.dumps(said, separators=(",", ":"))
    path.write_text(f'{{"crc32c": "{crc32c(text.encode()):08x}", "record": {text}}}\n')


DAMAGE = {
    "shard truncated": (lambda run: truncate(shard(run, 1)), [1]),
    **{
        f"{place} flipped": (lambda run, place=place: flip(shard(run, 1), place), [1])
        for place in (*ROWS, "header", "crc", "index", "end")
    },
    "shard deleted": (lambda run: shard(run, 2).unlink(), [2]),
    "shard empty": (lambda run: empty(shard(run, 0)), [0]),
    "shard longer": (lambda run: shard(run, 0).write_bytes(shard(run, 0).read_bytes() + b"x"), [0]),
    "shards swapped": (lambda run: swap(shard(run, 0), shard(run, 1)), [0, 1]),
    "shard of other software": (lambda run: other_magic(shard(run, 1)), [1]),
    "rows swapped": (lambda run: swap_rows(shard(run, 1)), [1]),
    "record deleted": (lambda run: record(run, 1).unlink(), [1]),
    "record empty": (lambda run: empty(record(run, 1)), [1]),
    "record truncated": (lambda run: truncate(record(run, 1)), [1]),
    "record without its end": (lambda run: record(run, 1).write_bytes(record(run, 1).read_bytes()[:-2] + b" \n"), [1]),
    "record flipped": (lambda run: flip(record(run, 1)), [1]),
    "record not a record": (lambda run: record(run, 1).write_text('["span"]'), [1]),
    "record says less was scored": (lambda run: reword(record(run, 1), '"scored":40', '"scored":30'), [1]),
    "record says more was scored than there is": (lambda run: forge(record(run, 1), scored=41), [1]),
    "record of other shards": (lambda run: forge(record(run, 1), crc32c=[1, 2, 3]), [1]),
    "record of other rows": (
        lambda run: forge(record(run, 1), crc32c=json.loads(record(run, 1).read_bytes())["record"]["crc32c"][:2]),
        [1],
    ),
    "shards and records swapped": (exchange, [0, 1]),
    "records swapped": (lambda run: swap(record(run, 0), record(run, 1)), [0, 1]),
    "record of another run": (lambda run: of_another_run(record(run, 2)), [2]),
    "all records deleted": (lambda run: shutil.rmtree(run / "commits"), [0, 1, 2]),
    "all scores deleted": (lambda run: shutil.rmtree(run / "scores.zarr"), [0, 1, 2]),
    "array metadata deleted": (lambda run: (run / "scores.zarr" / "zarr.json").unlink(), []),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_is_damaged_is_scored_again_and_nothing_else(done: Path, undisturbed: dict[str, bytes], kind: str) -> None:
    damage, spans = DAMAGE[kind]
    damage(done)
    scorer = FakeScorer(step=2)
    run = score_pool(FakePool(), scorer, done)
    assert scorer.seen == [id for span in spans for id in range(span * SPAN, min((span + 1) * SPAN, N))]
    assert content(run) == content(Run.open(done)) == undisturbed


def test_what_a_disk_cannot_read_is_scored_again(
    done: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, code = {shard(done, 1), record(done, 2)}, errno.EIO
    real = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path in bad:
            raise OSError(code, os.strerror(code), str(path))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    code = errno.EACCES  # then nothing is known to be lost, and nothing is thrown away
    with pytest.raises(RunError, match=r"cannot be resumed: .*Permission denied"):
        go_on(done)
    assert record(done, 1).exists()
    code = errno.EIO
    scorer = FakeScorer(step=2, on_block=lambda _ids: bad.clear())  # written again, they lie elsewhere
    assert content(score_pool(FakePool(), scorer, done)) == undisturbed
    assert scorer.seen == list(range(40, N))


def test_what_was_found_damaged_is_not_called_done_any_more(done: Path) -> None:
    flip(shard(done, 0))
    with pytest.raises(RunError, match="60 of 100 items are done"):
        go_on(done, on_block=fail_at(3))
    assert Run.open(done).done == 60


def test_damage_is_never_read_as_a_score(done: Path) -> None:
    flip(shard(done, 1))
    run = Run.open(done)
    with pytest.raises(
        RunError, match=r"bald of span 1 \(items 40\.\.79\) is damaged: .*c/0/1: .*Score the pool .* again"
    ):
        run.scores("bald")
    with pytest.raises(RunError, match="is damaged"):
        run.values("bald", np.array([45]))
    assert np.isfinite(run.values("bald", np.array([1, 99]))).all()
    assert np.isfinite(run.scores("entropy")).all()


def test_an_array_of_another_kind_is_refused(done: Path) -> None:
    path = done / "scores.zarr" / "zarr.json"
    said = json.loads(path.read_text())
    for change in (
        {"data_type": "float64"},
        {"shape": [3, 50]},
        {"codecs": []},
        {"fill_value": 0.0},
        {"node_type": "group"},
    ):
        path.write_text(json.dumps({**said, **change}))
        with pytest.raises(RunError, match=r"scores.zarr/zarr.json is not what .*run.json says"):
            go_on(done)
    path.write_text("not json")
    with pytest.raises(RunError, match="is not what"):
        go_on(done)


def test_leftovers_of_a_killed_writer_are_cleared(done: Path, undisturbed: dict[str, bytes]) -> None:
    name = f"{machine()}-{2**22 + 1}-5eed.tmp"
    left = [done / f"run.json.{name}", done / "commits" / f"000001.json.{name}", shard(done, 1).with_name(f"1.{name}")]
    for path in left:
        path.write_text("half")
    assert content(go_on(done)) == undisturbed
    assert not any(path.exists() for path in left)


def snapshot(run: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_labels_that_are_given_meanwhile_change_nothing(out: Path) -> None:
    """What is skipped is fixed when the run starts, so that it does not matter when it was interrupted."""
    pool = FakePool()
    pool.labels[[3, 60]] = 1
    pool.excluded[61] = True
    usual = content(score_pool(pool, FakeScorer(), out.with_name("usual"), span=SPAN))
    with pytest.raises(RunError, match="out of memory"):
        score_pool(pool, FakeScorer(on_block=fail_at(50)), out, span=SPAN)
    pool.labels[[3, 60]] = -1
    pool.labels[[70, 90]] = 2
    pool.excluded[:] = False
    assert content(score_pool(pool, FakeScorer(step=2), out)) == usual
    assert np.isnan(Run.open(out).scores("bald")[[3, 60, 61]]).all()


def test_a_run_whose_last_spans_hold_nothing_to_score_is_resumed(out: Path) -> None:
    pool = FakePool()
    pool.labels[80:] = 1

    def stop_before_the_last_span(ids: np.ndarray) -> None:
        if 79 in ids:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        score_pool(pool, FakeScorer(on_block=stop_before_the_last_span), out, span=SPAN)
    assert Run.open(out).done == 80
    run = score_pool(pool, FakeScorer(), out, span=SPAN)
    assert run.complete
    assert run.scored == 80
