"""Dropout fused with the Linear behind it: the same masks, the same numbers, whatever the batch, the chunk or the threads."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mcscore import masks
from mcscore.kernels import linear, native
from mcscore.kernels.dropout import reference_mask
from mcscore.masks import MaskSpec

needs_native = pytest.mark.skipif(not native.available()[0], reason="the native extension is not built")

SHAPES = [  # s, B, L, D, C, p, t: every way, tails of every loop
    (1, 3, 1, 387, 128, 0.25, 20),
    (1, 3, 1, 387, 128, 0.5, 13),
    (0, 3, 1, 128, 10, 0.5, 20),
    (1, 2, 4, 65, 37, 0.3, 7),
    (0, 2, 4, 65, 300, 0.125, 7),
    (1, 1, 1, 1, 1, 0.5, 3),
    (1, 5, 3, 100, 24, 0.1, 9),
    (1, 5, 3, 100, 65, 0.1, 9),
    (1, 2, 1, 600, 1000, 0.375, 5),
    (0, 1, 1, 513, 49, 0.75, 14),
    (1, 199, 1, 33, 2, 0.5, 2),
    (1, 1, 1, 5000, 10, 0.5, 3),
]


def operands(s, B, L, D, C, t):
    x, weight, bias = torch.randn(s or t, B, L, D), torch.randn(C, D) / D**0.5, torch.randn(C)
    return x, weight, bias, torch.arange(B) * 2**33 + 5, torch.arange(t) + 3


def float64(x, weight, bias, ids, passes, p, seed=77, site=2):
    r = masks.rate(p)
    B, L, D = x.shape[1:]
    keep = reference_mask(MaskSpec(seed, site, passes, ids, r), L * D).view(-1, B, L, D)
    return F.linear((x * keep).double() / r.keep, weight.double(), bias.double()), keep


@needs_native
@pytest.mark.parametrize(("s", "B", "L", "D", "C", "p", "t"), SHAPES)
def test_error_is_at_most_twice_that_of_the_unfused_pair(s, B, L, D, C, p, t):
    x, weight, bias, ids, passes = operands(s, B, L, D, C, t)
    expected, keep = float64(x, weight, bias, ids, passes, p)
    naive = F.linear(x * keep / masks.rate(p).keep, weight, bias)
    for isa in native.available_isas():
        with native.use_isa(isa):
            ours = native.dropout_linear(x, MaskSpec(77, 2, passes, ids, masks.rate(p)), weight, bias)
        limit = 2 * (naive - expected).abs().max() + 2e-6 * expected.abs().max()
        assert (ours - expected).abs().max() <= limit, isa


@needs_native
@pytest.mark.parametrize(("s", "B", "L", "D", "C", "p", "t"), SHAPES)
def test_no_bit_depends_on_batch_chunk_or_threads(s, B, L, D, C, p, t):
    x, weight, bias, ids, passes = operands(s, B, L, D, C, t)

    def run(items, some):
        part = x[:, items] if x.shape[0] == 1 else x[some][:, items]
        return native.dropout_linear(part, MaskSpec(77, 2, passes[some], ids[items], masks.rate(p)), weight, bias)

    whole = run(slice(None), slice(None))
    alone = torch.cat([run(slice(b, b + 1), slice(None)) for b in range(min(B, 6))], dim=1)
    assert torch.equal(alone, whole[:, : min(B, 6)])
    if t > 3:
        halves = torch.cat([run(slice(None), slice(0, t // 2)), run(slice(None), slice(t // 2, t))])
        assert torch.equal(halves, whole)
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            assert torch.equal(run(slice(None), slice(None)), whole)
    finally:
        torch.set_num_threads(before)


@needs_native
def test_weights_that_change_are_packed_anew():
    x, weight, bias, ids, passes = operands(1, 2, 1, 40, 60, 4)
    first = native.dropout_linear(x, MaskSpec(1, 0, passes, ids, masks.rate(0.5)), weight, bias)
    weight.mul_(2.0)
    second = native.dropout_linear(x, MaskSpec(1, 0, passes, ids, masks.rate(0.5)), weight, bias)
    torch.testing.assert_close(second - bias, 2 * (first - bias), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        other = torch.nn.Parameter(weight.clone())
        other.data = torch.zeros_like(weight)
    assert torch.equal(
        native.dropout_linear(x, MaskSpec(1, 0, passes, ids, masks.rate(0.5)), other, bias)[0, 0, 0], bias
    )


@needs_native
def test_operands_that_do_not_fit_are_named():
    x, weight, bias, ids, passes = operands(1, 2, 1, 40, 60, 4)
    with pytest.raises(ValueError, match=r"weight \(60, 41\) \(C, D\) does not fit features \(1, 2, 1, 40\)"):
        native.dropout_linear(x, MaskSpec(1, 0, passes, ids, masks.rate(0.5)), torch.randn(60, 41), bias)
    with pytest.raises(ValueError, match=r"number of passes \(4\) and B the number of ids \(3\)"):
        native.dropout_linear(x, MaskSpec(1, 0, passes, torch.arange(3), masks.rate(0.5)), weight, bias)
    with pytest.raises(TypeError, match="float32"):
        native.dropout_linear(x.half(), MaskSpec(1, 0, passes, ids, masks.rate(0.5)), weight, bias)


@pytest.mark.parametrize(("s", "B", "L", "D", "C", "p", "t"), SHAPES[:6])
def test_the_reference_is_the_definition(s, B, L, D, C, p, t):
    x, weight, bias, ids, passes = operands(s, B, L, D, C, t)
    expected, _ = float64(x, weight, bias, ids, passes, p, seed=9, site=1)
    ours = linear.reference(x, MaskSpec(9, 1, passes, ids, masks.rate(p)), weight, bias)
    torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=1e-5)


def test_the_operator_has_its_rule_for_vmap():
    x, weight, bias, ids, passes = operands(1, 3, 1, 40, 30, 5)
    x_BD = x[0, :, 0]

    def one(index, features):
        return torch.ops.mcscore.dropout_linear(features, index, ids, weight, bias, 9, 1, 0.3)

    expected = linear.reference(x, MaskSpec(9, 1, passes, ids, masks.rate(0.3)), weight, bias)[:, :, 0]
    torch.testing.assert_close(torch.vmap(one, in_dims=(0, None))(passes, x_BD), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.stack([one(index, x_BD) for index in passes]), expected, rtol=1e-4, atol=1e-5)
    batched = x_BD.expand(5, 3, 40).clone()
    torch.testing.assert_close(torch.vmap(one)(passes, batched), expected, rtol=1e-4, atol=1e-5)
    with torch._subclasses.FakeTensorMode():
        fake = torch.ops.mcscore.dropout_linear(
            torch.empty(3, 7, 40), torch.tensor(0), torch.arange(3), torch.empty(30, 40), None, 9, 1, 0.3
        )
    assert fake.shape == (3, 7, 30)
