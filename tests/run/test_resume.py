from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcscore.errors import RunError
from mcscore.run import score_pool
from mcscore.run.run import Run

from .fakes import SPAN, FakePool, FakeScorer, N, begin, content, fail_at, go_on


@pytest.fixture
def done(out: Path) -> Path:
    begin(out)
    return out


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
    said = json.loads((done / "run.json").read_text())
    (done / "run.json").write_text(json.dumps({**said, "block_items": 15}))
    (done / "commits" / "000001.json").unlink()
    sizes: list[int] = []
    go_on(done, on_block=lambda ids: sizes.append(len(ids)))
    assert sizes == [15, 15, 10]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"passes": 50}, "other passes: 100 there, 50 now"),
        ({"seed": 1}, "other seed: 0 there, 1 now"),
        ({"masks": "shared"}, 'other masks: "independent" there, "shared" now'),
        ({"scores": ["bald"]}, r'other scores: \["bald", "entropy"\] there, \["bald"\] now'),
        ({"likelihood": "bernoulli"}, 'other likelihood: "categorical" there, "bernoulli" now'),
        ({"input": "probs"}, 'other input: "logits" there, "probs" now'),
        ({"dtype": "bfloat16"}, 'other dtype: "float32" there, "bfloat16" now'),
        ({"model": "sha256:other"}, 'other model fingerprint: "sha256:model" there, "sha256:other" now'),
        ({"normalize": [[0.1], [0.2]]}, "other normalize"),
        ({"temperature": 2.0}, "other temperature: null there, 2.0 now"),
    ],
)
def test_a_run_of_something_else_is_refused(done: Path, changes: dict[str, Any], says: str) -> None:
    before = snapshot(done)
    with pytest.raises(RunError, match=says + ".*score into another directory"):
        go_on(done, **changes)
    assert snapshot(done) == before


def test_a_run_of_another_pool_is_refused(done: Path) -> None:
    for pool, says in (
        (FakePool(fingerprint="sha256:grown"), 'other pool fingerprint: "sha256:pool" there, "sha256:grown" now'),
        (FakePool(n=N + 1), "other pool n: 100 there, 101 now"),
    ):
        with pytest.raises(RunError, match=says):
            score_pool(pool, FakeScorer(), done)
    assert score_pool(FakePool(path="moved/there"), FakeScorer(), done).complete


def test_another_span_is_refused_and_none_means_the_recorded(done: Path) -> None:
    with pytest.raises(RunError, match="other span: 40 there, 50 now"):
        score_pool(FakePool(), FakeScorer(), done, span=50)
    assert score_pool(FakePool(), FakeScorer(), done).meta["span"] == SPAN


def test_other_sites_are_refused_once_they_are_known(done: Path) -> None:
    (done / "commits" / "000000.json").unlink()
    with pytest.raises(RunError, match="other sites"):
        go_on(done, sites=[{"index": 0, "name": "drop", "p": 0.25}])


def test_another_device_or_version_is_told(done: Path) -> None:
    (done / "commits" / "000000.json").unlink()
    with pytest.warns(UserWarning, match=r"last bits of scores may differ: device cpu then, cuda:0 now"):
        go_on(done, device="cuda:0")


def test_a_run_json_that_is_not_one_is_refused(done: Path) -> None:
    said = json.loads((done / "run.json").read_text())
    for text, says in (
        ("{", "cannot be read"),
        (json.dumps({**said, "format": "zip"}), "does not say format"),
        (json.dumps({**said, "version": 99}), "upgrade mcscore"),
    ):
        (done / "run.json").write_text(text)
        with pytest.raises(RunError, match=says):
            go_on(done)
        with pytest.raises(RunError, match=says):
            Run.open(done)
    with pytest.raises(RunError, match=r"it has no run\.json"):
        Run.open(done / "commits")


# -- damage ------------------------------------------------------------------------------------------------------------


def chunk(run: Path, index: int, name: str = "bald") -> Path:
    return run / "scores.zarr" / name / "c" / str(index)


def record(run: Path, index: int) -> Path:
    return run / "commits" / f"{index:06d}.json"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def swap(a: Path, b: Path) -> None:
    one, other = a.read_bytes(), b.read_bytes()
    a.write_bytes(other)
    b.write_bytes(one)


def of_another_run(path: Path) -> None:
    other = path.parents[1].with_name("other")
    begin(other, seed=9)
    shutil.copy(other / "commits" / path.name, path)


def exchange(run: Path) -> None:
    """Spans 0 and 1 whole: every checksum still holds."""
    swap(record(run, 0), record(run, 1))
    for name in ("bald", "entropy", "prediction"):
        swap(chunk(run, 0, name), chunk(run, 1, name))


def reword(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


DAMAGE = {
    "chunk truncated": (lambda run: truncate(chunk(run, 1)), [1]),
    "chunk flipped": (lambda run: flip(chunk(run, 1)), [1]),
    "prediction flipped": (lambda run: flip(chunk(run, 1, "prediction")), [1]),
    "chunk deleted": (lambda run: chunk(run, 2).unlink(), [2]),
    "chunk empty": (lambda run: empty(chunk(run, 0)), [0]),
    "chunk longer": (lambda run: chunk(run, 0).write_bytes(chunk(run, 0).read_bytes() + b"x"), [0]),
    "chunks swapped": (lambda run: swap(chunk(run, 0), chunk(run, 1)), [0, 1]),
    "scores swapped": (lambda run: swap(chunk(run, 1), chunk(run, 1, "entropy")), [1]),
    "record deleted": (lambda run: record(run, 1).unlink(), [1]),
    "record empty": (lambda run: empty(record(run, 1)), [1]),
    "record truncated": (lambda run: truncate(record(run, 1)), [1]),
    "record flipped": (lambda run: flip(record(run, 1)), [1]),
    "record not a record": (lambda run: record(run, 1).write_text('["span"]'), [1]),
    "record says less was scored": (lambda run: reword(record(run, 1), '"scored": 40', '"scored": 30'), [1]),
    "record says another id was bad": (lambda run: reword(record(run, 1), '"ids": []', '"ids": [41]'), [1]),
    "chunks and records swapped": (exchange, [0, 1]),
    "records swapped": (lambda run: swap(record(run, 0), record(run, 1)), [0, 1]),
    "record of another run": (lambda run: of_another_run(record(run, 2)), [2]),
    "all records deleted": (lambda run: shutil.rmtree(run / "commits"), [0, 1, 2]),
    "array deleted": (lambda run: shutil.rmtree(run / "scores.zarr" / "entropy"), [0, 1, 2]),
    "all scores deleted": (lambda run: shutil.rmtree(run / "scores.zarr"), [0, 1, 2]),
    "array metadata deleted": (lambda run: (run / "scores.zarr" / "bald" / "zarr.json").unlink(), []),
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
    bad, code = {chunk(done, 1, "entropy"), record(done, 2)}, errno.EIO
    real = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path in bad:
            raise OSError(code, os.strerror(code), str(path))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    code = errno.EACCES  # then nothing is known to be lost, and nothing is thrown away
    with pytest.raises(RunError, match=r"cannot be gone on with: .*Permission denied"):
        go_on(done)
    assert record(done, 1).exists()
    code = errno.EIO
    scorer = FakeScorer(step=2, on_block=lambda _ids: bad.clear())  # written again, they lie elsewhere
    assert content(score_pool(FakePool(), scorer, done)) == undisturbed
    assert scorer.seen == list(range(40, N))


def test_what_was_found_damaged_is_not_called_done_any_more(done: Path) -> None:
    flip(chunk(done, 0))
    with pytest.raises(RunError, match="60 of 100 items are done"):
        go_on(done, on_block=fail_at(3))
    assert Run.open(done).done == 60


def test_damage_is_never_read_as_a_score(done: Path) -> None:
    flip(chunk(done, 1))
    run = Run.open(done)
    with pytest.raises(RunError, match=r"bald/c/1 is damaged: .* span 1 \(items 40\.\.79\).*Score the pool .* again"):
        run.scores("bald")
    with pytest.raises(RunError, match="is damaged"):
        run.values("bald", np.array([45]))
    assert np.isfinite(run.values("bald", np.array([1, 99]))).all()
    assert np.isfinite(run.scores("entropy")).all()


def test_an_array_of_another_kind_is_refused(done: Path) -> None:
    path = done / "scores.zarr" / "bald" / "zarr.json"
    said = json.loads(path.read_text())
    for change in ({"data_type": "float64"}, {"shape": [50]}, {"fill_value": 0.0}, {"node_type": "group"}):
        path.write_text(json.dumps({**said, **change}))
        with pytest.raises(RunError, match=r"bald/zarr.json is not what .*run.json says"):
            go_on(done)
    path.write_text("not json")
    with pytest.raises(RunError, match="is not what"):
        go_on(done)


def test_leftovers_of_a_killed_writer_are_cleared(done: Path, undisturbed: dict[str, bytes]) -> None:
    left = [done / "run.json.99.tmp", done / "commits" / "000001.json.99.tmp", chunk(done, 1).with_name("1.99.tmp")]
    for path in left:
        path.write_text("half")
    assert content(go_on(done)) == undisturbed
    assert not any(path.exists() for path in left)


def snapshot(run: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in run.rglob("*") if path.is_file()}
