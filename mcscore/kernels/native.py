"""The C++ kernels of ``mcscore._native`` on CPU tensors: checks, output allocation, and the one place that makes threads.

A kernel call is single-threaded, holds no GIL and takes a range of items; ``_split`` hands ranges to one pool of
``torch.get_num_threads()`` threads. An OpenMP runtime of our own beside torch's would cost up to 8x, since each spins on
the cores of the other. Results do not depend on the number of threads: an item is computed by one thread, the same way.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..masks import Rate, check_counter

_native: Any
try:
    from .. import _native  # type: ignore[attr-defined, no-redef]

    _missing = ""
except ImportError as error:
    _native = None
    _missing = f"the extension mcscore._native does not load ({error}); reinstall mcscore with a C++17 compiler at hand"

LINKS = ("softmax", "sigmoid")
SCORES = ("entropy", "expected_entropy", "bald", "least_confidence", "margin", "variation_ratio", "mean_std")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)

_SMALL = 1 << 16  # values; below some 50 µs of work, handing over to another thread (15 µs each) gains nothing
_STEP = 16  # items: the widest vector, so that no thread works on part of one

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


def score(logits_TBC: Tensor, scores: Sequence[str], link: str = "softmax") -> dict[str, Tensor]:
    """Scores of (T, B, C) logits, each (B,) float32, and "prediction" (B,) int32; see ``mcscore.acquisition``.

    logits_TBC: float32, float16 or bfloat16, T >= 1, C >= 1 (softmax: C >= 2), any strides. Items with NaN or +inf logits
    (softmax: also a row of nothing but -inf) get NaN scores and the prediction -1.
    """
    x = _logits(logits_TBC, link)
    unknown = [name for name in scores if name not in SCORES]
    if unknown:
        raise ValueError(f"unknown score {unknown[0]!r} for link {link!r}; the native kernel has {', '.join(SCORES)}")
    T, B, C = x.shape
    out = {name: torch.empty(B, dtype=torch.float32) for name in scores}
    out["prediction"] = torch.empty(B, dtype=torch.int32)
    _split(B, T * C, lambda begin, end: _native.score(x, link, begin, end, **out))
    return out


def accumulate(logits_tBC: Tensor, state: dict[str, Tensor], link: str = "softmax") -> None:
    """Add the passes of (t, B, C) logits to ``state`` in place.

    state: any of "p", "p2" float64 (B, C) (sums of p and p^2), "h" float64 (B,) (entropies), "votes" int32 (B, C) (argmax of each
    pass; sigmoid: p >= 1/2), "bad" bool (B,) (set for items with non-finite logits, whose other sums are then meaningless).
    """
    x = _logits(logits_tBC, link)
    t, B, C = x.shape
    shapes = {"p": (B, C), "p2": (B, C), "h": (B,), "votes": (B, C), "bad": (B,)}
    for name, value in state.items():
        if name not in shapes:
            raise ValueError(f"unknown state {name!r}; known are {', '.join(shapes)}")
        if tuple(value.shape) != shapes[name] or not value.is_contiguous():
            raise ValueError(f"state {name!r} must be contiguous of shape {shapes[name]}, got {tuple(value.shape)}")
    _split(B, t * C, lambda begin, end: _native.accumulate(x, link, begin, end, **state))


def _logits(logits_TBC: Tensor, link: str) -> Tensor:
    _extension()
    if link not in LINKS:
        raise ValueError(f"link must be one of {', '.join(LINKS)}, got {link!r}")
    x = _cpu(logits_TBC, "logits")
    if x.ndim != 3 or x.shape[0] < 1 or x.shape[2] < 1:
        raise ValueError(f"logits must be (T, B, C) with T >= 1 and C >= 1, got {tuple(x.shape)}")
    if link == "softmax" and x.shape[2] == 1:
        raise ValueError("softmax over one class is always 1; for a binary output with C = 1 use link='sigmoid'")
    return x if x.stride(2) == 1 else x.contiguous()


# ---- masks --------------------------------------------------------------------------------------------------------


def keep_mask(seed: int, site: int, passes_t: Any, ids_B: Any, elements: int, rate: Rate) -> Tensor:
    """Keep masks (t, B, elements), bool, True = kept: ``masks.keep_mask`` bit for bit."""
    passes, ids = _counter(seed, site, passes_t, ids_B)
    out = torch.empty((len(passes), len(ids), elements), dtype=torch.bool)
    _split_passes(
        len(ids),
        len(passes),
        elements,
        lambda *part: _native.keep_mask(seed, site, passes, ids, elements, rate.bits, rate.threshold, out, *part),
    )
    return out


def dropout(
    x_sBEI: Tensor,
    passes_t: Any,
    ids_B: Any,
    seed: int,
    site: int,
    rate: Rate,
    affine: tuple[float, float, float],
) -> Tensor:
    """y (t, B, E, I) = a x + b where element (t, b, e) is kept, else d; float32 inside, x's dtype in and out.

    x_sBEI: float32, float16 or bfloat16; s = 1 (every pass reads the same x) or s = t. The I values of an element share its fate.
    passes_t, ids_B: int64 (ids -1 = the shared mask). affine: (a, b, d). Memory moved: s B E I + t B E I values.
    """
    passes, ids = _counter(seed, site, passes_t, ids_B)
    x = _cpu(x_sBEI, "dropout input").contiguous()
    if x.ndim != 4 or x.shape[0] not in (1, len(passes)) or x.shape[1] != len(ids):
        raise ValueError(
            f"dropout input must be (1 or {len(passes)}, {len(ids)}, E, I) for these passes and ids, got {tuple(x.shape)}"
        )
    y = torch.empty((len(passes), *x.shape[1:]), dtype=x.dtype)
    _split_passes(
        len(ids),
        len(passes),
        x.shape[2] * x.shape[3],
        lambda *part: _native.dropout(x, y, passes, ids, seed, site, rate.bits, rate.threshold, *affine, *part),
    )
    return y


def philox(counter_n4: Any, key: int) -> Tensor:
    """Philox4x32-7 of (n, 4) counter words (any integers below 2^32), as int64 (n, 4); for comparison with ``masks``."""
    counter = np.ascontiguousarray(np.asarray(counter_n4), dtype=np.uint32)
    out = np.empty_like(counter)
    _extension().philox(counter, key, out)
    return torch.from_numpy(out.astype(np.int64))


def _counter(seed: int, site: int, passes_t: Any, ids_B: Any) -> tuple[Tensor, Tensor]:
    _extension()
    passes = torch.as_tensor(passes_t, dtype=torch.int64, device="cpu").contiguous()
    ids = torch.as_tensor(ids_B, dtype=torch.int64, device="cpu").contiguous()
    check_counter(seed, site, passes.numpy(), ids.numpy())
    return passes, ids


def _cpu(x: Tensor, what: str) -> Tensor:
    if x.device.type != "cpu":
        raise ValueError(f"{what} must be on the CPU for the native kernels, is on {x.device}")
    if x.dtype not in DTYPES:
        raise TypeError(f"{what} must be float32, float16 or bfloat16 for the native kernels, is {x.dtype}")
    return x.detach()


# ---- threads ------------------------------------------------------------------------------------------------------

_pool: ThreadPoolExecutor | None = None
_pool_size = 0


def _executor(threads: int) -> ThreadPoolExecutor:
    global _pool, _pool_size
    if _pool is None or _pool_size != threads:
        _pool, _pool_size = ThreadPoolExecutor(threads, thread_name_prefix="mcscore"), threads
    return _pool


def _forget_pool() -> None:
    """A forked child inherits the pool but not its threads."""
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def _split(n: int, cost: int, call: Callable[[int, int], object]) -> None:
    """call(begin, end) over [0, n), in as many threads as torch uses; ``cost`` is the number of values per item."""
    threads = min(torch.get_num_threads(), -(-n // _STEP), max(1, n * cost // _SMALL))
    if n == 0:
        return
    if threads == 1:
        call(0, n)
        return
    steps = -(-n // _STEP)
    bounds = [min(n, steps * i // threads * _STEP) for i in range(threads + 1)]
    pool = _executor(torch.get_num_threads())
    futures = [pool.submit(call, lo, hi) for lo, hi in zip(bounds[1:-1], bounds[2:], strict=True)]
    call(bounds[0], bounds[1])  # the calling thread takes a share
    for future in futures:
        future.result()


def _split_passes(items: int, passes: int, cost: int, call: Callable[[int, int, int, int], object]) -> None:
    """call(b0, b1, t0, t1) over items x passes: items are split unless there are fewer of them than threads."""
    if items == 0 or passes == 0 or cost == 0:
        return
    if items >= torch.get_num_threads() * _STEP or items >= passes:
        _split(items, cost * passes, lambda b0, b1: call(b0, b1, 0, passes))
    else:
        _split(passes, cost * items, lambda t0, t1: call(0, items, t0, t1))
