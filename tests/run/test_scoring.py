from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from mcscore.errors import RunError
from mcscore.run import score_pool
from mcscore.run.run import Run
from mcscore.run.spans import CPU, CUDA, Span, Speed, blocks_of, cut, default_block, default_span, speed_of

from .fakes import SPAN, Column, FakePool, FakeScorer, N, begin, content, fail_at, go_on


def test_every_item_gets_its_own_scores(out: Path) -> None:
    run = begin(out, step=1)
    assert run.complete
    assert (run.done, run.scored, run.n) == (N, N, N)
    ids = np.arange(N)
    together = np.array([16, 16, 8, 16, 16, 8, 16, 4]).repeat([16, 16, 8, 16, 16, 8, 16, 4])
    bits = np.float32(1e-3) + (1e-4 * together).astype(np.float32)
    np.testing.assert_allclose(run.scores("bald"), np.sin(ids) + 2 + bits, atol=1e-6)
    np.testing.assert_allclose(run.scores("entropy"), np.sin(ids + 1) + 2 + bits, atol=1e-6)
    np.testing.assert_array_equal(run.prediction, ids % 10)
    assert run.prediction.dtype == np.int32
    assert run.scores("bald").dtype == np.float32


def test_zarr_python_reads_the_stored_scores(out: Path) -> None:
    run = begin(out)
    array = zarr.open_array(out / "scores.zarr", mode="r")
    assert (array.shards, array.chunks, array.dtype) == ((3, SPAN), (1, SPAN), np.float32)
    assert array.attrs["scores"] == ["bald", "entropy", "prediction"]
    for row, name in enumerate(("bald", "entropy")):
        assert array[row].tobytes() == run.scores(name).tobytes()
    np.testing.assert_array_equal(array[2], run.prediction)
    np.testing.assert_array_equal(
        array[:, 35:45], np.stack([run.scores("bald"), run.scores("entropy"), array[2]])[:, 35:45]
    )


def test_what_zarr_python_reads_where_nothing_is_committed_is_not_scored(out: Path) -> None:
    with pytest.raises(RunError):
        begin(out, on_block=fail_at(40))
    array = zarr.open_array(out / "scores.zarr", mode="r")
    assert np.isnan(array[:, SPAN:]).all()
    assert np.isfinite(array[:, :SPAN]).all()


def test_an_opened_run_says_the_same_as_the_one_scored(out: Path, undisturbed: dict[str, bytes]) -> None:
    begin(out)
    opened = Run.open(out)
    assert content(opened) == undisturbed
    assert opened.complete
    assert opened.seconds > 0
    assert opened.items_per_second == pytest.approx(N / opened.seconds)


def test_labeled_and_excluded_items_are_not_scored(out: Path) -> None:
    pool, scorer = FakePool(), FakeScorer()
    pool.labels[[0, 41]] = 3
    pool.excluded[42] = True
    pool.excluded[80:] = True  # the whole last span
    run = score_pool(pool, scorer, out, span=SPAN)
    skipped = np.r_[0, 41, 42, 80:N]
    assert scorer.seen == np.setdiff1d(np.arange(N), skipped).tolist()
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(run.scores("bald"))), skipped)
    np.testing.assert_array_equal(np.flatnonzero(run.prediction == -1), skipped)
    assert len(run.nonfinite_ids) == 0
    assert run.complete
    assert (run.done, run.scored) == (N, N - len(skipped))


def test_items_without_a_finite_score_are_named_and_the_run_goes_on(out: Path) -> None:
    class Broken(FakeScorer):
        def __call__(self, items: np.ndarray, ids: np.ndarray) -> dict[str, Column]:
            scores = super().__call__(items, ids)
            scores["bald"].values[np.isin(ids, [5, 50])] = np.nan
            scores["entropy"].values[ids == 77] = np.inf
            return scores

    with pytest.warns(UserWarning, match=r"3 of 100 items have no finite score \(ids 5, 50, 77\)"):
        run = score_pool(FakePool(), Broken(), out, span=SPAN)
    assert run.complete
    assert Run.open(out).nonfinite_ids.tolist() == [5, 50, 77]
    for name in ("bald", "entropy"):
        assert np.flatnonzero(np.isnan(run.scores(name))).tolist() == [5, 50, 77]
    assert np.flatnonzero(run.prediction == -1).tolist() == [5, 50, 77]


def test_regression_predicts_floats(out: Path) -> None:
    run = begin(out, likelihood="gaussian", scores=["variance"])
    assert run.prediction.dtype == np.float32
    np.testing.assert_array_equal(run.prediction, np.arange(N) % 10)
    assert Run.open(out).prediction.dtype == np.float32


def test_progress_counts_up_to_the_pool(out: Path) -> None:
    seen: list[tuple[int, int]] = []
    score_pool(FakePool(), FakeScorer(), out, span=SPAN, progress=lambda *call: seen.append(call))
    assert seen == [(d, N) for d in (0, 16, 32, 40, 56, 72, 80, 96, 100)]
    seen.clear()
    score_pool(FakePool(), FakeScorer(), out, progress=lambda *call: seen.append(call))
    assert seen == [(N, N)]


def test_the_reader_is_closed_whatever_happens(out: Path) -> None:
    pool = FakePool()
    with pytest.raises(RunError):
        score_pool(pool, FakeScorer(on_block=fail_at(40)), out, span=SPAN)
    assert pool.closed == pool.opened == 3  # to prepare, to check, to score


# -- failures ----------------------------------------------------------------------------------------------------------


def test_a_model_that_fails_at_once_leaves_nothing(out: Path) -> None:
    class Refused(FakeScorer):
        def prepare(self, *_args: object, **_more: object) -> dict[str, object]:
            raise ValueError("no dropout")

    with pytest.raises(ValueError, match="no dropout"):
        score_pool(FakePool(), Refused(), out)
    assert not out.exists()


def test_a_model_that_fails_later_is_told_with_its_items_and_the_run_goes_on(
    out: Path, undisturbed: dict[str, bytes]
) -> None:
    with pytest.raises(
        RunError, match=r"items 56\.\.71 in span 1 \(items 40\.\.79\) .*CUDA out of memory. 40 of 100"
    ) as caught:
        begin(out, on_block=fail_at(60))
    assert isinstance(caught.value.__cause__, MemoryError)
    assert Run.open(out).done == 40
    assert content(go_on(out)) == undisturbed


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda ids: np.zeros(len(ids) + 1, np.float32), r"gave entropy as float32 \(17,\), not float32 \(16,\)"),
        (lambda ids: np.zeros((len(ids), 1), np.float32), r"float32 \(16, 1\)"),
        (lambda ids: np.zeros(len(ids), np.float64), r"gave entropy as float64"),
    ],
)
def test_scores_of_the_wrong_kind_are_refused(out: Path, wrong, says: str) -> None:
    class Wrong(FakeScorer):
        def __call__(self, items: np.ndarray, ids: np.ndarray) -> dict[str, Column]:
            return super().__call__(items, ids) | {"entropy": Column(wrong(ids))}

    with pytest.raises(RunError, match=says):
        score_pool(FakePool(), Wrong(), out)


def test_nothing_to_score_is_an_error(out: Path) -> None:
    pool = FakePool()
    pool.labels[:] = 1
    with pytest.raises(RunError, match="nothing to score: of the 100 items"):
        score_pool(pool, FakeScorer(), out)
    assert not out.exists()


def test_labeled_items_are_scored_and_selected_where_that_is_asked_for(out: Path) -> None:
    pool, scorer = FakePool(), FakeScorer()
    pool.labels[:] = 1
    pool.excluded[3] = True
    run = score_pool(pool, scorer, out, span=SPAN, labeled=True)
    assert np.flatnonzero(np.isnan(run.scores("bald"))).tolist() == [3]
    assert len(run.select(k=99, by="bald", diversity="none", pool=pool).ids) == N - 1
    with pytest.raises(RunError, match="started with labeled=true, now false"):
        score_pool(pool, scorer, out)


def test_other_things_at_the_path_are_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "thesis.tex").write_text("mine")
    lost = tmp_path / "lost"  # a run whose run.json was deleted
    begin(lost)
    (lost / "run.json").unlink()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    for path, says in ((file, "is a file"), (folder, "not a run"), (lost, "not a run"), (link, "a link to nothing")):
        with pytest.raises(RunError, match=says):
            begin(path)
    assert (folder / "thesis.tex").read_text() == "mine"
    with pytest.raises(RunError, match="could not be made a run"):
        begin(file / "run")


def test_an_empty_directory_and_missing_parents_are_fine(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert begin(tmp_path / "empty").complete
    assert begin(tmp_path / "a" / "b" / "c").complete


def test_a_span_must_hold_items(out: Path) -> None:
    with pytest.raises(RunError, match="span must be at least 1"):
        score_pool(FakePool(), FakeScorer(), out, span=0)


def test_the_pool_s_normalization_is_lent_to_the_scorer(out: Path) -> None:
    class Normalizing(FakeScorer):
        def normalize(self, mean: object, std: object) -> None:
            self.described["normalize"] = None if mean is None else [list(mean), list(std)]  # type: ignore[call-overload]

    pool, scorer = FakePool(), Normalizing()
    pool.mean, pool.std = (0.5,), (0.25,)  # type: ignore[assignment]
    run = score_pool(pool, scorer, out)
    assert run.meta["normalize"] == [[0.5], [0.25]]
    assert scorer.describe()["normalize"] is None
    scorer.transform = lambda x: x  # type: ignore[assignment]
    with pytest.raises(RunError, match="started with normalize="):
        score_pool(pool, scorer, out)


# -- how a pool is cut -------------------------------------------------------------------------------------------------


@given(n=st.integers(1, 10**9), step=st.integers(1, 5000), flops=st.sampled_from([0, 10**6, 10**9, 10**12]))
def test_default_spans_are_whole_steps_and_not_too_few(n: int, step: int, flops: int) -> None:
    span = default_span(n, step, flops, item_bytes=784)
    assert 1 <= span <= n
    assert span == n or span % step == 0
    assert span <= max(65_536, step)
    if n >= 50 * 256 and step <= 256 and flops >= 10**9:
        assert n // span >= 50
        assert span > 128


@pytest.mark.parametrize(
    ("n", "step", "flops", "span"),
    [
        (60_000, 64, 10**9, 1152),  # a fiftieth
        (60_000, 64, 10**7, 9920),  # two seconds
        (60_000, 64, 10**4, 60_000),  # not even that in all
        (1797, 32, 10**9, 256),
        (100, 64, 10**9, 100),
        (10**8, 512, 10**9, 65_536),
        (10**8, 512, 0, 65_536),
    ],
)
def test_default_span_examples(n: int, step: int, flops: int, span: int) -> None:
    assert default_span(n, step, flops, item_bytes=784) == span


GAL = 2548, 1.37e8, 784  # items per step, FLOPs and bytes per item, at T = 100 and 8 GiB
RESNET_HEAD = 891, 8.6e9, 150_528
VIT = 11, 3.5e12, 150_528


@pytest.mark.parametrize(
    ("n", "model", "speed", "span", "block"),
    [
        (60_000, GAL, CUDA, 60_000, 15 * 2548),  # 0.2 s in all
        (10**7, GAL, CUDA, 411 * 2548, 15 * 2548),  # 2^20 items: 3 s at 300,000 items/s
        (50_000, RESNET_HEAD, CUDA, 43 * 891, 891),  # two seconds
        (1_281_167, RESNET_HEAD, CUDA, 43 * 891, 891),
        (10**7, RESNET_HEAD, CUDA, 224 * 891, 891),  # a fiftieth
        (10_000, VIT, CUDA, 23 * 11, 11),
        (1_281_167, VIT, CUDA, 2329 * 11, 11),
        (10**6, (128, 1e7, 4096), CUDA, 10**6, 64 * 128),  # small steps: 64 of them
        (10**6, (16, 1e6, 602_112), CUDA, 1250 * 16, 6 * 16),  # large items: 55 of 64 MiB
        (60_000, (79, 1.37e8, 784), CPU, 1185, 1185),  # as it always was
        (1_281_167, (27, 8.6e9, 150_528), CPU, 25_623, 108),
    ],
)
def test_spans_and_blocks_of_typical_models(
    n: int, model: tuple[int, float, int], speed: Speed, span: int, block: int
) -> None:
    step, flops, item_bytes = model
    assert default_span(n, step, flops, item_bytes, speed=speed) == span
    assert default_block(span, step, flops, item_bytes, speed) == block


@pytest.mark.parametrize("share", [1.0, 0.05])
@pytest.mark.parametrize("model", [GAL, RESNET_HEAD, VIT, (64, 1e4, 8)])
@pytest.mark.parametrize(("n", "speed"), [(50_000, CUDA), (10**9, CUDA), (1797, CPU), (10**7, CPU), (10**10, CPU)])
def test_the_spans_of_one_worker_are_as_they_always_were(
    n: int, speed: Speed, model: tuple[int, float, int], share: float
) -> None:
    step, flops, item_bytes = model
    seconds_per_item = share * flops / speed.flops + item_bytes / speed.bytes
    full = int(4 * step / share) if share < 1 else 0
    wanted = min(max(n // 50, 256, int(2.0 / seconds_per_item), full), speed.span_max)
    expected = min(n, max(step, wanted // step * step))
    assert default_span(n, step, flops, item_bytes, share, speed, workers=1) == expected
    assert default_span(n, step, flops, item_bytes, share, speed, workers=1, driver=False) == expected


@pytest.mark.parametrize(
    ("n", "workers", "driver", "span"),
    [  # of a ResNet-50 with a dropout head at 19,378 items/s, in steps of 891
        (10**6, 8, True, 4 * 891),  # between two commits 0.19 s, 3,720 items
        (10**7, 8, True, 23 * 891),  # 60 spans for each worker
        (10**7, 8, False, 23 * 891),
        (10**9, 1000, True, 521 * 891),  # between two commits 24 s, 465,082 items
        (10**9, 1000, False, 18 * 891),  # 60 spans for each worker
        (10**10, 10_000, False, 18 * 891),
        (10**9, 10_000, True, 5219 * 891),  # more than a span has otherwise: else commits could not follow
        (10**12, 8, True, (1 << 20) // 891 * 891),  # nothing is gained beyond
        (500, 8, True, 500),
    ],
)
def test_spans_of_many_workers_leave_time_for_their_commits(n: int, workers: int, driver: bool, span: int) -> None:
    step, flops, item_bytes = RESNET_HEAD
    assert default_span(n, step, flops, item_bytes, speed=CUDA, workers=workers, driver=driver) == span


@given(
    n=st.integers(10**6, 10**10),
    workers=st.integers(2, 2000),
    step=st.integers(1, 1000),
    flops=st.sampled_from([10**8, 10**10, 10**12]),
    speed=st.sampled_from([CPU, CUDA]),
)
def test_spans_of_many_workers_follow_the_rule(n: int, workers: int, step: int, flops: int, speed: Speed) -> None:
    span = default_span(n, step, flops, 784, speed=speed, workers=workers)
    assert span == n or span % step == 0
    least = speed.items_in(2 * workers * 0.012, flops, 784)
    if least < n:
        assert span > least - step - 1
    if least < n / (60 * workers):
        assert span <= max(n / (60 * workers), step, 256)


@given(
    n=st.integers(1, 10**9),
    step=st.integers(1, 5000),
    flops=st.sampled_from([0, 10**6, 10**9, 10**12]),
    item_bytes=st.sampled_from([1, 784, 150_528, 1 << 30]),
)
def test_blocks_on_a_gpu_are_whole_steps_in_bounded_memory(n: int, step: int, flops: int, item_bytes: int) -> None:
    span = default_span(n, step, flops, item_bytes, speed=CUDA)
    block = default_block(span, step, flops, item_bytes, CUDA)
    assert 1 <= block <= span <= n
    assert span == n or span % step == 0
    assert block == span or block % step == 0
    assert block <= step or block * item_bytes <= 64 << 20
    assert block <= 64 * step


def test_the_device_decides_the_speed() -> None:
    assert (speed_of("cuda:1"), speed_of("cuda"), speed_of("cpu"), speed_of("mps")) == (CUDA, CUDA, CPU, CPU)


@given(n=st.integers(1, 500), size=st.integers(1, 200), block=st.integers(1, 64), seed=st.integers(0, 9))
def test_spans_and_blocks_cover_what_is_to_be_scored_once(n: int, size: int, block: int, seed: int) -> None:
    skip = np.random.default_rng(seed).random(n) < 0.7
    covered = np.zeros(n, int)
    for span in cut(n, size):
        assert span.n <= size
        for start, stop in blocks_of(span, block, skip[span.start : span.stop]):
            assert (start - span.start) % block == 0
            assert 0 < stop - start <= block
            covered[start:stop] += 1
    assert (covered[~skip] == 1).all()
    assert (covered <= 1).all()


def test_blocks_stay_small_enough_to_be_read_fast_and_stopped_soon() -> None:
    photo, digit = 3 * 224 * 224, 784
    assert default_block(65_536, 8, 10**10, photo) == 104  # 13 steps: 15.7 of 16 MB
    assert default_block(65_536, 64, 0, digit) == default_block(65_536, 64, 10**14, digit) == 16 * 64
    assert default_block(100, 64, 10**9, digit) == 100
    assert default_block(10, 1, 10**9, 1 << 30) == 1
    assert str(Span(2, 80, 100)) == "span 2 (items 80..99)"


def test_importing_runs_costs_no_heavy_package() -> None:
    code = "import sys, mcscore.run; print(*{'torch', 'zarr', 'faiss', 'pyarrow', 'tqdm'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
