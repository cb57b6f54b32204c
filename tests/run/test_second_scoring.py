"""Samples of candidates: the run's passes with shared masks, made once, kept, and made again where they are not those asked for."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mcscore import Dropout, Pool, Run, RunError, Scorer, score_pool
from mcscore.run.selecting import second_scoring
from mcscore.run.selecting.samples_file import read_samples, write_samples
from mcscore.run.selecting.second_scoring import SecondScoring, class_probabilities, drawn_items
from mcscore.selection.joint import batchbald, epig

N = 60
KEY = {"model": "m", "passes": 3}


def net(outputs: int = 3) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(5, 16), nn.Dropout(0.5), nn.ReLU(), nn.Linear(16, 8), nn.Dropout(0.25), nn.Linear(8, outputs)
    )


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    items = 3 * np.random.default_rng(0).standard_normal((N, 5)).astype(np.float32)
    return Pool.create(tmp_path / "pool", items)


def scored(pool: Pool, out: Path, **settings: Any) -> Run:
    return score_pool(pool, Scorer(net(), passes=12, seed=7, scores=("bald",), **settings), out)


def directly(pool: Pool, ids: Any, dropout: Dropout = Dropout(masks="shared")) -> np.ndarray:  # noqa: B008
    """(n, T, C) by the scorer itself."""
    logits_TBC = Scorer(net(), passes=12, seed=7, dropout=dropout).samples(pool.take(ids), np.asarray(ids))
    return torch.softmax(logits_TBC, -1).transpose(0, 1).numpy()


def test_samples_are_the_passes_of_the_run_with_shared_masks(
    pool: Pool, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, ids, told = scored(pool, out), np.array([40, 3, 59, 17]), list[tuple[int, int]]()
    monkeypatch.setattr(second_scoring, "_FIRST", 1)
    other = Scorer(net(), passes=100, seed=0)  # as the command line builds it: settings come from the run
    samples = SecondScoring(run, pool, other, lambda *done: told.append(done)).samples(ids)
    np.testing.assert_allclose(samples, directly(pool, ids), atol=1e-6)
    assert samples.dtype == np.float32
    assert told[0] == (0, 4)
    assert told[-1] == (4, 4)
    assert other.dropout.masks == "independent"


def test_chosen_sites_and_their_probabilities_are_those_of_the_run(pool: Pool, out: Path) -> None:
    run = scored(pool, out, dropout=Dropout(sites=["4"], p=0.75))
    samples = SecondScoring(run, pool, Scorer(net())).samples(np.arange(9))
    np.testing.assert_allclose(samples, directly(pool, np.arange(9), Dropout(["4"], 0.75, "shared")), atol=1e-6)


def test_dropped_weights_are_those_of_the_run(pool: Pool, out: Path) -> None:
    torch.manual_seed(0)
    plain, weights = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3)), Dropout(weights=0.25)
    run = score_pool(pool, Scorer(plain, passes=6, scores=("bald",), dropout=weights), out)
    samples = SecondScoring(run, pool, Scorer(plain)).samples(np.arange(9))
    shared = Scorer(plain, passes=6, dropout=dataclasses.replace(weights, masks="shared"))
    expected = torch.softmax(shared.samples(pool.take(np.arange(9))), -1).transpose(0, 1).numpy()
    np.testing.assert_allclose(samples, expected, atol=1e-6)


def test_a_repeat_or_a_part_needs_no_model(pool: Pool, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, scorer = scored(pool, out), Scorer(net())
    first = SecondScoring(run, pool, scorer).samples(np.arange(20)[::-1])
    monkeypatch.setattr(Scorer, "samples", lambda *_: pytest.fail("scored again"))
    again = SecondScoring(Run.open(run.path), pool, scorer).samples(np.array([5, 19, 0]))
    np.testing.assert_array_equal(again, first[[14, 0, 19]])


def test_a_selection_again_needs_no_model(pool: Pool, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = scored(pool, out)
    chosen = [run.select(3, diversity=diversity).ids.tolist() for diversity in ("batchbald", "epig")]
    monkeypatch.setattr(Scorer, "samples", lambda *_: pytest.fail("scored again"))
    assert [run.select(3, diversity=diversity).ids.tolist() for diversity in ("batchbald", "epig")] == chosen


def test_of_other_items_only_those_that_are_new_are_scored(pool: Pool, out: Path) -> None:
    run, told = scored(pool, out), list[tuple[int, int]]()
    second = SecondScoring(run, pool, Scorer(net()), lambda *done: told.append(done))
    for ids in ([1, 2, 3, 4], [9, 3, 2, 0]):
        np.testing.assert_allclose(second.samples(np.array(ids)), directly(pool, ids), atol=1e-6)
    assert told == [(0, 4), (4, 4), (0, 2), (2, 2)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-4]), "cannot be used .*; its samples are made again"),
        (lambda file: file.write_bytes(file.read_bytes() + b"    "), "cannot be used"),
        (lambda file: file.write_bytes(b"x" * 100), "cannot be used"),
        (lambda file: file.write_bytes(b'{"n": 1}\n'), "it has no samples of mcscore"),
        (lambda file: _flip(file, -5), "checksum mismatch"),
        (lambda file: _flip(file, file.read_bytes().index(b"\n") + 3), "checksum mismatch"),
        (
            lambda file: file.write_bytes(file.read_bytes().replace(b'"passes": 12', b'"passes": 13')),
            "checksum mismatch",
        ),
    ],
)
def test_a_damaged_file_is_made_again_and_said(pool: Pool, out: Path, change: Any, message: str) -> None:
    run = scored(pool, out)
    expected = SecondScoring(run, pool, Scorer(net())).samples(np.arange(5))
    file = run.path / "samples-candidates.bin"
    content = file.read_bytes()
    change(file)
    with pytest.warns(UserWarning, match=message):
        again = SecondScoring(run, pool, Scorer(net())).samples(np.arange(5))
    np.testing.assert_array_equal(again, expected)
    assert file.read_bytes() == content


def _flip(file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


def test_samples_of_another_run_are_made_again_and_said(pool: Pool, out: Path, tmp_path: Path) -> None:
    run, scorer = scored(pool, out), Scorer(net())
    SecondScoring(run, pool, scorer).samples(np.arange(5))
    other = score_pool(pool, Scorer(net(), passes=12, seed=8, scores=("bald",)), tmp_path / "other")
    (other.path / "samples-candidates.bin").write_bytes((run.path / "samples-candidates.bin").read_bytes())
    with pytest.warns(UserWarning, match=r"samples of another seed; they are made again"):
        samples = SecondScoring(other, pool, scorer).samples(np.array([4, 8, 9]))
    assert abs(samples - directly(pool, [4, 8, 9])).max() > 0.1


def test_the_file_keeps_what_it_was_given(tmp_path: Path) -> None:
    ids, p_nTC = np.array([2, 5, 9]), np.random.default_rng(0).random((3, 4, 2), np.float32)
    write_samples(tmp_path / "a", KEY, ids, p_nTC)
    for got, expected in zip(read_samples(tmp_path / "a", KEY) or (), (ids, p_nTC), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert read_samples(tmp_path / "b", KEY) is None
    with pytest.warns(UserWarning, match="another passes, seed"):
        assert read_samples(tmp_path / "a", {"model": "m", "passes": 4, "seed": 0}) is None
    with pytest.raises(RunError, match="could not be written"):
        write_samples(tmp_path / "none" / "a", KEY, ids, p_nTC)


def test_select_chooses_by_the_samples(pool: Pool, out: Path) -> None:
    run, scorer = scored(pool, out), Scorer(net())
    best = np.argsort(-run.scores("bald"), kind="stable")[:30]
    chosen = run.select(4, diversity="batchbald", candidates=30)
    picks = batchbald(best, directly(pool, best), 4)
    assert chosen.ids.tolist() == best[picks.positions].tolist()
    np.testing.assert_allclose(chosen.facts["gains"], picks.gains, atol=1e-5)
    targets = np.array([1, 5, 30])
    chosen = run.select(4, diversity="epig", candidates=30, targets=targets)
    expected = epig(best, directly(pool, best), directly(pool, targets), 4)
    assert chosen.ids.tolist() == best[expected.positions].tolist()
    assert run.select(2, diversity="epig", seed=3, scorer=scorer).facts["seed"] == 3


def test_joint_methods_respect_limits(pool: Pool, out: Path) -> None:
    from mcscore.selection import Limits

    run, groups = scored(pool, out), np.arange(N) // 2 % 5
    for diversity in ("batchbald", "epig"):
        chosen = run.select(10, diversity=diversity, limits=Limits(groups=groups, per_group=2))
        assert np.bincount(groups[chosen.ids]).tolist() == [2] * 5


def test_targets(pool: Pool, out: Path, tmp_path: Path) -> None:
    second = SecondScoring(scored(pool, out), pool, Scorer(net()))
    np.testing.assert_allclose(second.targets([7, 2, 7], 0), directly(pool, [2, 7]), atol=1e-6)
    elsewhere = Pool.create(tmp_path / "elsewhere", pool.take([9, 4]))
    with pytest.warns(UserWarning, match="another pool"):
        np.testing.assert_allclose(second.targets(elsewhere, 0), directly(pool, [9, 4]), atol=1e-6)
    for wrong in ([], [-1], [3, N]):
        with pytest.raises(RunError, match="targets must be ids"):
            second.targets(wrong, 0)


def test_targets_are_for_epig_alone(pool: Pool, out: Path) -> None:
    with pytest.raises(RunError, match="'batchbald' has no targets"):
        scored(pool, out).select(2, diversity="batchbald", targets=[1])


def test_drawn_items_are_a_function_of_the_seed_and_never_excluded(pool: Pool) -> None:
    pool.set_excluded(np.arange(0, N, 3))
    for n in (7, 35):
        ids = drawn_items(pool, n, 4)
        assert len(np.unique(ids)) == len(ids) == n
        assert (ids % 3 > 0).all()
        assert ids.tolist() == drawn_items(pool, n, 4).tolist() != drawn_items(pool, n, 5).tolist()
    assert drawn_items(pool, 1000, 0).tolist() == np.flatnonzero(np.arange(N) % 3).tolist()


def test_drawn_items_are_spread_evenly(pool: Pool) -> None:
    counts = np.bincount(np.concatenate([drawn_items(pool, 6, seed) for seed in range(400)]), minlength=N)
    assert abs(counts - 40).max() < 5 * np.sqrt(40)


def test_fewer_candidates_are_taken_by_default_where_classes_are_many(
    pool: Pool, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = scored(pool, out)
    monkeypatch.setattr(second_scoring, "BYTES", 25 * 4 * 12 * 3)
    run.select(3, diversity="batchbald")
    header = json.loads((run.path / "samples-candidates.bin").read_bytes().split(b"\n")[0])
    assert header["shape"] == [25, 12, 3]
    run.select(30, diversity="batchbald")
    header = json.loads((run.path / "samples-candidates.bin").read_bytes().split(b"\n")[0])
    assert header["shape"] == [30, 12, 3]


def test_classes_of_outputs() -> None:
    logits_TBC = torch.tensor([[[0.0, 1.0], [torch.nan, 0.0], [-torch.inf, 2.0], [torch.inf, 0.0]]])
    p_TBC = class_probabilities(logits_TBC, "categorical", "logits")
    assert p_TBC.isnan().any(2).tolist() == [[False, True, False, True]]
    assert p_TBC[0, 2].tolist() == [0.0, 1.0]
    torch.testing.assert_close(
        class_probabilities(logits_TBC[:, :1, 1:], "bernoulli", "logits")[0, 0, 1], torch.tensor(1.0).sigmoid()
    )
    for outputs, likelihood, what in (
        (torch.zeros(2, 3, 4), "bernoulli", "4 labels"),
        (torch.zeros(2, 3, 4, 5), "categorical", "pixels"),
    ):
        with pytest.raises(RunError, match=f"the model has {what}"):
            class_probabilities(outputs, likelihood, "logits")


def test_regression_has_no_joint_selection(pool: Pool, out: Path) -> None:
    run = score_pool(pool, Scorer(net(2), passes=12, scores=("bald",), likelihood="gaussian"), out)
    with pytest.raises(RunError, match=r"needs classes, and .* has likelihood 'gaussian'"):
        run.select(2, diversity="batchbald")
