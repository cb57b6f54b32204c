"""Scores of logits, and their sums over passes: csrc/score.h."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...acquisition import KERNEL_SCORES, KERNEL_SUMS, check_kernel_call
from ...jackknife import columns, require_passes
from .extension import loaded
from .memory import DTYPES, on_cpu
from .threads import split

LIKELIHOODS = ("categorical", "bernoulli")  # enum class Likelihood of csrc/kernels.h

_ADDRESSES = (*KERNEL_SCORES, "prediction", *(f"{s}_se" for s in KERNEL_SCORES), *(f"{s}_bias" for s in KERNEL_SCORES))
_SUM_DTYPES = {name: {"votes": torch.int32, "bad": torch.bool}.get(name, torch.float64) for name in KERNEL_SUMS}


def score(
    logits_TBC: Tensor, scores: Sequence[str], likelihood: str = "categorical", *, errors: bool = False
) -> dict[str, Tensor]:
    """Scores of (T, B, C) logits, each (B,) float32, and "prediction" (B,) int32; see ``mcscore.acquisition``.

    logits_TBC: float32, float16 or bfloat16, T >= 1, C >= 1 (softmax: C >= 2), any strides. Items with NaN or +inf logits
    (softmax: also a row of nothing but -inf) get NaN scores and the prediction -1. errors: also "<score>_se" and "<score>_bias" (see
    ``mcscore.jackknife``), off by 2 % of themselves, at most 10 %, and about 2^-20 of the entropy (csrc/errors.h).
    """
    x = _logits(logits_TBC, scores, likelihood)
    T, B, C = x.shape
    out, to = outputs(scores, B, T if errors else None)
    split(B, T * C, lambda *items: loaded().score(*_described(x), LIKELIHOODS.index(likelihood), to, items))
    return out


def outputs(scores: Sequence[str], B: int, error_passes: int | None) -> tuple[dict[str, Tensor], list[int]]:
    """The arrays to fill, and their addresses in the order of struct Scores of csrc/kernels.h, 0 = not asked for.

    error_passes: the number of passes if errors are asked for. ValueError if they are too few.
    """
    if error_passes is not None:
        require_passes(error_passes)
    out = {name: torch.empty(B, dtype=torch.float32) for name in columns(scores, error_passes is not None)}
    out["prediction"] = torch.empty(B, dtype=torch.int32)
    return out, [out[name].data_ptr() if name in out else 0 for name in _ADDRESSES]


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
    split(B, t * C, lambda *items: loaded().accumulate(*_described(x), LIKELIHOODS.index(likelihood), *to, items))


def _logits(logits_TBC: Tensor, scores: Sequence[str], likelihood: str) -> Tensor:
    loaded()
    x = on_cpu(logits_TBC, "logits")
    check_kernel_call("score", scores, likelihood, x.shape)
    return x


def _described(x: Tensor) -> tuple[int, int, tuple[int, ...], tuple[int, ...]]:
    return x.data_ptr(), DTYPES.index(x.dtype), tuple(x.shape), x.stride()
