"""Nothing on the way from the pool to the selection grows with the pool."""

from __future__ import annotations

import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from mcscore.run import Run, score_pool

from .made_up import EXCLUDED, LABELED, items_of, made_up_pool, tiny_scorer

SMALL, LARGE = 3 * 10**5, 10**6  # several chunks of the pool even in the small one
MEMORY = 2 << 20  # per step of the model: many steps even in the small pool


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def scored(where: Path, n: int, **how: object) -> Run:
    where.mkdir(exist_ok=True)
    return score_pool(made_up_pool(where, n), tiny_scorer(memory=MEMORY), where / "run", **how)  # type: ignore[arg-type]


def peak_of_scoring_and_selecting(where: Path, n: int) -> int:
    """Bytes that Python and NumPy held at most; what torch holds depends on the step alone."""
    tracemalloc.start()
    try:
        run = scored(where, n)
        run.select(100, by="bald", diversity="radius")
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The large pool, scored and selected from, and the peak of that."""
    where = tmp_path_factory.mktemp("large")
    scored(where / "first", 10**4).select(100, by="bald")  # what is imported or made once does not count
    return where, peak_of_scoring_and_selecting(where, LARGE)


def test_memory_does_not_grow_with_the_pool(large: tuple[Path, int], tmp_path: Path) -> None:
    # Of several, as the peak depends on how far the reader happens to be ahead.
    small = max(peak_of_scoring_and_selecting(tmp_path / str(turn), SMALL) for turn in range(3))
    # Labels would be 4 bytes per item and flags another; the records of the spans are a fifth of a byte.
    assert large[1] - small < 1.5 * (LARGE - SMALL)


def test_a_large_run_is_what_the_scorer_gives(large: tuple[Path, int]) -> None:
    run = Run.open(large[0] / "run")
    ids = np.array([1, 65_535, 65_536, 777_777, LARGE - 1])
    np.testing.assert_allclose(
        run.values("bald", ids),
        tiny_scorer()(items_of(ids.astype(np.uint64)), ids)["bald"].numpy(),
        atol=1e-6,
    )
    every = np.arange(LARGE)
    skipped = (every % LABELED == 0) | (every % EXCLUDED == 0)
    assert np.array_equal(np.isnan(run.scores("bald")), skipped)
    assert run.scored == LARGE - skipped.sum()


def test_a_large_selection_is_the_best_of_all(large: tuple[Path, int]) -> None:
    run = Run.open(large[0] / "run")
    scores = np.nan_to_num(run.scores("bald"), nan=-1)
    best = np.lexsort((np.arange(LARGE), -scores))[:500]
    pool = made_up_pool(large[0], LARGE)
    assert run.select(500, by="bald", diversity="none", pool=pool).ids.tolist() == best.tolist()


def test_a_killed_and_resumed_large_run_selects_the_same(large: tuple[Path, int], tmp_path: Path) -> None:
    code = (
        "import sys, torch; from pathlib import Path; from tests.run.test_scale import scored; torch.set_num_threads(1)\n"
        "scored(Path(sys.argv[1]), int(sys.argv[2]), progress=lambda done, _: print(done, flush=True))"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), str(LARGE)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert child.stdout is not None
    said = next(int(line) for line in child.stdout if int(line) > LARGE // 3)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    killed = Run.open(tmp_path / "run")
    assert said - killed.meta["span"] <= killed.done < LARGE
    with pytest.warns(UserWarning, match="took over the lock"):
        resumed = scored(tmp_path, LARGE)
    whole = Run.open(large[0] / "run")
    for name in ("bald", "entropy"):
        assert resumed.scores(name).tobytes() == whole.scores(name).tobytes()
    pool, scorer = made_up_pool(large[0], LARGE), tiny_scorer(memory=MEMORY)
    one = whole.select(100, by="bald", pool=pool, scorer=scorer)
    other = resumed.select(100, by="bald")
    assert one.ids.tolist() == other.ids.tolist()
    assert one.scores.tobytes() == other.scores.tobytes()
    assert one.radius == other.radius
