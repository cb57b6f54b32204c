"""Native masks and dropout are the NumPy specification, bit for bit, on every instruction set, thread count and split."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mcscore import masks
from mcscore.kernels import native
from mcscore.masks import MaskSpec

if not native.available()[0]:
    pytest.skip(native.available()[1], allow_module_level=True)

RATES = [0.5, 0.25, 0.3, 1 / 256, 255 / 256, 2**-16, 1 - 2**-16]
IDS = [0, 7, 2**32 - 1, 2**40 + 7, 2**63 - 1, -1]
PASSES = [0, 3, 65535]
SEED = 0xFEDCBA9876543210

KNOWN_ANSWERS = [  # Random123, philox4x32 7 rounds: counter, key, result
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "5f6fb709 0d893f64 4f121f81 4f730a48"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "5207ddc2 45165e59 4d8ee751 8c52f662"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "4dfccaba 190a87f0 c47362ba b6b5242a"),
]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_philox_gives_the_published_answers(isa, counter, key, answer):
    low, high = words(key)
    got = native.philox(np.array([words(counter)]), high << 32 | low)
    assert got.tolist() == [words(answer)]


@pytest.mark.parametrize("n", [0, 1, 3, 4, 5, 37])
def test_philox_equals_the_reference_for_any_number_of_counters(isa, n):
    counter = np.random.default_rng(n).integers(0, 2**32, (n, 4), dtype=np.uint32)
    assert np.array_equal(native.philox(counter, SEED), masks.philox4x32(counter, SEED))


@pytest.mark.parametrize("elements", [1, 2, 8, 15, 16, 17, 31, 127, 128, 129, 1000, 5000])
@pytest.mark.parametrize("p", RATES)
def test_masks_equal_the_reference(isa, p, elements):
    rate = masks.rate(p)
    got = native.keep_mask(MaskSpec(SEED, 65535, PASSES, IDS, rate), elements)
    assert np.array_equal(got.numpy(), masks.keep_mask(MaskSpec(SEED, 65535, PASSES, IDS, rate), elements))


@pytest.mark.parametrize("p", [0.5, 0.25, 0.3])
def test_long_items_equal_the_reference(isa, p):
    rate = masks.rate(p)
    got = native.keep_mask(MaskSpec(1, 0, [2], [5], rate), 70_001)
    assert np.array_equal(got.numpy(), masks.keep_mask(MaskSpec(1, 0, [2], [5], rate), 70_001))


@given(
    seed=st.integers(0, 2**64 - 1),
    site=st.integers(0, 65535),
    passes=st.lists(st.integers(0, 65535), max_size=5),
    ids=st.lists(st.integers(-1, 2**63 - 1), max_size=5),
    elements=st.integers(0, 300),
    p=st.floats(2**-16, 1 - 2**-16),
)
def test_masks_equal_the_reference_for_any_arguments(seed, site, passes, ids, elements, p):
    rate = masks.rate(p)
    got = native.keep_mask(MaskSpec(seed, site, passes, ids, rate), elements)
    assert np.array_equal(got.numpy(), masks.keep_mask(MaskSpec(seed, site, passes, ids, rate), elements))


def dropped(x, passes, ids, seed, site, rate, affine):
    """The definition, from the NumPy masks, in float32; rounded to x's dtype once."""
    a, b, d = affine
    keep = torch.from_numpy(masks.keep_mask(MaskSpec(seed, site, passes, ids, rate), x.shape[2]))[..., None]
    y = torch.where(keep, x.double() * np.float32(a) + np.float32(b), torch.tensor(float(np.float32(d))).double())
    return y.float().to(x.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("inner", [1, 2, 3, 7, 8, 9, 49, 64, 169])
@pytest.mark.parametrize("p", [0.5, 0.25, 0.3])
def test_dropout_applies_the_masks(isa, p, inner, dtype):
    rate = masks.rate(p)
    ids, passes = [4, -1, 2**50], [0, 9]
    for elements in (1, 5, 33, 130):
        for copies in (1, 2):
            x = torch.randn(copies, len(ids), elements, inner).to(dtype)
            got = native.dropout(x, MaskSpec(11, 2, passes, ids, rate), (1 / rate.keep, 0.0, 0.0))
            assert torch.equal(got, dropped(x, passes, ids, 11, 2, rate, (1 / rate.keep, 0.0, 0.0)))


@pytest.mark.parametrize("inner", [1, 3, 20])
def test_alpha_dropout_moves_kept_and_dropped_values(isa, inner):
    rate = masks.rate(0.3)
    x = torch.randn(1, 5, 100, inner)
    affine = (0.88, 0.31, -1.24)
    got = native.dropout(x, MaskSpec(0, 0, [3, 1], range(5), rate), affine)
    torch.testing.assert_close(got, dropped(x, [3, 1], range(5), 0, 0, rate, affine), rtol=0, atol=3e-7)


def test_dropped_values_do_not_let_nan_or_infinity_through(isa):
    rate = masks.rate(0.5)
    for inner in (1, 3, 20):
        x = torch.full((1, 2, 64, inner), float("nan"))
        x[:, 1] = float("inf")
        got = native.dropout(x, MaskSpec(0, 0, [0, 1], [0, 1], rate), (2.0, 0.0, 0.0))
        keep = native.keep_mask(MaskSpec(0, 0, [0, 1], [0, 1], rate), 64)[..., None].expand_as(got)
        assert (got[~keep] == 0).all()
        assert not got[keep].isfinite().any()


def test_float16_results_round_to_nearest_even_and_keep_specials(isa):
    """1 x - 0 changes no float16 or bfloat16 pattern; another factor rounds like PyTorch."""
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int16)
    rate = masks.rate(0.5)
    keep = native.keep_mask(MaskSpec(0, 0, [0], [0], rate), 2**16)[0, 0]
    for dtype in (torch.float16, torch.bfloat16):
        x = patterns.view(dtype)
        got = native.dropout(x.view(1, 1, -1, 1), MaskSpec(0, 0, [0], [0], rate), (1.0, -0.0, 0.0)).flatten()
        finite = keep & ~x.isnan()
        assert torch.equal(got[finite].view(torch.int16), x[finite].view(torch.int16))
        assert got[keep & x.isnan()].isnan().all()
        scaled = native.dropout(x.view(1, 1, -1, 1), MaskSpec(0, 0, [0], [0], rate), (1.0009765, -0.0, 0.0)).flatten()
        want = (x.float() * torch.tensor(1.0009765)).to(dtype)
        assert torch.equal(scaled[finite].view(torch.int16), want[finite].view(torch.int16))


def test_results_do_not_depend_on_the_number_of_threads():
    rate = masks.rate(0.3)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            x = torch.linspace(-1, 1, 40 * 333).view(1, 40, 333, 1)
            few = torch.linspace(-1, 1, 3 * 4000).view(1, 3, 4000, 1)
            results.append(
                (
                    native.keep_mask(MaskSpec(1, 2, range(20), range(40), rate), 333),
                    native.dropout(x, MaskSpec(1, 2, range(20), range(40), rate), (2.0, 0.0, 0.0)),
                    native.dropout(few, MaskSpec(1, 2, range(50), range(3), rate), (2.0, 0.0, 0.0)),
                )
            )
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(results[0], result, strict=True))


def test_empty_batches_and_no_passes_give_empty_results():
    rate = masks.rate(0.5)
    assert native.keep_mask(MaskSpec(0, 0, [], [1], rate), 5).shape == (0, 1, 5)
    assert native.keep_mask(MaskSpec(0, 0, [1], [], rate), 5).shape == (1, 0, 5)
    assert native.dropout(torch.empty(1, 0, 5, 1), MaskSpec(0, 0, [1], [], rate), (1.0, 0.0, 0.0)).shape == (1, 0, 5, 1)
    assert native.dropout(torch.empty(1, 2, 0, 1), MaskSpec(0, 0, [1], [1, 2], rate), (1.0, 0.0, 0.0)).shape == (
        1,
        2,
        0,
        1,
    )


def test_non_contiguous_inputs_and_tensors_with_gradients_are_taken():
    rate = masks.rate(0.25)
    x = torch.randn(1, 6, 4, 10, requires_grad=True).transpose(2, 3)
    got = native.dropout(x, MaskSpec(3, 1, torch.tensor([5, 9])[::1], torch.arange(12)[::2], rate), (4 / 3, 0.0, 0.0))
    assert not got.requires_grad
    assert torch.equal(got, dropped(x.detach(), [5, 9], list(range(0, 12, 2)), 3, 1, rate, (4 / 3, 0.0, 0.0)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"passes": [65536]}, "passes must lie in"),
        ({"ids": [1, -2]}, "-2 at position 1"),
        ({"site": 65536}, "site must satisfy"),
        ({"seed": -1}, "seed must satisfy"),
        ({"x_sBEI": torch.zeros(3, 2, 4, 1)}, r"number of passes \(1\) and B the number of ids \(2\)"),
        ({"x_sBEI": torch.zeros(1, 3, 4, 1)}, r"number of passes \(1\) and B the number of ids \(2\)"),
        ({"x_sBEI": torch.zeros(1, 2, 4)}, r"\(1, 2, 4\), expected \(s, B, E, I\)"),
    ],
)
def test_errors_name_what_was_wrong(change, message):
    arguments = {
        "x_sBEI": torch.zeros(1, 2, 4, 1),
        "passes": [0],
        "ids": [1, 2],
        "seed": 0,
        "site": 0,
        "affine": (2.0, 0.0, 0.0),
    }
    changed = {**arguments, **change}
    which = {name: changed.pop(name) for name in ("seed", "site", "passes", "ids")}
    with pytest.raises(ValueError, match=message):
        native.dropout(spec=MaskSpec(**which, rate=masks.rate(0.5)), **changed)


def test_float64_is_refused_by_name():
    with pytest.raises(TypeError, match="float64"):
        native.dropout(torch.zeros(1, 1, 4, 1).double(), MaskSpec(0, 0, [0], [0], masks.rate(0.5)), (2.0, 0.0, 0.0))
