"""BatchBALD and EPIG choose what their formulas say, whatever the order of the candidates."""

from __future__ import annotations

import itertools
import math
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mcscore.masks import philox4x32
from mcscore.selection.joint import JointPicks, batchbald, epig
from mcscore.selection.joint.configurations import Configurations, uniforms

SAMPLING = "ignore:BatchBALD. gains from pick"


def candidates(M: int, T: int, C: int, seed: int = 0) -> Tensor:
    """Items that differ in what passes disagree about, (M, T, C) float32."""
    made = torch.Generator().manual_seed(seed)
    logits_MTC = 2 * torch.randn(M, 1, C, generator=made) + 2 * torch.randn(M, T, C, generator=made)
    return torch.softmax(logits_MTC, -1)


def entropy(q: np.ndarray) -> float:
    q = q[q > 0]
    return float(-(q * np.log(q)).sum())


def greedy(p_MTC: np.ndarray, k: int, tie: float = 2e-6) -> tuple[list[int], list[float]]:
    """BatchBALD as it is defined: joint entropies of all configurations in float64, every candidate in every step.

    Ties: float32 probabilities sum to 1 to within 1e-7.
    """
    M, T, _ = p_MTC.shape
    noise_M = np.array([np.mean([entropy(p_TC[t]) for t in range(T)]) for p_TC in p_MTC])
    joint_ST, chosen, scores = np.ones((1, T)), list[int](), [0.0]
    for _ in range(k):
        found = np.full(M, -np.inf)
        for m in set(range(M)) - set(chosen):
            found[m] = entropy(joint_ST @ p_MTC[m] / T) - noise_M[[*chosen, m]].sum()
        best = int(np.flatnonzero(found >= found.max() - tie)[0])
        chosen.append(best)
        scores.append(found[best])
        joint_ST = (joint_ST[:, None, :] * p_MTC[best].T).reshape(-1, T)
    return chosen, np.diff(scores).tolist()


def epig_formula(p_MTC: np.ndarray, targets_JTC: np.ndarray) -> np.ndarray:
    """Mean over targets of the mutual information of two labels, from their joint distribution."""
    scores = np.zeros(len(p_MTC))
    for m, p_TC in enumerate(p_MTC):
        for target_TC in targets_JTC:
            joint_CC = p_TC.T @ target_TC / len(p_TC)
            scores[m] += entropy(joint_CC.sum(0)) + entropy(joint_CC.sum(1)) - entropy(joint_CC)
    return scores / len(targets_JTC)


def test_epig_formula_is_the_mutual_information_of_two_labels() -> None:
    same = np.array([[[1.0, 0.0], [0.0, 1.0]]])
    np.testing.assert_allclose(epig_formula(same, same), [math.log(2)])


@pytest.mark.parametrize(
    ("M", "T", "C", "k"), [(40, 20, 3, 6), (60, 7, 5, 5), (25, 13, 2, 12), (30, 100, 10, 4), (12, 1, 4, 3)]
)
def test_batchbald_chooses_what_greedy_float64_does(M: int, T: int, C: int, k: int) -> None:
    p_MTC = candidates(M, T, C)
    picks = batchbald(np.arange(M), p_MTC, k)
    positions, gains = greedy(p_MTC.double().numpy(), k)
    assert picks.positions.tolist() == positions
    np.testing.assert_allclose(picks.gains, gains, atol=2e-6)
    assert picks.exact == k


def test_the_lowest_id_wins_ties_also_of_permuted_classes_and_passes() -> None:
    p_MTC = candidates(6, 9, 4)
    repeated = torch.cat([p_MTC, p_MTC[:, :, [2, 0, 3, 1]], p_MTC[:, torch.randperm(9)], p_MTC])
    picks = batchbald(np.arange(24), repeated, 5)
    positions, gains = greedy(repeated.double().numpy(), 5)
    assert picks.positions.tolist() == positions
    np.testing.assert_allclose(picks.gains, gains, atol=2e-6)
    epigs = epig(np.arange(24), torch.cat([p_MTC] * 4), candidates(5, 9, 4, seed=1), 24).positions
    assert epigs.reshape(6, 4).tolist() == [[first, first + 6, first + 12, first + 18] for first in epigs[::4]]
    assert max(epigs[::4]) < 6


@pytest.mark.filterwarnings(SAMPLING)
def test_the_order_of_candidates_does_not_matter() -> None:
    p_MTC, ids = candidates(200, 10, 4), np.arange(200) * 7 + 5
    targets_JTC = candidates(9, 10, 4, seed=1)
    order = np.random.default_rng(0).permutation(200)
    for found, shuffled in (
        (batchbald(ids, p_MTC, 9, rows=100), batchbald(ids[order], p_MTC[order], 9, rows=100)),
        (epig(ids, p_MTC, targets_JTC, 9), epig(ids[order], p_MTC[order], targets_JTC, 9)),
    ):
        assert ids[order][shuffled.positions].tolist() == ids[found.positions].tolist()
        assert shuffled.gains.tolist() == found.gains.tolist()


def test_few_candidates_are_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    module, looked = sys.modules["mcscore.selection.joint.batchbald"], list[int]()
    evaluate = module._Search._evaluate
    monkeypatch.setattr(
        module._Search, "_evaluate", lambda self, some, *rest: (looked.append(len(some)), evaluate(self, some, *rest))
    )
    batchbald(np.arange(3000), candidates(3000, 100, 4), 5)
    assert looked[0] == 3000
    assert sum(looked[1:]) < 4000  # of 12,000


@pytest.mark.parametrize("rows", [24, 200, 2000])
def test_lazy_evaluation_of_estimates_finds_the_best_estimate(rows: int) -> None:
    """Against every candidate evaluated with the same samples."""
    from mcscore.kernels.joint import reference

    p_MTC, k = candidates(400, 20, 4, seed=3), 12
    first = 2 + sum(rows >= 4**n for n in range(1, 6))
    with pytest.warns(UserWarning, match=rf"from pick {first} on are estimated from {rows:,} "):
        picks = batchbald(np.arange(400), p_MTC, k, rows=rows, seed=5)
    batch, noise_M = Configurations(20, 5, rows), torch.special.entr(p_MTC.double()).sum(-1).mean(-1)
    for n, position in enumerate(picks.positions):
        gains_M = reference(p_MTC, batch.all.rows_ST, batch.all.weights_S)[0] - noise_M
        gains_M[picks.positions[:n]] = -math.inf
        assert gains_M[position] >= gains_M.max() - 1e-5
        assert abs(gains_M[position] - picks.gains[n]) < 1e-5
        batch.add(position, p_MTC[position])


def test_estimated_gains_agree_with_exact_ones() -> None:
    """Of the same picks: within four standard errors, an entropy's deviation being at most log(C) / 2."""
    p_MTC = candidates(50, 30, 3, seed=4)
    exact = batchbald(np.arange(50), p_MTC, 8)
    with pytest.warns(UserWarning, match="from pick 8 on"):
        few = batchbald(np.arange(50), p_MTC, 8, rows=1000)
    assert exact.exact == 8
    assert few.exact == 7
    assert few.positions[:7].tolist() == exact.positions[:7].tolist()
    assert abs(few.gains[7] - exact.gains[7]) < 4 * math.log(3) / 2 / math.sqrt(1000)


@pytest.mark.filterwarnings(SAMPLING)
def test_samples_depend_on_the_seed_alone() -> None:
    p_MTC = candidates(60, 10, 5)
    first, again, other = (batchbald(np.arange(60), p_MTC, 6, rows=100, seed=seed) for seed in (1, 1, 2))
    assert first.gains.tolist() == again.gains.tolist() != other.gains.tolist()


def test_the_label_of_an_item_in_a_sample_is_a_function_of_seed_id_and_sample() -> None:
    words = philox4x32(np.array([[3, 5, 2, 0xFFFFFFFF]], np.uint32), 77)[0].tolist()
    expected = (words[0] * 2**32 + words[1]) // 2**11 * 2.0**-53
    assert uniforms(77, 2 * 2**32 + 5, 4)[3].item() == expected
    u = uniforms(9, 1, 20_000)
    assert abs(u.mean() - 0.5) < 4 / math.sqrt(12 * 20_000)
    assert 0 <= u.min() < u.max() < 1


def test_a_tenth_of_the_samples_represents_every_pass() -> None:
    batch, certain = Configurations(7, 3, 200), torch.eye(7).repeat(1, 2)[:, :7]  # the label tells the pass
    batch.add(0, certain)
    assert batch.exact
    assert batch.few is None
    for id in (1, 2, 3):
        batch.add(id, certain)
    batch._begin_sampling()
    assert batch.few is not None
    assert len(batch.few.rows_ST) == batch.few.samples == 20
    assert set(batch.few.rows_ST.argmax(1).tolist()) == set(range(7))
    torch.testing.assert_close(batch.few.weights_S.sum(), torch.tensor(1.0))
    few = Configurations(30, 3, 200)
    few._begin_sampling()
    assert few.few is None  # 20 samples, 30 passes


def test_samples_have_the_probabilities_of_configurations() -> None:
    """Frequencies of the joint labels of three items against their exact probabilities, within five standard errors."""
    p_MTC, n = candidates(3, 4, 3, seed=6), 40_000
    exact, sampled = Configurations(4, 0, 1000), Configurations(4, 0, n)
    for id, p_TC in enumerate(p_MTC):
        exact.add(id, p_TC)
    sampled._samples = n
    sampled._chosen = exact._chosen
    sampled._begin_sampling()
    assert exact.exact
    assert not sampled.exact
    for row_T, weight in zip(exact.rows_ST, exact.weights_S.tolist(), strict=True):
        share = (sampled.rows_ST - row_T).abs().amax(1).lt(1e-4).float().mean().item()
        assert abs(share - weight) < 5 * math.sqrt(weight * (1 - weight) / n)


@pytest.mark.parametrize(("M", "T", "C", "J"), [(20, 8, 3, 5), (15, 30, 10, 7), (9, 1, 4, 3), (6, 5, 40, 2)])
def test_epig_is_its_formula(M: int, T: int, C: int, J: int) -> None:
    p_MTC, targets_JTC = candidates(M, T, C), candidates(J, T, C, seed=1)
    targets_JTC[0] = 0.0
    targets_JTC[0, :, 1] = 1.0  # a target whose other classes have no probability
    expected = epig_formula(p_MTC.double().numpy(), targets_JTC.double().numpy())
    picks = epig(np.arange(M), p_MTC, targets_JTC, M)
    np.testing.assert_allclose(picks.gains, expected[picks.positions], atol=4e-6 * math.log(C))
    if T > 1:
        assert picks.positions.tolist() == np.argsort(-expected, kind="stable").tolist()


def test_targets_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    p_MTC, targets_JTC = candidates(10, 6, 4), candidates(7, 6, 4, seed=1)
    whole = epig(np.arange(10), p_MTC, targets_JTC, 10)
    monkeypatch.setattr(sys.modules["mcscore.selection.joint.epig"], "_BLOCK", 3 * 6 * 4)
    np.testing.assert_allclose(epig(np.arange(10), p_MTC, targets_JTC, 10).gains, whole.gains, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.filterwarnings(SAMPLING)
def test_a_gpu_chooses_as_the_cpu_does() -> None:
    p_MTC, targets_JTC, ids = candidates(700, 50, 10), candidates(20, 50, 10, seed=1), np.arange(700)
    for rows in (10_000, 300):
        ours, theirs = (batchbald(ids, p, 5, rows=rows) for p in (p_MTC, p_MTC.cuda()))
        assert ours.positions.tolist() == theirs.positions.tolist()
        np.testing.assert_allclose(ours.gains, theirs.gains, atol=1e-5)
    scores = [epig(ids, p, targets_JTC, 700) for p in (p_MTC, p_MTC.cuda())]
    np.testing.assert_allclose(*(picks.gains[np.argsort(picks.positions)] for picks in scores), atol=1e-5)


# ---- hostile input ---------------------------------------------------------------------------------------------------


def both(ids: Any, p_MTC: Tensor, k: int) -> list[JointPicks]:
    return [batchbald(ids, p_MTC, k), epig(ids, p_MTC, candidates(3, *p_MTC.shape[1:], seed=1), k)]


def test_all_and_one_and_none_of_the_candidates() -> None:
    p_MTC = candidates(9, 5, 2)
    for every, one, none in zip(*(both(np.arange(9), p_MTC, k) for k in (9, 1, 0)), strict=True):
        assert sorted(every.positions) == list(range(9))
        assert (every.gains >= 0).all()
        assert one.positions.tolist() == every.positions[:1].tolist()
        assert len(none.positions) == 0


def test_equal_candidates_are_chosen_by_id() -> None:
    alike = candidates(1, 6, 5).repeat(12, 1, 1)
    ids = np.arange(12)[::-1].copy()
    for picks in both(ids, alike, 4):
        assert ids[picks.positions].tolist() == [0, 1, 2, 3]


def test_candidates_of_one_certain_class_say_nothing() -> None:
    certain = torch.zeros(5, 7, 10)
    certain[:, :, 3] = 1.0
    for picks in both(np.arange(5), certain, 3):
        assert picks.positions.tolist() == [0, 1, 2]
        assert picks.gains.tolist() == [0.0, 0.0, 0.0]


def test_nan_is_left_out_and_named() -> None:
    p_MTC = candidates(8, 5, 3)
    p_MTC[6, 2, 1] = math.nan
    p_MTC[2] = math.nan
    kept = [0, 1, 3, 4, 5, 7]
    for picks, clean in zip(both(np.arange(8), p_MTC, 6), both(np.array(kept), p_MTC[kept], 6), strict=True):
        assert picks.left_out.tolist() == [2, 6]
        assert picks.positions.tolist() == [kept[position] for position in clean.positions]
        assert picks.gains.tolist() == clean.gains.tolist()
    with pytest.raises(ValueError, match=r"k = 7, but only 6 candidates are left \(2 more have NaN probabilities\)"):
        batchbald(np.arange(8), p_MTC, 7)


def test_one_pass_has_no_disagreement() -> None:
    for picks in both(np.arange(6), candidates(6, 1, 4), 3):
        assert picks.positions.tolist() == [0, 1, 2]
        assert picks.gains.tolist() == [0.0, 0.0, 0.0]


def test_a_thousand_classes_begin_to_sample_at_once() -> None:
    p_MTC = candidates(12, 20, 1000)
    with pytest.warns(
        UserWarning, match=r"from pick 3 on are estimated from 10,000 samples .* 2 items of 1000 classes"
    ):
        picks = batchbald(np.arange(12), p_MTC, 4)
    assert picks.exact == 2
    positions, gains = greedy(p_MTC.double().numpy(), 2)
    assert picks.positions[:2].tolist() == positions
    np.testing.assert_allclose(picks.gains[:2], gains, atol=1e-5)


def test_more_passes_than_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="12 samples cannot represent 13 passes"):
        batchbald(np.arange(9), candidates(9, 13, 5), 4, rows=12)
    assert batchbald(np.arange(9), candidates(9, 13, 5), 2, rows=12).exact == 2


def test_no_warning_if_the_last_pick_is_exact() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert batchbald(np.arange(20), candidates(20, 5, 10), 2, rows=10).exact == 2


def test_a_pass_too_improbable_for_float32_still_has_its_samples() -> None:
    """The pass draws class 1, which all passes that its earlier labels leave possible exclude."""
    batch = Configurations(2, 0, 4)
    for id, p in enumerate([[1.0, 1e-30]] * 2 + [[0.0, 1.0]]):
        batch.add(id, torch.tensor([[1 - q, q] for q in p]))
    assert batch.rows_ST.isfinite().all()
    assert torch.allclose(batch.rows_ST.sum(1), torch.ones(len(batch.rows_ST)))


@pytest.mark.parametrize(
    ("ids", "shape", "k", "message"),
    [
        ([0, 1, 2], (2, 4, 3), 1, "one row per candidate"),
        ([0, 1, 1], (3, 4, 3), 1, "id 1 is a candidate more than once"),
        ([0, 1], (2, 4, 3), 3, "k = 3, but only 2 candidates"),
        ([0, 1], (2, 4, 3), -1, "k must be a whole number"),
        ([0, 1], (2, 4, 1), 1, "2 classes are needed"),
        ([0, 1], (2, 0, 3), 1, "at least 1 pass"),
    ],
)
def test_input_that_does_not_fit_is_refused(ids: list[int], shape: tuple[int, ...], k: int, message: str) -> None:
    p_MTC = torch.full(shape, 1 / shape[2])
    with pytest.raises(ValueError, match=message):
        batchbald(ids, p_MTC, k)
    with pytest.raises(ValueError, match=message):
        epig(ids, p_MTC, torch.full((2, 4, 3), 1 / 3), k)


@pytest.mark.parametrize("wrong", [lambda p: p.log(), lambda p: p * 3, lambda p: p.log() + 5])
def test_what_is_no_distribution_is_refused(wrong: Any) -> None:
    p_MTC = candidates(5, 4, 3)
    p_MTC[3] = wrong(p_MTC[3])
    with pytest.raises(ValueError, match="those of id 13 do not"):
        batchbald(np.arange(10, 15), p_MTC, 2)


def test_targets_are_checked() -> None:
    p_MTC, targets_JTC = candidates(5, 4, 3), candidates(3, 4, 3, seed=1)
    with pytest.raises(ValueError, match="targets have 5 passes and candidates 4"):
        epig(np.arange(5), p_MTC, candidates(3, 5, 3), 2)
    targets_JTC[1] = math.nan
    with pytest.warns(UserWarning, match="1 of 3 targets"):
        found = epig(np.arange(5), p_MTC, targets_JTC, 2)
    assert found.gains.tolist() == epig(np.arange(5), p_MTC, targets_JTC[[0, 2]], 2).gains.tolist()
    with pytest.raises(ValueError, match="of 3 none has"):
        epig(np.arange(5), p_MTC, torch.full((3, 4, 3), math.nan), 2)


def test_pairs_of_batches_have_at_most_the_information_of_their_parts() -> None:
    """Diminishing gains, and a batch's score below the sum of BALD."""
    p_MTC = candidates(20, 12, 4)
    gains = batchbald(np.arange(20), p_MTC, 6).gains
    assert all(later <= earlier + 1e-6 for earlier, later in itertools.pairwise(gains))
    assert gains.sum() <= math.log(12)  # there are 12 passes to tell apart
