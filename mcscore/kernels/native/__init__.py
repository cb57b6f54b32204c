"""The C++ kernels of ``mcscore._native`` on CPU tensors: checks, output allocation, and the split over threads.

Results do not depend on the number of threads: an item is computed by one thread, always the same way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...acquisition import KERNEL_SCORES, KERNEL_SUMS, check_kernel_call
from ...masks import MaskSpec
from ..weight_cache import made_from
from .extension import missing as _missing
from .extension import native as _native
from .threads import split

LIKELIHOODS = ("categorical", "bernoulli")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)

# ---- what is there ------------------------------------------------------------------------------------------------


def available() -> tuple[bool, str]:
    """(True, "avx2") or (False, why the extension is missing)."""
    return (True, isa()) if _native is not None else (False, _missing)


def isa() -> str:
    """The instruction set in use: "avx512", "avx2" or "baseline" (x86-64-v2, or NEON on aarch64)."""
    return _extension().isa()


def available_isas() -> list[str]:
    """The instruction sets this machine can run, best first."""
    return _extension().available_isas()


@contextlib.contextmanager
def use_isa(name: str) -> Iterator[None]:
    """Force one of ``available_isas()`` for the whole process while the context lasts; for tests and benchmarks."""
    before = isa()
    if name not in available_isas():
        raise ValueError(f"instruction set {name!r} is not available here; choose from {', '.join(available_isas())}")
    _native.use_isa(name)
    try:
        yield
    finally:
        _native.use_isa(before)


def _extension() -> Any:
    if _native is None:
        raise RuntimeError(_missing)
    return _native


# ---- scores -------------------------------------------------------------------------------------------------------


def score(logits_TBC: Tensor, scores: Sequence[str], likelihood: str = "categorical") -> dict[str, Tensor]:
    """Scores of (T, B, C) logits, each (B,) float32, and "prediction" (B,) int32; see ``mcscore.acquisition``.

    logits_TBC: float32, float16 or bfloat16, T >= 1, C >= 1 (softmax: C >= 2), any strides. Items with NaN or +inf logits
    (softmax: also a row of nothing but -inf) get NaN scores and the prediction -1.
    """
    x = _logits(logits_TBC, scores, likelihood)
    T, B, C = x.shape
    out, to = _outputs(scores, B)
    split(B, T * C, lambda *items: _native.score(*_described(x), LIKELIHOODS.index(likelihood), to, items))
    return out


def _outputs(scores: Sequence[str], B: int) -> tuple[dict[str, Tensor], tuple[int, ...]]:
    """The arrays to fill, and their addresses in the order of struct Scores of csrc/kernels.h, 0 = not asked for."""
    out = {name: torch.empty(B, dtype=torch.float32) for name in scores}
    out["prediction"] = torch.empty(B, dtype=torch.int32)
    return out, tuple(out[name].data_ptr() if name in out else 0 for name in (*KERNEL_SCORES, "prediction"))


_SUM_DTYPES = {name: {"votes": torch.int32, "bad": torch.bool}.get(name, torch.float64) for name in KERNEL_SUMS}


def accumulate(logits_tBC: Tensor, state: dict[str, Tensor], likelihood: str = "categorical") -> None:
    """Add the passes of (t, B, C) logits to ``state`` in place.

    state: any of "p", "p2" float64 (B, C) (sums of p and p^2), "h" float64 (B,) (entropies), "votes" int32 (B, C) (argmax of each
    pass; sigmoid: p >= 1/2), "bad" bool (B,) (set for items with non-finite logits, whose other sums are then meaningless).
    """
    x = _logits(logits_tBC, (), likelihood)
    t, B, C = x.shape
    for name, value in state.items():
        if name not in _SUM_DTYPES:
            raise ValueError(f"unknown state {name!r}; known are {', '.join(_SUM_DTYPES)}")
        shape = (B,) if name in ("h", "bad") else (B, C)
        if (
            value.shape != shape
            or value.dtype != _SUM_DTYPES[name]
            or value.device.type != "cpu"
            or not value.is_contiguous()
        ):
            raise ValueError(
                f"state {name!r} must be a contiguous {_SUM_DTYPES[name]} CPU tensor of shape {shape}, "
                f"got {value.dtype} {tuple(value.shape)} on {value.device}"
            )
    to = [state[name].data_ptr() if name in state else 0 for name in _SUM_DTYPES]
    split(B, t * C, lambda *items: _native.accumulate(*_described(x), LIKELIHOODS.index(likelihood), *to, items))


def _logits(logits_TBC: Tensor, scores: Sequence[str], likelihood: str) -> Tensor:
    _extension()
    x = _cpu(logits_TBC, "logits")
    check_kernel_call("score", scores, likelihood, x.shape)
    return x


def _described(x: Tensor) -> tuple[int, int, tuple[int, ...], tuple[int, ...]]:
    return x.data_ptr(), DTYPES.index(x.dtype), tuple(x.shape), x.stride()


# ---- masks --------------------------------------------------------------------------------------------------------


def keep_mask(spec: MaskSpec, elements: int) -> Tensor:
    """Keep masks (t, B, elements), bool, True = kept: ``masks.keep_mask`` bit for bit."""
    masks = _Masks(spec, elements)
    out = torch.empty((masks.t, masks.B, elements), dtype=torch.bool)
    _split_passes(masks, elements, lambda *part: _native.keep_mask(masks.described, out.data_ptr(), *part))
    return out


def dropout(
    x_sBEI: Tensor,
    spec: MaskSpec,
    affine: tuple[float, float, float],
) -> Tensor:
    """Y (t, B, E, I) = a x + b where element (t, b, e) is kept, else d; float32 inside, x's dtype in and out.

    x_sBEI: float32, float16 or bfloat16; s = 1 (every pass reads the same x) or s = t. The I values of an element share its fate.
    affine: (a, b, d). Memory moved: s B E I + t B E I values.
    """
    x = _cpu(x_sBEI, "dropout input").contiguous()
    if x.ndim != 4:
        raise ValueError(f"dropout input must be (s, B, E, I), got {tuple(x.shape)}")
    s, B, E, I = x.shape
    masks = _Masks(spec, E)
    if s not in (1, masks.t) or masks.B != B:
        raise ValueError(f"dropout input {tuple(x.shape)} (s, B, E, I) does not fit {masks.t} passes and {masks.B} ids")
    y = torch.empty((masks.t, B, E, I), dtype=x.dtype)
    arrays = x.data_ptr(), y.data_ptr(), DTYPES.index(x.dtype), s, I, tuple(affine)
    _split_passes(masks, E * I, lambda *part: _native.dropout(masks.described, *arrays, *part))
    return y


def draw(law: str, spec: MaskSpec, elements: int, dtype: torch.dtype) -> Tensor:
    """Random numbers (t, B, elements) of ``law`` "uniform" or "normal", float32, float16 or bfloat16; see ``masks``."""
    if law not in ("uniform", "normal"):
        raise ValueError(f"unknown law {law!r} of random numbers; the native kernel has uniform and normal")
    if dtype not in DTYPES:
        raise TypeError(f"random numbers must be float32, float16 or bfloat16 for the native kernels, not {dtype}")
    words = _Masks(spec, elements)
    out = torch.empty((words.t, words.B, elements), dtype=dtype)
    arrays = out.data_ptr(), DTYPES.index(dtype), law == "normal"
    cost = elements * (2 if law == "normal" else 1)  # 0.6 and 1.3 ns a number (Zen 3)
    _split_passes(words, cost, lambda *part: _native.draw(words.described, *arrays, *part))
    return out


def dropout_linear(
    x_sBLD: Tensor,
    spec: MaskSpec,
    weight_CD: Tensor,
    bias_C: Tensor | None = None,
) -> Tensor:
    """Y (t, B, L, C) = bias + W (keep x) / (1 - p), float32: dropout and the Linear behind it, without a dropped copy of x.

    x_sBLD: s = 1 or t copies of B items of L rows of D features; element l D + d of an item's mask belongs to feature d of row l.
    Results do not depend on the batch, the chunk of passes or the threads, to the last bit, save that a chunk of a single
    pass with an x of its own (s = t = 1) is summed in the order of a shared x.
    """
    x, weight = (_cpu(value, what).contiguous() for value, what in ((x_sBLD, "features"), (weight_CD, "weight")))
    if x.dtype != torch.float32 or weight.dtype != torch.float32:
        raise TypeError(f"dropout_linear needs float32 features and weight, got {x.dtype} and {weight.dtype}")
    if x.ndim != 4 or weight.ndim != 2 or x.shape[3] != weight.shape[1]:
        raise ValueError(f"features (s, B, L, D) {tuple(x.shape)} do not fit weight (C, D) {tuple(weight.shape)}")
    s, B, L, D = x.shape
    C = weight.shape[0]
    masks = _Masks(spec, L * D)
    if s not in (1, masks.t) or masks.B != B:
        raise ValueError(f"features {tuple(x.shape)} (s, B, L, D) do not fit {masks.t} passes and {masks.B} ids")
    bias = _bias(bias_C, C)
    y = torch.empty((masks.t, B, L, C), dtype=torch.float32)
    way = _way(s, C)
    packed, padded, width = _packed(weight_CD, weight, way)
    shape = s, L, D, C, padded, width
    arrays = (
        x.data_ptr(),
        packed.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        y.data_ptr(),
        shape,
        way,
        1.0 / spec.drop_rate.keep,
    )
    _split_passes(masks, L * D * max(1, C // 8), lambda *part: _native.dropout_linear(masks.described, *arrays, *part))
    return y


def dropout_head(
    x_BD: Tensor,
    spec: MaskSpec,
    weight_CD: Tensor,
    bias_C: Tensor | None,
    scores: Sequence[str],
    likelihood: str = "categorical",
) -> dict[str, Tensor]:
    """``score(dropout_linear(x, ...), scores, likelihood)`` of a model that ends in dropout and Linear, without its logits.

    x_BD: float32 or bfloat16 features, all passes read the same; weight_CD, bias_C: float32 or bfloat16; computed in float32.
    Returns scores (B,) and "prediction" as ``score`` does. Only they are written: neither t B D features nor t B C logits.
    """
    x, weight = (_cpu(value, what).float().contiguous() for value, what in ((x_BD, "features"), (weight_CD, "weight")))
    if x.ndim != 2 or weight.ndim != 2 or x.shape[1] != weight.shape[1] or weight.shape[0] < 1:
        raise ValueError(f"features (B, D) {tuple(x.shape)} do not fit weight (C, D) {tuple(weight.shape)}")
    (B, D), C = x.shape, weight.shape[0]
    masks = _Masks(spec, D)
    check_kernel_call("dropout_head", scores, likelihood, (masks.t, B, C))
    if masks.B != B:
        raise ValueError(f"features {tuple(x.shape)} (B, D) do not fit {masks.t} passes and {masks.B} ids")
    bias = _bias(bias_C, C)
    packed, _, width = _packed(weight_CD, weight, _SUBSET)
    out, to = _outputs(scores, B)
    arrays = x.data_ptr(), packed.data_ptr(), 0 if bias is None else bias.data_ptr()
    what = (D, C, width), 1.0 / spec.drop_rate.keep, LIKELIHOODS.index(likelihood), to
    split(B, masks.t * D * max(1, C // 8), lambda *items: _native.dropout_head(masks.described, *arrays, *what, items))
    return out


def _bias(bias_C: Tensor | None, C: int) -> Tensor | None:
    if bias_C is not None and bias_C.shape != (C,):
        raise ValueError(f"bias must have shape ({C},), got {tuple(bias_C.shape)}")
    return None if bias_C is None else _cpu(bias_C, "bias").float().contiguous()


_SUBSET, _DOT, _DENSE = range(3)  # enum class How of csrc/kernels.h


def _way(s: int, C: int) -> int:
    """One x for all passes: sums of subsets, whatever p. Else dot products for few classes and a matrix product for many."""
    return _SUBSET if s == 1 else _DOT if C <= 24 else _DENSE


def _packed(key: Tensor, weight_CD: Tensor, way: int) -> tuple[Tensor, int, int]:
    """(weights in the order in which the kernel reads them, padded D, padded C), made once per weight of a scoring call."""
    lanes = _native.lanes()
    C, D = weight_CD.shape
    if way == _DOT:
        padded, width = -(-D // lanes) * lanes, C
    else:
        panel = _native.panel_classes(C) if way == _SUBSET else lanes * (4 if lanes == 16 else 2)
        padded, width = D, -(-C // panel) * panel

    def pack() -> Tensor:
        if way == _DOT:
            return torch.nn.functional.pad(weight_CD, (0, padded - D)).contiguous()
        # panels of classes: (width / panel, D, panel)
        order = torch.nn.functional.pad(weight_CD, (0, 0, 0, width - C)).view(-1, panel, D).transpose(1, 2)
        return order.contiguous()

    return made_from(key, ("packed", way, lanes), pack), padded, width


def philox(counter_n4: Any, key: int) -> npt.NDArray[np.uint32]:
    """Philox4x32-7: counters (n, 4) uint32 and a 64-bit key -> (n, 4) uint32, as ``masks.philox4x32``."""
    counter = np.ascontiguousarray(counter_n4, dtype=np.uint32)
    if counter.ndim != 2 or counter.shape[1] != 4:
        raise ValueError(f"counters must have shape (n, 4), got {counter.shape}")
    out = np.empty_like(counter)
    _extension().philox(counter.ctypes.data, key, out.ctypes.data, len(counter))
    return out


class _Masks:
    """A MaskSpec as the kernels take it: passes and ids on the CPU, alive while kernels read them."""

    def __init__(self, spec: MaskSpec, elements: int) -> None:
        _extension()
        self.passes_t = torch.as_tensor(spec.passes, dtype=torch.int64, device="cpu").contiguous()
        self.ids_B = torch.as_tensor(spec.ids, dtype=torch.int64, device="cpu").contiguous()
        self.t, self.B = len(self.passes_t), len(self.ids_B)
        passes, ids = self.passes_t.data_ptr(), self.ids_B.data_ptr()
        bits, threshold = (32, 0) if spec.rate is None else (spec.rate.bits, spec.rate.threshold)
        self.described = spec.seed, spec.site, passes, self.t, ids, self.B, elements, bits, threshold


def _split_passes(masks: _Masks, cost: int, call: Callable[[tuple[int, int], tuple[int, int]], object]) -> None:
    """call(items, passes) over all items and passes: items are split, unless there are fewer of them than passes."""
    items, passes = masks.B, masks.t
    if passes == 0 or cost == 0:
        return
    if items >= passes:
        split(items, cost * passes, lambda *some: call(some, (0, passes)))
    else:
        split(passes, cost * items, lambda *some: call((0, items), some))


def _cpu(x: Tensor, what: str) -> Tensor:
    if x.device.type != "cpu":
        raise ValueError(f"{what} must be on the CPU for the native kernels, is on {x.device}")
    if x.dtype not in DTYPES:
        raise TypeError(f"{what} must be float32, float16 or bfloat16 for the native kernels, is {x.dtype}")
    return x.detach()
