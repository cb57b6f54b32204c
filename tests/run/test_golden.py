"""Runs that this format's first version wrote are read, resumed and selected from for ever after."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mcscore.run import Run, score_pool
from mcscore.run.journal import Journal
from mcscore.run.schema import read_header
from mcscore.run.status import info, verify

from .make_golden import GOLDEN, Scorer, pool


def expected(name: str) -> np.ndarray:
    said = json.loads((GOLDEN / "run-v2-values.json").read_text())[name]
    dtype = np.int32 if name == "prediction" else np.float32
    return np.array([np.nan if value is None else value for value in said], dtype)


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """A copy to write into."""
    return Path(shutil.copytree(GOLDEN, tmp_path / "golden"))


@pytest.mark.parametrize(("which", "done"), [("complete", 100), ("half", 80)])
def test_every_value_is_read_as_it_was_written(which: str, done: int) -> None:
    path = GOLDEN / f"run-v2-{which}"
    run = Run.open(path)
    assert (run.n, run.done, run.complete) == (100, done, done == 100)
    assert verify(path) == []
    for name in ("bald", "entropy"):
        assert run.scores(name)[:done].tobytes() == expected(name)[:done].tobytes()
        assert np.isnan(run.scores(name)[done:]).all()
    assert run.prediction[:done].tolist() == expected("prediction")[:done].tolist()
    assert run.nonfinite_ids.tolist() == [5]
    assert run.unreadable_ids.tolist() == [20, 21]
    assert run.scored == done - 4
    assert info(path).spans_done == done // 40 + (done == 100)


def test_run_json_says_what_it_said() -> None:
    meta = Run.open(GOLDEN / "run-v2-complete").meta
    said = json.loads((GOLDEN / "run-v2-complete" / "run.json").read_bytes())
    more = ("hardware", "model", "pool")
    assert {name: meta[name] for name in said if name not in more} == {
        name: value for name, value in said.items() if name not in more
    }
    assert said["model"].items() <= meta["model"].items()
    assert said["pool"].items() <= meta["pool"].items()
    assert meta["pool"]["identity"] == ""
    assert "errors" not in said
    assert meta["errors"] is False
    assert read_header(GOLDEN / "run-v2-complete").rows == ("bald", "entropy", "prediction")
    for there, now in zip(said["hardware"], meta["hardware"], strict=True):
        assert there.items() <= now.items()


@pytest.mark.filterwarnings("ignore:.*(last bits of scores may differ|no finite score|could not be read)")
def test_a_half_finished_run_is_resumed_on_whatever_machine_this_is(golden: Path) -> None:
    scorer = Scorer(step=2)
    run = score_pool(pool(), scorer, golden / "run-v2-half", on_bad_chunk="skip", mixed_hardware=True)  # type: ignore[arg-type]
    assert scorer.seen == list(range(80, 100))
    assert run.complete
    for name in ("bald", "entropy"):
        assert run.scores(name)[:80].tobytes() == expected(name)[:80].tobytes()
        np.testing.assert_allclose(run.scores(name), expected(name), rtol=1e-6)
    assert [record.span.n for record in Journal.open(golden / "run-v2-half").survey().records] == [40, 40, 20]


def test_a_selection_is_made_from_it_and_exported(golden: Path) -> None:
    run = Run.open(golden / "run-v2-complete")
    order = np.lexsort((np.arange(100), -np.nan_to_num(expected("bald"), nan=-1)))
    assert run.select(6, by="bald", diversity="none", pool=pool()).ids.tolist() == order[:6].tolist()  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="without keys"):
        rows = run.export("jsonl", selection="latest").read_text().splitlines()
    assert [json.loads(row)["id"] for row in rows] == order[:6].tolist()
