"""Keep bits are what the specification in mcscore.masks says, and behave like independent coins."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcscore import masks
from mcscore.masks import MaskSpec, Rate, keep_mask, philox4x32, rate

SEED = 0x0123456789ABCDEF
IDS = [0, 1, 2**32 - 1, 2**32, 2**40 + 7, 2**63 - 1, -1]
PI = [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0]
RATES = [0.5, 0.25, 0.3]  # 1, 8 and 16 bits

FROZEN = {  # (id, p): elements 0..31 for SEED, site 3, pass 5; the same strings stand in the module docstring
    (2**40 + 7, 0.5): "00000100111000110110111101000100",
    (2**40 + 7, 0.25): "01101010110111001111111101111111",
    (2**40 + 7, 0.3): "10001010111111111110011111111001",
    (-1, 0.5): "01100111101111110010101000110111",
    (-1, 0.25): "11111101111011011111101101101101",
    (-1, 0.3): "11111011110110110011010111001111",
}

FROZEN_WORDS = {  # id: words of elements 0..4 for SEED, site 3, pass 5
    2**40 + 7: "22f6c720 2a483ded 442ca291 2d178c55 8a599693",
    -1: "ec54fde6 7701e044 1ea7a2bf f707ccd4 6b48d270",
}


def philox_in_python_integers(counter: list[int], key: int, rounds: int) -> list[int]:
    """A second writing of Philox4x32, word by word, to hold the NumPy one against."""
    x, k = list(counter), [key & 0xFFFFFFFF, key >> 32]
    for _ in range(rounds):
        a, b = 0xD2511F53 * x[0], 0xCD9E8D57 * x[2]
        x = [b >> 32 ^ x[1] ^ k[0], b & 0xFFFFFFFF, a >> 32 ^ x[3] ^ k[1], a & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return x


def kept_in_python_integers(seed: int, site: int, pass_: int, id_: int, element: int, r: Rate) -> bool:
    """One keep bit from the sentences of the specification, with 128-bit integers instead of byte views."""
    per_block = 128 // r.bits
    block, j = divmod(element, per_block)
    id_ %= 2**64
    words = philox_in_python_integers([block, id_ & 0xFFFFFFFF, id_ >> 32, site << 16 | pass_], seed, 7)
    bits_128 = sum(word << 32 * i for i, word in enumerate(words))
    return bits_128 >> r.bits * j & (1 << r.bits) - 1 >= r.threshold


@pytest.mark.parametrize(
    ("counter", "key", "rounds", "words"),
    [  # Random123, kat_vectors
        ([0] * 4, 0, 7, "5f6fb709 0d893f64 4f121f81 4f730a48"),
        ([0xFFFFFFFF] * 4, 2**64 - 1, 7, "5207ddc2 45165e59 4d8ee751 8c52f662"),
        (PI[:4], PI[5] << 32 | PI[4], 7, "4dfccaba 190a87f0 c47362ba b6b5242a"),
        ([0] * 4, 0, 10, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ],
)
def test_philox_gives_the_known_answers_of_random123(counter: list[int], key: int, rounds: int, words: str) -> None:
    got = philox4x32(np.array([counter], np.uint32), key, rounds)
    assert " ".join(f"{word:08x}" for word in got[0]) == words


@pytest.mark.parametrize(("id_", "p"), FROZEN)
def test_bit_layout_is_frozen(id_: int, p: float) -> None:
    got = "".join("01"[bit] for bit in keep_mask(MaskSpec(SEED, 3, [5], [id_], rate(p)), 32)[0, 0].astype(int))
    assert got == FROZEN[id_, p]
    assert got in re.findall("[01]{32}", masks.__doc__ or "")


@pytest.mark.parametrize("id_", FROZEN_WORDS)
def test_words_of_random_numbers_are_frozen(id_: int) -> None:
    got = " ".join(f"{word:08x}" for word in masks.draw_words(MaskSpec(SEED, 3, [5], [id_]), 5)[0, 0])
    assert got == FROZEN_WORDS[id_]
    assert got in (masks.__doc__ or "")
    counter = [0, id_ & 0xFFFFFFFF, id_ >> 32 & 0xFFFFFFFF, 3 << 16 | 5]
    blocks = [philox_in_python_integers([block, *counter[1:]], SEED, 7) for block in (0, 1)]
    np.testing.assert_array_equal(masks.draw_words(MaskSpec(SEED, 3, [5], [id_]), 7)[0, 0], (blocks[0] + blocks[1])[:7])


@given(
    seed=st.integers(0, 2**64 - 1),
    site=st.integers(0, 65535),
    pass_=st.integers(0, 65535),
    id_=st.one_of(st.sampled_from(IDS), st.integers(0, 2**63 - 1)),
    elements=st.integers(1, 300),
    p=st.sampled_from([*RATES, 0.1, 1 / 256, 0.75, 1e-5, 0.999]),
)
def test_every_bit_follows_the_specification(
    seed: int, site: int, pass_: int, id_: int, elements: int, p: float
) -> None:
    r = rate(p)
    got = keep_mask(MaskSpec(seed, site, [pass_], [id_], r), elements)
    assert got.shape == (1, 1, elements)
    for e in {0, elements // 2, elements - 1}:
        assert got[0, 0, e] == kept_in_python_integers(seed, site, pass_, id_, e, r)


@pytest.mark.parametrize("p", RATES)
def test_bits_do_not_depend_on_passes_items_or_elements_asked_together(p: float) -> None:
    whole = keep_mask(MaskSpec(SEED, 2, range(6), IDS, rate(p)), 200)
    first_passes = keep_mask(MaskSpec(SEED, 2, range(4), IDS, rate(p)), 200)
    np.testing.assert_array_equal(whole[:4], first_passes)  # a prefix of the longer run
    np.testing.assert_array_equal(whole[[5, 1]], keep_mask(MaskSpec(SEED, 2, [5, 1], IDS, rate(p)), 200))
    np.testing.assert_array_equal(
        whole[:, [3, 0]], keep_mask(MaskSpec(SEED, 2, range(6), [IDS[3], IDS[0]], rate(p)), 200)
    )
    np.testing.assert_array_equal(whole[:, :, :77], keep_mask(MaskSpec(SEED, 2, range(6), IDS, rate(p)), 77))


@pytest.mark.parametrize("p", [0.5, 0.25, 0.3, 0.1, 0.05, 0.9])
def test_drop_rate_is_the_realized_one(p: float) -> None:
    r = rate(p)
    dropped = 1.0 - keep_mask(MaskSpec(11, 0, range(4), np.arange(64), r), 8192).mean()  # 2.1e6 draws: sd below 0.04 %
    assert abs(dropped - r.p) < 0.006 * r.p


@pytest.mark.parametrize("p", RATES)
@pytest.mark.parametrize("axis", ["pass", "item", "site", "seed", "neighbor element", "next block"])
def test_bits_are_independent_across(axis: str, p: float) -> None:
    n, r = 1 << 18, rate(p)
    block = 128 // r.bits
    a = keep_mask(MaskSpec(5, 1, [0], [0], r), n)
    b = {
        "pass": keep_mask(MaskSpec(5, 1, [1], [0], r), n),
        "item": keep_mask(MaskSpec(5, 1, [0], [1], r), n),
        "site": keep_mask(MaskSpec(5, 2, [0], [0], r), n),
        "seed": keep_mask(MaskSpec(6, 1, [0], [0], r), n),
        "neighbor element": np.roll(a, 1),
        "next block": np.roll(a, block),
    }[axis]
    correlation = np.corrcoef(a.ravel(), b.ravel())[0, 1]
    assert abs(correlation) < 5 / n**0.5


def test_ids_that_share_low_bits_have_their_own_masks() -> None:
    rows = keep_mask(MaskSpec(0, 0, [0], IDS, rate(0.5)), 512)[0]
    assert len(np.unique(rows, axis=0)) == len(IDS)


def test_shared_masks_use_all_ones_as_id() -> None:
    assert np.array(masks.SHARED_ID, dtype=np.uint64).astype(np.int64) == -1
    words = philox_in_python_integers([0, 0xFFFFFFFF, 0xFFFFFFFF, 7 << 16 | 9], 1, 7)
    expected = [words[e // 32] >> e % 32 & 1 for e in range(128)]
    np.testing.assert_array_equal(keep_mask(MaskSpec(1, 7, [9], [-1], rate(0.5)), 128)[0, 0], np.array(expected, bool))


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (0.5, Rate(0.5, 1, 1)),
        (0.25, Rate(0.25, 8, 64)),
        (255 / 256, Rate(255 / 256, 8, 255)),
        (0.1, Rate(6554 / 65536, 16, 6554)),
        (1e-5, Rate(1 / 65536, 16, 1)),
    ],
)
def test_rate_takes_the_fewest_bits(p: float, expected: Rate) -> None:
    assert rate(p) == expected
    assert rate(p).keep == 1.0 - expected.p


@given(st.floats(2**-16, 1 - 2**-16))
def test_realized_rate_is_within_half_a_sixteen_bit_step(p: float) -> None:
    assert abs(rate(p).p - p) <= 2**-17
    assert rate(p).threshold == rate(p).p * 2 ** rate(p).bits


def test_rates_of_0_and_1_take_no_bits_and_keep_all_or_nothing() -> None:
    for p in (0.0, 1.0):
        assert (rate(p).p, rate(p).bits, rate(p).keep) == (p, 0, 1.0 - p)
        kept = keep_mask(MaskSpec(SEED, 2, [4, 9], [7, -1], rate(p)), 5)
        np.testing.assert_array_equal(kept, np.full((2, 2, 5), p == 0.0))


@pytest.mark.parametrize("p", [-0.1, 1.5, float("nan"), 1e-9, 1 - 1e-9])
def test_rates_that_cannot_be_realized_are_refused(p: float) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(p))):
        rate(p)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 0, [0], [0]), "seed .* -1"),
        ((2**64, 0, [0], [0]), "seed .* 18446744073709551616"),
        ((0, 65536, [0], [0]), "site .* 65536"),
        ((0, 0, [0, 65536], [0]), "passes .* 0 to 65536"),
        ((0, 0, [-1], [0]), "passes .* -1"),
        ((0, 0, [0], [3, -2]), "ids .* -2 at position 1"),
        ((0, 0, [0], [[3]]), "one-dimensional"),
    ],
)
def test_counters_out_of_range_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        keep_mask(MaskSpec(*arguments, rate(0.5)), 8)


def test_empty_requests_give_empty_masks() -> None:
    assert keep_mask(MaskSpec(0, 0, [], [1], rate(0.5)), 8).shape == (0, 1, 8)
    assert keep_mask(MaskSpec(0, 0, [1], [], rate(0.5)), 8).shape == (1, 0, 8)
    assert keep_mask(MaskSpec(0, 0, [1], [1], rate(0.5)), 0).shape == (1, 1, 0)


def test_a_part_is_the_same_masks_of_some_passes_and_items() -> None:
    spec = MaskSpec(SEED, 2, np.arange(6), np.array(IDS), rate(0.3), rank=2)
    part = spec.part(slice(1, 4), slice(2, None))
    assert (part.seed, part.site, part.rate, part.rank, part.t, part.B) == (SEED, 2, rate(0.3), 2, 3, len(IDS) - 2)
    np.testing.assert_array_equal(keep_mask(part, 20), keep_mask(spec, 20)[1:4, 2:])
    assert (spec.t, spec.B) == (6, len(IDS))  # left as it was
