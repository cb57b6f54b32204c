"""Dropout, Linear and scores in one kernel: the same masks and the same scores as float64 code makes of its three parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mcscore import masks
from mcscore.acquisition import KERNEL_SCORES, oracle_scores
from mcscore.kernels import native
from mcscore.masks import MaskSpec

if not native.available()[0]:
    pytest.skip(native.available()[1], allow_module_level=True)

SEED, SITE = 0xFEDCBA9876543210, 5


def operands(B, D, C, t):
    ids = torch.arange(B) * 2**33 + 5
    return torch.randn(B, D), torch.randn(C, D) * (6 / D) ** 0.5, torch.randn(C), ids, torch.arange(t) + 3


def logits64(x, weight, bias, ids, passes, rate):
    keep = torch.from_numpy(masks.keep_mask(MaskSpec(SEED, SITE, passes.numpy(), ids.numpy(), rate), x.shape[1]))
    return F.linear(x.double() * keep / rate.keep, weight.double(), None if bias is None else bias.double())


@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli"])
@pytest.mark.parametrize(
    ("B", "D", "C", "p", "t"),
    [
        (1, 1, 2, 0.5, 1),
        (19, 33, 2, 0.5, 20),
        (9, 512, 10, 0.5, 100),
        (9, 130, 10, 0.25, 129),
        (3, 100, 10, 0.3, 300),
        (5, 63, 17, 0.3, 7),
        (5, 65, 25, 0.5, 7),
        (5, 64, 33, 0.25, 31),
        (5, 67, 41, 0.5, 7),
        (3, 90, 50, 0.5, 9),
        (10, 96, 64, 0.125, 11),
        (3, 200, 65, 0.5, 20),
        (2, 387, 128, 0.5, 50),
        (2, 77, 1000, 0.3, 5),
    ],
)
def test_scores_are_those_of_the_three_parts(isa, B, D, C, p, t, likelihood):
    rate = masks.rate(p)
    x, weight, bias, ids, passes = operands(B, D, C, t)
    got = native.dropout_head(x, MaskSpec(SEED, SITE, passes, ids, rate), weight, bias, KERNEL_SCORES, likelihood)
    logits = logits64(x, weight, bias, ids, passes, rate)
    naive = oracle_scores(logits.float(), KERNEL_SCORES, likelihood=likelihood)  # the same formulas on rounded logits
    truth = oracle_scores(logits, KERNEL_SCORES, likelihood=likelihood)
    for name in KERNEL_SCORES:
        rounding = (naive[name] - truth[name]).abs().max()
        limit = 8 * rounding + 4e-6 + 3e-7 * truth["entropy" if name == "bald" else name].abs()
        if name == "variation_ratio":
            limit = limit + 1.01 / t  # a vote may go the other way where two logits agree to float32
        assert ((got[name] - truth[name]).abs() <= limit).all(), name
    if C > 1 or likelihood == "bernoulli":
        differs = got["prediction"] != truth["prediction"]
        assert differs.sum() <= 0.1 * B


def test_no_bit_depends_on_batch_or_threads(isa):
    rate = masks.rate(0.5)
    for C in (10, 100):
        x, weight, bias, ids, passes = operands(37, 150, C, 40)

        def run(some, weight=weight, x=x, ids=ids, passes=passes, bias=bias):
            return native.dropout_head(x[some], MaskSpec(1, 0, passes, ids[some], rate), weight, bias, KERNEL_SCORES)

        whole = run(slice(None))
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(3)
            threaded = run(slice(None))
        finally:
            torch.set_num_threads(before)
        parts = [run(slice(b, b + 5)) for b in range(0, 37, 5)]
        for name in whole:
            assert torch.equal(torch.cat([part[name] for part in parts]), whole[name])
            assert torch.equal(threaded[name], whole[name])


def test_shared_masks_are_one_mask_for_all_items(isa):
    x, weight, bias, _, passes = operands(1, 60, 7, 20)
    same = native.dropout_head(
        x.expand(12, 60), MaskSpec(SEED, SITE, passes, [-1] * 12, masks.rate(0.5)), weight, bias, KERNEL_SCORES
    )
    for values in same.values():
        assert (values == values[0]).all()
    truth = oracle_scores(logits64(x, weight, bias, torch.tensor([-1]), passes, masks.rate(0.5)), ("bald",))
    assert abs(same["bald"][0] - truth["bald"][0]) < 1e-5


def test_bfloat16_features_and_no_bias(isa):
    x, weight, _, ids, passes = operands(11, 80, 10, 20)
    rate = masks.rate(0.25)
    got = native.dropout_head(x.bfloat16(), MaskSpec(SEED, SITE, passes, ids, rate), weight.bfloat16(), None, ("bald",))
    truth = oracle_scores(logits64(x.bfloat16(), weight.bfloat16(), None, ids, passes, rate), ("bald",))
    np.testing.assert_allclose(got["bald"], truth["bald"], atol=1e-5)


def test_non_finite_features_spoil_their_item_alone(isa):
    x, weight, bias, ids, passes = operands(20, 64, 10, 50)
    clean = native.dropout_head(x, MaskSpec(0, 0, passes, ids, masks.rate(0.5)), weight, bias, ("bald", "entropy"))
    x[7, 3] = torch.nan
    got = native.dropout_head(x, MaskSpec(0, 0, passes, ids, masks.rate(0.5)), weight, bias, ("bald", "entropy"))
    other = torch.arange(20) != 7
    assert got["bald"][7].isnan()
    assert got["prediction"][7] == -1
    assert torch.equal(got["bald"][other], clean["bald"][other])


def test_empty_batches_give_empty_scores():
    x, weight, bias, ids, passes = operands(0, 8, 3, 4)
    got = native.dropout_head(x, MaskSpec(0, 0, passes, ids, masks.rate(0.5)), weight, bias, ("bald",))
    assert got["bald"].shape == got["prediction"].shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight_CD": torch.zeros(3, 9)}, r"weight \(3, 9\) \(C, D\) does not fit features \(2, 8\)"),
        ({"ids": [1]}, r"features are \(2, 8\), expected \(B, D\) with B the number of ids \(1\)"),
        ({"passes": []}, "outputs hold no pass"),
        ({"weight_CD": torch.zeros(1, 8), "bias_C": None}, "use likelihood='bernoulli'"),
        ({"bias_C": torch.zeros(2)}, r"bias \(2,\) does not fit weight \(3, 8\)"),
        ({"scores": ("bold",)}, "unknown score 'bold'"),
    ],
)
def test_errors_name_what_was_wrong(change, message):
    arguments = {
        "x_BD": torch.zeros(2, 8),
        "passes": [0, 1],
        "ids": [1, 2],
        "seed": 0,
        "site": 0,
        "weight_CD": torch.zeros(3, 8),
        "bias_C": torch.zeros(3),
        "scores": ("bald",),
    }
    changed = {**arguments, **change}
    which = {name: changed.pop(name) for name in ("seed", "site", "passes", "ids")}
    with pytest.raises(ValueError, match=message):
        native.dropout_head(spec=MaskSpec(**which, rate=masks.rate(0.5)), **changed)
