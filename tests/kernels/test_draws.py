"""Random numbers are what the specification in mcscore.masks says, whatever the batch, the passes together and the backend."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from mcscore import masks
from mcscore.kernels import draws as module
from mcscore.kernels import native
from mcscore.kernels.draws import LAWS, draw, draw_passes, draws, reference
from mcscore.kernels.dropout import signed
from mcscore.masks import MaskSpec

SEED = 0xFEDCBA9876543210
IDS = [0, 7, 2**32 - 1, 2**40 + 7, 2**63 - 1, -1]
PASSES = [0, 3, 65535]
BITS = {torch.float64: 32, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}
DTYPES = list(BITS)
SIZES = [0, 1, 2, 3, 4, 5, 7, 31, 64, 1001, 5000]


def words(
    elements: int, site: int = 9, passes: list[int] = PASSES, ids: list[int] = IDS, seed: int = SEED
) -> np.ndarray:
    return masks.draw_words(MaskSpec(seed, site, passes, ids), elements)


def uniforms(words_tBE: np.ndarray, dtype: torch.dtype) -> Tensor:
    """Exact: float64 holds 32 bits, and every dtype its own."""
    bits = BITS[dtype]
    return torch.from_numpy((words_tBE >> np.uint32(32 - bits)) * 2.0**-bits).to(dtype)


def normals(words_tBE: np.ndarray, single: bool) -> np.ndarray:
    """By the formula, in float64, of the arguments that the specification rounds to float32 where it computes in it."""
    rounded = np.float32 if single else np.float64
    pairs = words_tBE.reshape(-1, 2).astype(np.int64)
    quarter = pairs[:, 1] + 2**29 >> 30
    rest = (pairs[:, 1] - (quarter << 30)).astype(rounded).astype(np.float64)
    radius = np.sqrt(-2 * np.log((pairs[:, 0] + 1).astype(rounded).astype(np.float64) * 2.0**-32))
    # Shifted by whole quarter turns in symbols, not in numbers, which would round the zeros of sine and cosine away.
    cos, sin = np.cos(2 * np.pi * 2.0**-32 * rest), np.sin(2 * np.pi * 2.0**-32 * rest)
    turned = [(cos, sin), (-sin, cos), (-cos, -sin), (sin, -cos)]
    choose = lambda part: np.choose(quarter % 4, [both[part] for both in turned])  # noqa: E731
    return np.stack([radius * choose(0), radius * choose(1)], axis=1).reshape(words_tBE.shape)


def assert_normals(got: Tensor, words_tBE: np.ndarray) -> None:
    """Within 6 units in the last place of float32 (float64: of that), and one more of a narrower dtype that they are rounded to."""
    expected = torch.from_numpy(normals(words_tBE, got.dtype != torch.float64))
    wide = torch.finfo(torch.float64 if got.dtype == torch.float64 else torch.float32)
    relative = 6 * wide.eps + (0 if got.dtype == torch.float32 else torch.finfo(got.dtype).eps / 2 * 1.001)
    torch.testing.assert_close(
        got.double(), expected, rtol=relative, atol=torch.finfo(got.dtype).smallest_normal * 2**-10
    )


def evens(elements: int) -> int:
    return elements + elements % 2


def reference_draws(law: str, elements: int, dtype: torch.dtype, site: int = 9) -> Tensor:
    return reference(law, MaskSpec(SEED, site, torch.tensor(PASSES), torch.tensor(IDS)), elements, dtype)


@pytest.mark.parametrize("elements", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_uniform_numbers_equal_the_specification_bit_for_bit(dtype: torch.dtype, elements: int) -> None:
    expected = uniforms(words(elements), dtype)
    assert torch.equal(reference_draws("uniform", elements, dtype), expected)
    got = draw_passes("uniform", MaskSpec(SEED, 9, torch.tensor(PASSES), torch.tensor(IDS)), elements, dtype)
    assert torch.equal(got, expected)
    assert got.dtype == dtype


@pytest.mark.parametrize("elements", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_normal_numbers_equal_the_specification_within_a_few_ulp(dtype: torch.dtype, elements: int) -> None:
    some = words(evens(elements))
    padded = reference_draws("normal", evens(elements), dtype)
    assert_normals(padded, some)
    assert torch.equal(reference_draws("normal", elements, dtype), padded[..., :elements])
    got = draw_passes("normal", MaskSpec(SEED, 9, torch.tensor(PASSES), torch.tensor(IDS)), elements, dtype)
    assert got.shape == (len(PASSES), len(IDS), elements)
    torch.testing.assert_close(got, padded[..., :elements], rtol=12 * 2**-23 + torch.finfo(dtype).eps, atol=1e-30)


def test_extreme_words_give_finite_numbers_in_range() -> None:
    extreme = [
        0,
        1,
        2**29 - 1,
        2**29,
        2**30,
        2**31 - 1,
        2**31,
        3 * 2**30,
        7 * 2**29,
        2**32 - 2**8,
        2**32 - 2,
        2**32 - 1,
    ]
    some = torch.tensor([(a, b) for a in extreme for b in extreme]).reshape(1, 1, -1)
    for dtype in DTYPES:
        uniform = module._uniform(some, dtype).to(dtype)
        assert float(uniform.min()) >= 0
        assert float(uniform.max()) < 1
        normal = module._normal(some, dtype)
        assert_normals(normal, some.numpy().astype(np.uint32))
        assert float(normal.abs().max()) <= math.sqrt(64 * math.log(2)) * (1 + 1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("law", LAWS)
def test_numbers_do_not_depend_on_batch_order_or_chunk(law: str, dtype: torch.dtype) -> None:
    passes, ids = torch.arange(7), torch.tensor(IDS)

    def ask(passes: Tensor, ids: Tensor) -> Tensor:
        return draw_passes(law, MaskSpec(SEED, 2, passes, ids), 37, dtype)

    whole = ask(passes, ids)
    assert torch.equal(ask(passes[[5, 1]], ids), whole[[5, 1]])
    assert torch.equal(ask(passes, ids[[3, 0]]), whole[:, [3, 0]])
    assert torch.equal(ask(passes[4:5], ids[2:3]), whole[4:5, 2:3])
    assert torch.equal(draw_passes(law, MaskSpec(SEED, 2, passes, ids), 5, dtype), whole[..., :5])


def test_reference_in_pieces_equals_reference_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = reference_draws("normal", 64, torch.float32)
    monkeypatch.setattr(module, "_REFERENCE_BYTES", 1)
    assert torch.equal(reference_draws("normal", 64, torch.float32), whole)


# ---- the operator -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((6,), 0), ((6, 5), 0), ((5, 6), 1), ((3, 18, 2), 1), ((3, 18, 2), -2), ((2, 3, 5, 12), 3), ((6, 0), 0)],
)
def test_an_item_takes_its_elements_in_row_major_order_of_its_own_values(
    shape: tuple[int, ...], axis: int, law: str, dtype: torch.dtype
) -> None:
    ids, like = torch.tensor(IDS), torch.empty(shape, dtype=dtype)
    got = draw(like, torch.tensor(3), ids, axis, signed(SEED), 9, law)
    assert got.shape == shape
    assert got.dtype == dtype
    assert got.is_contiguous()
    rows = shape[axis] // len(IDS)
    numbers = draw_passes(law, MaskSpec(SEED, 9, torch.tensor([3]), ids), math.prod(shape) // len(IDS), dtype)[0]
    for i in range(len(IDS)):
        own = got.movedim(axis, 0)[i * rows : (i + 1) * rows]
        assert torch.equal(own.flatten(), numbers[i])
        alone = draw(like.narrow(axis, 0, rows), torch.tensor(3), ids[i : i + 1], axis, signed(SEED), 9, law)
        assert torch.equal(alone.movedim(axis, 0), own)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("shape", "axis"), [((6, 5), 0), ((4, 12), 1), ((3, 6, 2), -2)])
@pytest.mark.parametrize("like_dim", [None, 0, 2])
def test_vmap_over_the_pass_equals_a_loop(like_dim: int | None, shape: tuple, axis: int, law: str) -> None:
    ids, passes = torch.tensor(IDS), torch.tensor([4, 0, 65535, 9])
    loop = torch.stack([draw(torch.empty(shape), p, ids, axis, signed(SEED), 9, law) for p in passes])
    like = torch.empty(shape) if like_dim is None else torch.stack([torch.empty(shape)] * len(passes), like_dim)
    mapped = torch.vmap(lambda x, p: draw(x, p, ids, axis, signed(SEED), 9, law), in_dims=(like_dim, 0))(like, passes)
    assert torch.equal(mapped, loop)
    plain = draws(shape, MaskSpec(SEED, 9, passes, ids), law, torch.float32, axis=axis)
    assert torch.equal(plain, loop)
    assert plain.is_contiguous()


def test_vmap_over_like_alone_repeats_the_pass() -> None:
    ids, like = torch.tensor(IDS), torch.empty(4, 6, 5)
    mapped = torch.vmap(lambda x: draw(x, torch.tensor(3), ids, 0, 1, 2, "normal"))(like)
    assert torch.equal(mapped, draw(like[0], torch.tensor(3), ids, 0, 1, 2, "normal").expand(4, 6, 5))


def test_no_items_and_no_passes_give_empty_numbers() -> None:
    none = torch.empty(0, dtype=torch.int64)
    assert draw(torch.empty(0, 4), torch.tensor(1), none, 0, 0, 0, "uniform").shape == (0, 4)
    assert draw_passes("normal", MaskSpec(0, 0, none, torch.tensor(IDS)), 3, torch.float32).shape == (0, 6, 3)


def test_operator_passes_the_checks_of_torch() -> None:
    arguments = (torch.empty(4, 12), torch.tensor(5), torch.tensor(IDS), 1, signed(SEED), 9, "normal")
    torch.library.opcheck(draw, arguments)


def test_wrong_arguments_are_refused_by_name() -> None:
    ids = torch.tensor(IDS)
    with pytest.raises(ValueError, match=r"'cauchy'.*uniform, normal"):
        draw(torch.empty(6, 2), torch.tensor(0), ids, 0, 0, 0, "cauchy")
    with pytest.raises(TypeError, match="int64"):
        draw(torch.empty(6, 2, dtype=torch.int64), torch.tensor(0), ids, 0, 0, 0, "uniform")
    with pytest.raises(ValueError, match=r"dimension 1 of shape \(6, 4\) holds 4 rows.* 6 items"):
        draw(torch.empty(6, 4), torch.tensor(0), ids, 1, 0, 0, "uniform")
    with pytest.raises(ValueError, match="ids must not be mapped"):
        torch.vmap(lambda i: draw(torch.empty(2, 2), torch.tensor(0), i, 0, 0, 0, "uniform"))(ids.reshape(3, 2))


# ---- the laws -----------------------------------------------------------------------------------------------------


def many(law: str, site: int = 1, pass_: int = 0, id_: int = 0, n: int = 1 << 20, seed: int = 5) -> np.ndarray:
    passes, ids = torch.tensor([pass_]), torch.tensor([id_])
    return draw_passes(law, MaskSpec(seed, site, passes, ids), n, torch.float32)[0, 0].double().numpy()


def test_uniform_numbers_have_the_law_they_are_named_after() -> None:
    x = many("uniform")
    assert abs(x.mean() - 0.5) < 5 / math.sqrt(12 * x.size)
    assert abs(x.var() - 1 / 12) < 5 * math.sqrt(1 / 180 / x.size)
    assert stats.kstest(x, "uniform").pvalue > 1e-3


def test_normal_numbers_have_the_law_they_are_named_after() -> None:
    x = many("normal")
    for part in (x, x[::2], x[1::2]):
        assert abs(part.mean()) < 5 / math.sqrt(part.size)
        assert abs(part.var() - 1) < 5 * math.sqrt(2 / part.size)
        assert abs((part**3).mean()) < 5 * math.sqrt(15 / part.size)
        assert abs((part**4).mean() - 3) < 5 * math.sqrt(96 / part.size)
        assert stats.kstest(part, "norm").pvalue > 1e-3


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("axis", ["pass", "item", "site", "seed", "neighbor element", "next block"])
def test_numbers_are_uncorrelated_across(axis: str, law: str) -> None:
    n = 1 << 18
    a = many(law, n=n)
    b = {
        "pass": lambda: many(law, pass_=1, n=n),
        "item": lambda: many(law, id_=1, n=n),
        "site": lambda: many(law, site=2, n=n),
        "seed": lambda: many(law, seed=6, n=n),
        "neighbor element": lambda: np.roll(a, 1),
        "next block": lambda: np.roll(a, 4),
    }[axis]()
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / math.sqrt(n)
    assert abs(np.corrcoef((a - a.mean()) ** 2, (b - b.mean()) ** 2)[0, 1]) < 5 / math.sqrt(n)


# ---- native kernels -----------------------------------------------------------------------------------------------

needs_native = pytest.mark.skipif(not native.available()[0], reason=native.available()[1])
KERNEL_DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@needs_native
@pytest.mark.parametrize("elements", [*range(36), 63, 64, 65, 1001, 1024, 1025, 70_001])
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
def test_native_numbers_are_those_of_the_specification(isa: str, dtype: torch.dtype, elements: int) -> None:
    some = words(evens(elements))
    uniform, normal = (native.draw(law, MaskSpec(SEED, 9, PASSES, IDS), elements, dtype) for law in LAWS)
    assert torch.equal(uniform, uniforms(some, dtype)[..., :elements])
    padded = native.draw("normal", MaskSpec(SEED, 9, PASSES, IDS), evens(elements), dtype)
    assert_normals(padded, some)
    assert torch.equal(normal, padded[..., :elements])


@needs_native
@pytest.mark.parametrize("law", LAWS)
def test_native_numbers_do_not_depend_on_threads(law: str) -> None:
    passes, ids = list(range(20)), list(range(300))
    whole = native.draw(law, MaskSpec(SEED, 9, passes, ids), 77, torch.float32)
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            assert torch.equal(native.draw(law, MaskSpec(SEED, 9, passes, ids), 77, torch.float32), whole)
            few = native.draw(law, MaskSpec(SEED, 9, passes, ids[:7]), 5000, torch.float32)
            assert torch.equal(few[..., :77], whole[:, :7])
    finally:
        torch.set_num_threads(threads)


@needs_native
def test_native_normal_numbers_are_accurate_over_a_million_words(isa: str) -> None:
    got = native.draw("normal", MaskSpec(SEED, 9, [3], [7]), 1 << 20, torch.float32)
    assert_normals(got, words(1 << 20, passes=[3], ids=[7]))
    assert torch.isfinite(got).all()


@needs_native
def test_native_kernel_names_what_it_does_not_have() -> None:
    with pytest.raises(ValueError, match=r"'cauchy'.*uniform and normal"):
        native.draw("cauchy", MaskSpec(SEED, 9, PASSES, IDS), 4, torch.float32)
    with pytest.raises(TypeError, match="float64"):
        native.draw("normal", MaskSpec(SEED, 9, PASSES, IDS), 4, torch.float64)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_on_a_gpu_are_those_on_the_cpu(dtype: torch.dtype) -> None:
    passes, ids = torch.tensor([4, 0, 65535]), torch.tensor(IDS)
    for law, ulps in (("uniform", 0), ("normal", 12)):
        host, device = (
            draws((5, 12), MaskSpec(SEED, 9, passes.to(kind), ids.to(kind)), law, dtype, axis=1).cpu()
            for kind in ("cpu", "cuda")
        )
        relative = ulps * 2**-23 + (torch.finfo(dtype).eps if ulps else 0)
        torch.testing.assert_close(device, host, rtol=relative, atol=1e-12 if ulps else 0)
