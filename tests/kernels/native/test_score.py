"""The native score kernel against float64 formulas written here, for odd shapes, legal and illegal logits, and any split."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mcscore.acquisition import BALD_NOISE, KERNEL_SCORES, KERNEL_SUMS
from mcscore.kernels import native
from mcscore.kernels.native import extension

from .sums import new_state

if not native.available()[0]:
    pytest.skip(native.available()[1], allow_module_level=True)

SCORES = KERNEL_SCORES


def test_the_extension_keeps_the_order_and_the_noise_of_the_catalog() -> None:
    assert tuple(extension.native.score_names) == KERNEL_SCORES
    assert tuple(extension.native.sum_names) == KERNEL_SUMS
    assert extension.native.bald_noise == BALD_NOISE


def formulas(logits: Tensor, likelihood: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """The catalog as one writes it in PyTorch: the truth in float64, naive code in float32."""
    x = logits.to(dtype)
    p = x.softmax(-1) if likelihood == "categorical" else x.sigmoid()
    k = p[..., None, :] if likelihood == "categorical" else torch.stack((p, 1 - p), -1)  # (T, B, variables, outcomes)
    mean = k.mean(0)

    def entropy(q: Tensor) -> Tensor:
        return torch.special.entr(q).sum((-1, -2))

    top = mean.topk(2, -1).values
    if likelihood == "categorical":
        votes = torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1])[..., None, :]
    else:
        votes = torch.stack((logits >= 0, logits < 0), -1)
    return {
        "entropy": entropy(mean),
        "expected_entropy": entropy(k).mean(0),
        "bald": (entropy(mean) - entropy(k).mean(0)).clamp_min(0),
        "least_confidence": (1 - top[..., 0]).sum(-1),
        "margin": (1 - top[..., 0] + top[..., 1]).sum(-1),
        "variation_ratio": (1 - votes.to(dtype).mean(0).amax(-1)).sum(-1),
        "mean_std": p.std(0, correction=0).mean(-1),
    }


def assert_accurate(logits: Tensor, likelihood: str = "categorical") -> None:
    """Within twice the error of naive float32, plus 1e-6 and one float32 rounding of the value (BALD: of its minuend)."""
    truth, naive = formulas(logits, likelihood, torch.float64), formulas(logits, likelihood, torch.float32)
    got = native.score(logits, SCORES, likelihood)
    for name in SCORES:
        error = (got[name].double() - truth[name]).abs()
        rounding = 6e-8 * truth["entropy" if name == "bald" else name].abs()
        allowed = 2 * (naive[name].double() - truth[name]).abs().max() + 1e-6 + rounding
        assert (error <= allowed).all(), f"{name}: error {error.max():.2e}, naive float32 allows {allowed.max():.2e}"
    assert_predicted(got["prediction"], logits, likelihood)


def assert_predicted(prediction: Tensor, logits: Tensor, likelihood: str) -> None:
    x = logits.double()
    mean = (x.softmax(-1) if likelihood == "categorical" else x.sigmoid()).mean(0)
    if mean.shape[-1] == 1:
        assert torch.equal(prediction, (mean[:, 0] >= 0.5).int())
        return
    chosen = mean.gather(-1, prediction.long()[:, None])[:, 0]
    assert (mean.amax(-1) - chosen <= 1e-7).all()  # the best class, up to float32 ties


@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli"])
@pytest.mark.parametrize(
    ("T", "B", "C"),
    [
        (1, 1, 2),
        (20, 199, 2),
        (20, 33, 3),
        (20, 199, 10),
        (100, 17, 10),
        (7, 9, 16),
        (20, 5, 63),
        (20, 17, 64),
        (20, 5, 65),
        (33, 3, 507),
        (20, 4, 1000),
        (20, 3, 1024),
        (3, 2, 1025),
        (5, 2, 20_000),
        (1000, 3, 10),
        (1000, 2, 100),
    ],
)
def test_scores_are_as_accurate_as_float32_allows(isa, T, B, C, likelihood):
    assert_accurate(3 * torch.randn(T, B, C), likelihood)


@pytest.mark.parametrize("scale", [0.0, 1e-3, 30.0, 1000.0])
@pytest.mark.parametrize("C", [3, 10, 300])
def test_flat_and_peaked_distributions(isa, C, scale):
    for likelihood in ("categorical", "bernoulli"):
        assert_accurate(scale * torch.randn(20, 11, C), likelihood)


@pytest.mark.parametrize("B", [0, 1, 7, 8, 9, 199])
def test_one_sigmoid_label(isa, B):
    logits = 2 * torch.randn(20, B, 1)
    if B:
        assert_accurate(logits, "bernoulli")
    else:
        assert all(values.shape == (0,) for values in native.score(logits, SCORES, "bernoulli").values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("C", [2, 10, 64, 65, 507, 2000])
def test_half_precision_logits_are_scored_as_the_float32_numbers_they_are(isa, C, dtype):
    logits = (3 * torch.randn(20, 13, C)).to(dtype)
    for likelihood in ("categorical", "bernoulli"):
        got, want = native.score(logits, SCORES, likelihood), native.score(logits.float(), SCORES, likelihood)
        assert all(torch.equal(got[name], want[name]) for name in want)


@pytest.mark.parametrize("C", [2, 5, 10, 64, 65, 500, 3000])
def test_minus_infinity_is_probability_zero(isa, C):
    logits = torch.randn(20, 30, C)
    logits[torch.rand_like(logits) < 0.4] = -torch.inf
    logits[..., 1] = torch.randn(20, 30)
    if C > 2048:
        logits[:, :, 1024:2048] = -torch.inf  # nothing at all in one tile
    for likelihood in ("categorical", "bernoulli"):
        assert_accurate(logits, likelihood)


@pytest.mark.parametrize("C", [2, 10, 64, 65, 1000, 3000])
@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli"])
def test_non_finite_items_are_nan_and_touch_no_other(isa, C, likelihood):
    logits = torch.randn(40, 21, C)
    clean = native.score(logits, SCORES, likelihood)
    spoiled = logits.clone()
    spoiled[3, 2, C - 1] = torch.nan
    spoiled[35, 5, 0] = torch.inf
    spoiled[0, 20, :] = torch.nan
    bad = [2, 5, 20]
    if likelihood == "categorical":
        spoiled[39, 9, :] = -torch.inf
        bad.append(9)
    got = native.score(spoiled, SCORES, likelihood)
    is_bad = torch.zeros(21, dtype=torch.bool)
    is_bad[bad] = True
    for name in SCORES:
        assert torch.equal(got[name].isnan(), is_bad)
        assert torch.equal(got[name][~is_bad], clean[name][~is_bad])
    assert torch.equal(got["prediction"] == -1, is_bad)


def test_equal_passes_have_no_epistemic_part(isa):
    for C in (4, 200):
        got = native.score(torch.randn(1, 50, C).expand(100, 50, C), SCORES)
        assert got["bald"].max() < 2e-6
        assert got["mean_std"].max() < 1e-7
        assert (got["variation_ratio"] == 0).all()


def test_ties_go_to_the_smallest_class(isa):
    for C in (5, 100):
        logits = torch.zeros(6, 9, C)
        got = native.score(logits, SCORES)
        assert (got["prediction"] == 0).all()
        assert (got["variation_ratio"] == 0).all()
        logits[:, :, C - 2 :] = 1.0
        assert (native.score(logits, SCORES)["prediction"] == C - 2).all()


def test_any_strides_are_taken(isa):
    base = torch.randn(12, 40, 30)
    views = [
        base.transpose(0, 1),
        base[::3, 1::2],
        base.flip(1)[:, 5:6].expand(12, 8, 30),
        base.permute(2, 0, 1),  # classes not contiguous
        base[:, :, ::2],
        base[..., 3:13],
    ]
    for view in views:
        got, want = native.score(view, SCORES), native.score(view.contiguous(), SCORES)
        assert all(torch.equal(got[name], want[name]) for name in want)


@pytest.mark.parametrize("dtype", native.DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize(
    ("T", "B", "C"), [(1, 9, 2), (20, 17, 10), (7, 5, 64), (19, 3, 65), (8, 4, 130), (33, 2, 1000), (5, 1, 20_000)]
)
@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli"])
def test_no_layout_changes_a_bit_of_the_scores(isa, T, B, C, likelihood, dtype):
    """(B, T, C), (B, C, T), (T, C, B) and (C, T, B) in memory, seen as (T, B, C)."""
    logits = (3 * torch.randn(T, B, C)).to(dtype)
    logits[0, 0, 1] = -torch.inf
    want = native.score(logits, SCORES, likelihood)
    for order in [(1, 0, 2), (1, 2, 0), (0, 2, 1), (2, 0, 1)]:
        view = logits.permute(order).contiguous().permute([order.index(axis) for axis in range(3)])
        assert view.shape == logits.shape
        got = native.score(view, SCORES, likelihood)
        assert all(torch.equal(got[name], want[name]) for name in want), order
        state, expected = new_state(B, C), new_state(B, C)
        native.accumulate(view, state, likelihood)
        native.accumulate(logits, expected, likelihood)
        assert all(torch.equal(state[name], expected[name]) for name in expected), order


def test_no_layout_is_copied(isa):
    """Scratch stays below 1 MB where the logits take 80: the peak of resident memory does not move by more."""
    import resource

    logits = torch.randn(50, 1000, 400)  # (B, C, T) in memory
    view = logits.permute(2, 0, 1)
    native.score(view[:20], SCORES[:3])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    native.score(view, SCORES[:3])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2048  # KiB


def test_exp_keeps_its_stated_error(isa):
    """Within 1.5 ulp down to exp(-87.3), the smallest normal number; at most that number beyond; 0 from -88.03 on."""
    x = np.concatenate(
        [-np.linspace(0, 90, 1_000_003), -np.logspace(-30, 0, 1000), [0.0, -0.0, -1e30, -np.inf]]
    ).astype(np.float32)
    y = np.empty_like(x)
    extension.native.exp(x.ctypes.data, y.ctypes.data, len(x))
    truth = np.exp(x.astype(np.float64) * (1.0 if isa == "baseline" else 1 - 2.75e-9))  # its rounding of log 2
    tiny = np.finfo(np.float32).tiny
    normal = truth >= tiny
    ulp = np.spacing(truth[normal].astype(np.float32)).astype(np.float64)
    assert (np.abs(y[normal] - truth[normal]) <= 1.5 * ulp).all()
    assert (np.abs(y[~normal]) <= tiny).all()
    assert (y[x <= -88.03] == 0).all()
    z = np.array([np.nan], np.float32)
    extension.native.exp(z.ctypes.data, z.ctypes.data, 1)
    assert np.isnan(z[0])


@pytest.mark.parametrize(("C", "floor"), [(1000, 1e-6), (20_000, 3e-6)])
def test_the_error_over_many_classes_stays_small(isa, C, floor):
    logits = 2 * torch.randn(20, 8, C)
    truth, got = formulas(logits, "categorical", torch.float64), native.score(logits, SCORES)
    for name in ("entropy", "expected_entropy", "bald"):
        assert (got[name].double() - truth[name]).abs().max() <= floor, name


def test_nothing_is_read_beyond_the_last_row(isa):
    """The last row ends where a mapped page ends."""
    import ctypes
    import mmap

    page = mmap.PAGESIZE
    memory = mmap.mmap(-1, 3 * page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(address + 2 * page), page, 0) == 0
    try:
        for dtype in (torch.float32, torch.bfloat16):
            for C in (1, 2, 3, 7, 9, 10, 17, 63, 65, 130):
                rows = 2 * page // (C * dtype.itemsize)
                floats = torch.frombuffer(memory, dtype=dtype, count=2 * page // dtype.itemsize)
                logits = floats[floats.numel() - rows * C :].view(1, rows, C)
                logits.normal_()
                native.score(logits, SCORES, "bernoulli")
    finally:
        libc.mprotect(ctypes.c_void_p(address + 2 * page), page, 3)


@settings(max_examples=60)
@given(T=st.integers(1, 40), B=st.integers(1, 20), C=st.integers(2, 90), seed=st.integers(0, 2**31), data=st.data())
def test_scores_obey_their_laws(T, B, C, seed, data):
    logits = 4 * torch.randn(T, B, C, generator=torch.Generator().manual_seed(seed))
    got = native.score(logits, SCORES)
    assert (got["bald"] >= 0).all()
    assert (got["bald"] <= got["entropy"] + 1e-6).all()
    assert (got["entropy"] <= torch.tensor(float(C)).log() + 1e-6).all()
    assert (got["expected_entropy"] >= -1e-6).all()

    order = torch.randperm(B)
    permuted = native.score(logits[:, order], SCORES)
    assert all(torch.equal(permuted[name], got[name][order]) for name in got)  # an item's neighbors change no bit
    # Order of passes and a constant per row change roundings only.
    changed = native.score(logits[torch.randperm(T)] + 3 * torch.randn(T, B, 1), SCORES)
    for name in SCORES:
        if name != "variation_ratio":  # the shift may round two logits to a tie
            torch.testing.assert_close(changed[name], got[name], rtol=1e-5, atol=1e-5)
    asked = data.draw(st.lists(st.sampled_from(SCORES), unique=True))
    alone = native.score(logits, asked)
    assert set(alone) == {*asked, "prediction"}
    for name in asked:
        torch.testing.assert_close(alone[name], got[name], rtol=1e-6, atol=1e-6)


def test_gradients_and_no_grad_are_left_alone():
    logits = torch.randn(4, 5, 6, requires_grad=True)
    assert not native.score(logits, ("bald",))["bald"].requires_grad
    with torch.no_grad():
        native.score(logits, ("bald",))
    with torch.inference_mode():
        native.score(torch.randn(4, 5, 6), ("bald",))


@pytest.mark.parametrize(
    ("logits", "scores", "likelihood", "error", "message"),
    [
        (torch.zeros(3, 4, 1), ("bald",), "categorical", ValueError, "use likelihood='bernoulli'"),
        (torch.zeros(3, 4, 2), ("bold",), "categorical", ValueError, "unknown score 'bold'"),
        (torch.zeros(3, 4, 2), ("bald",), "gaussian", ValueError, "likelihood must be one of categorical, bernoulli"),
        (torch.zeros(0, 4, 2), ("bald",), "categorical", ValueError, "outputs hold no pass"),
        (torch.zeros(4, 2), ("bald",), "categorical", ValueError, r"\(T, B, C\)"),
        (torch.zeros(3, 4, 2).double(), ("bald",), "categorical", TypeError, "float64"),
    ],
)
def test_errors_name_what_was_wrong(logits, scores, likelihood, error, message):
    with pytest.raises(error, match=message):
        native.score(logits, scores, likelihood)


def test_an_unknown_instruction_set_names_the_choices():
    with pytest.raises(ValueError, match=r"'mmx' is not available here; choose from .*baseline"), native.use_isa("mmx"):
        pass
    assert native.isa() == native.available_isas()[0]


def test_a_missing_extension_says_what_to_do(monkeypatch):
    monkeypatch.setattr(extension, "native", None)
    monkeypatch.setattr(extension, "missing", "the extension mcscore._native does not load (gone); reinstall mcscore")
    assert native.available() == (False, "the extension mcscore._native does not load (gone); reinstall mcscore")
    with pytest.raises(RuntimeError, match="reinstall mcscore"):
        native.score(torch.zeros(3, 4, 2), ("bald",))
