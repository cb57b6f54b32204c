"""The native kernel that adds passes to running sums, against sums in float64; and any number of threads."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mcscore.acquisition import KERNEL_SCORES
from mcscore.kernels import native

from .sums import new_state

if not native.available()[0]:
    pytest.skip(native.available()[1], allow_module_level=True)

SCORES = KERNEL_SCORES


@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli"])
@pytest.mark.parametrize("C", [2, 10, 65, 1500])
def test_accumulate_adds_the_sums_of_its_passes(isa, C, likelihood):
    logits = 3 * torch.randn(50, 11, C)
    x = logits.double()
    p = x.softmax(-1) if likelihood == "categorical" else x.sigmoid()
    k = p[..., None, :] if likelihood == "categorical" else torch.stack((p, 1 - p), -1)
    if likelihood == "categorical":
        votes = torch.nn.functional.one_hot(logits.argmax(-1), C).sum(0)
    else:
        votes = (logits >= 0).sum(0)
    state = new_state(11, C)
    for part in logits.split([1, 32, 7, 10]):
        native.accumulate(part, state, likelihood)
    torch.testing.assert_close(state["p"], p.sum(0), rtol=2e-6, atol=1e-7)
    torch.testing.assert_close(state["p2"], p.square().sum(0), rtol=2e-6, atol=1e-7)
    torch.testing.assert_close(state["h"], torch.special.entr(k).sum((0, -1, -2)), rtol=2e-6, atol=1e-5)
    assert torch.equal(state["votes"], votes.int())
    assert not state["bad"].any()


@settings(max_examples=30)
@given(cuts=st.lists(st.integers(1, 59), unique=True, max_size=6), C=st.sampled_from([3, 20, 70]))
def test_a_split_of_the_passes_changes_the_sums_by_roundings_only(cuts, C):
    logits = 2 * torch.randn(60, 9, C)
    whole, parts = new_state(9, C), new_state(9, C)
    native.accumulate(logits, whole)
    for part in logits.tensor_split(sorted(cuts)):
        native.accumulate(part, parts)
    for name in ("p", "p2", "h"):
        torch.testing.assert_close(parts[name] / 60, whole[name] / 60, rtol=0, atol=1e-6)
    assert torch.equal(parts["votes"], whole["votes"])


def test_accumulate_marks_bad_items_and_keeps_only_what_is_asked(isa):
    for C in (5, 80):
        logits = torch.randn(4, 6, C)
        logits[2, 3, 1] = torch.nan
        bad = torch.zeros(6, dtype=torch.bool)
        native.accumulate(logits, {"bad": bad})
        native.accumulate(torch.randn(4, 6, C), {"bad": bad})
        assert bad.tolist() == [False, False, False, True, False, False]


def test_results_do_not_depend_on_the_number_of_threads():
    before = torch.get_num_threads()
    small, large = torch.randn(30, 3001, 7), torch.randn(30, 101, 200)
    results = []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            state = new_state(101, 200)
            native.accumulate(large, state)
            results.append(
                [*native.score(small, SCORES).values(), *native.score(large, SCORES).values(), *state.values()]
            )
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(results[0], result, strict=True))


def test_a_state_that_does_not_fit_is_refused():
    state = {"p": torch.zeros(4, 3, dtype=torch.float64)}
    with pytest.raises(ValueError, match=r"'p' must be a contiguous torch.float64 CPU tensor of shape \(4, 2\)"):
        native.accumulate(torch.zeros(3, 4, 2), state)
    with pytest.raises(ValueError, match="unknown state 'q'"):
        native.accumulate(torch.zeros(3, 4, 2), {"q": state["p"]})
