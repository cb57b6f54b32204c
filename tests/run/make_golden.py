"""Makes the runs in tests/golden that every later version must read.

    PYTHONPATH=. python -m tests.run.make_golden

Not run by the tests: what is committed there stays as this version of the format wrote it. A new version of the format
gets directories of its own.
"""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np

from mcscore.errors import RunError
from mcscore.run import Run, score_pool

from .fakes import Column, FakePool, FakeScorer, fail_at

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
SPAN = 40


class Scorer(FakeScorer):
    """Item 5 has no finite score."""

    def __call__(self, items: np.ndarray, ids: np.ndarray) -> dict[str, Column]:
        scores = super().__call__(items, ids)
        scores["bald"].values[ids == 5] = np.nan
        return scores


def pool() -> FakePool:
    """100 items; 7 is labeled, 8 excluded, 20..21 cannot be read."""
    pool = FakePool(path="/data/pool")
    pool.labels[7], pool.excluded[8], pool.bad = 2, True, [(20, 22)]
    return pool


def make(out: Path, stop_at: int | None) -> Run:
    """A run with a span and a record of every kind; stopped before an item if ``stop_at`` is one."""
    shutil.rmtree(out, ignore_errors=True)
    scorer = Scorer() if stop_at is None else Scorer(on_block=fail_at(stop_at))
    try:
        score_pool(pool(), scorer, out, span=SPAN, on_bad_chunk="skip")
    except RunError:
        assert stop_at is not None
    return Run.open(out)


def main() -> None:
    warnings.simplefilter("ignore")
    complete = make(GOLDEN / "run-v2-complete", None)
    make(GOLDEN / "run-v2-half", 85)
    values = {name: complete.scores(name).tolist() for name in ("bald", "entropy")}
    values["prediction"] = complete.prediction.tolist()
    text = json.dumps(values).replace("NaN", "null")
    (GOLDEN / "run-v2-values.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
