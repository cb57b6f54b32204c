"""Random numbers whose every value is a pure function of (seed, site, pass, item id, element), for models that draw their own.

``mcscore.masks`` defines the two laws, "uniform" on [0, 1) and standard "normal". Three layers, as in ``dropout``: ``draw_passes``
picks the kernel for a device; ``mcscore::draw`` is one pass of it in the shape of a tensor, which ``torch.vmap`` turns into all
passes; ``reference`` is the readable version in PyTorch, the slow path on devices without a kernel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..masks import MaskSpec
from . import backends
from .dropout import unsigned
from .operator import operator
from .philox import UNIFORM_BITS, random_blocks

LAWS = ("uniform", "normal")
_REFERENCE_BYTES = 32 << 20  # temporaries of the reference: some 64 bytes per number


def draw_passes(law: str, numbers: MaskSpec, elements: int, dtype: torch.dtype) -> Tensor:
    """The numbers of the given passes: (t, B, elements), contiguous, on the device of the ids."""
    _check(law, dtype)
    chosen = backends.select(numbers.ids.device)
    if chosen != "eager" and dtype not in backends.KERNEL_DTYPES:
        backends.warn_once(
            f"random numbers of {dtype} take the slower PyTorch path; the {chosen} kernel has 16- and 32-bit floats"
        )
        chosen = "eager"
    if chosen == "native":
        from . import native

        return native.draw(law, numbers, elements, dtype)
    if chosen == "triton":
        from .triton import draws as triton_draws

        return triton_draws.draw(law, numbers, elements, dtype, numbers.ids.device)
    return reference(law, numbers, elements, dtype)


def _check(law: str, dtype: torch.dtype) -> None:
    if law not in LAWS:
        raise ValueError(f"unknown law {law!r} of random numbers; choose from {', '.join(LAWS)}")
    if dtype not in UNIFORM_BITS:
        raise TypeError(f"random numbers are float64, float32, float16 or bfloat16, not {dtype}")


def reference(law: str, numbers: MaskSpec, elements: int, dtype: torch.dtype) -> Tensor:
    """``draw_passes`` in PyTorch operations, on any device, a few passes at a time so that temporaries stay small."""
    t, B = numbers.t, numbers.B
    out_tBE = torch.empty((t, B, elements), dtype=dtype, device=numbers.ids.device)
    step = max(1, _REFERENCE_BYTES // max(1, 64 * B * elements))
    for lo in range(0, t, step):
        words = random_blocks(numbers.part(slice(lo, lo + step)), -(-elements // 4)).flatten(2)
        drawn = _uniform(words, dtype) if law == "uniform" else _normal(words, dtype)
        out_tBE[lo : lo + step] = drawn[..., :elements]
    return out_tBE


def _wide(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32


def _uniform(words: Tensor, dtype: torch.dtype) -> Tensor:
    bits = UNIFORM_BITS[dtype]
    return (words >> (32 - bits)).to(_wide(dtype)) * 2.0**-bits


def _normal(words: Tensor, dtype: torch.dtype) -> Tensor:
    w0, w1 = words.unflatten(-1, (-1, 2)).unbind(-1)
    radius = torch.sqrt(-2.0 * torch.log((w0 + 1).to(_wide(dtype)) * 2.0**-32))
    quarter = (w1 + 2**29) >> 30  # 0 to 4: the quarter turn nearest to the angle
    rest = (w1 - (quarter << 30)).to(_wide(dtype)) * (2.0 * math.pi * 2.0**-32)
    cos, sin = torch.cos(rest), torch.sin(rest)
    odd, back = quarter % 2 == 1, (quarter & 2) != 0
    first, second = torch.where(odd, -sin, cos), torch.where(odd, cos, sin)
    return torch.stack([radius * torch.where(back, -part, part) for part in (first, second)], dim=-1).flatten(-2)


# ---- the operator that vmap and compile see --------------------------------------------------------------------------------------


def draws(like_shape: Sequence[int], numbers: MaskSpec, law: str, dtype: torch.dtype, *, axis: int) -> Tensor:
    """Numbers of the given passes in a shape whose dimension ``axis`` runs over the items: (t, *like_shape), contiguous.

    Several consecutive rows of that dimension may belong to one item (heads, patches). An item's elements are numbered in the
    row-major order of its own values with that dimension first, so its numbers never depend on its batch.
    """
    moved = list(like_shape)
    moved.insert(0, moved.pop(axis))
    items = numbers.B
    if moved[0] % items if items else moved[0]:
        raise ValueError(
            f"dimension {axis} of shape {tuple(like_shape)} holds {moved[0]} rows, which do not divide into {items} items; "
            "axis must name the dimension that runs over the items"
        )
    elements = math.prod(moved) // items if items else 0
    numbers_tBE = draw_passes(law, numbers, elements, dtype)
    return numbers_tBE.reshape(numbers.t, *moved).movedim(1, axis % len(moved) + 1).contiguous()


def _like(like: Any, *_: Any) -> Tensor:
    return torch.empty_like(like, memory_format=torch.contiguous_format)


@operator("mcscore::draw", _like)
def draw(like: Tensor, passes: Tensor, ids: Tensor, axis: int, seed: int, site: int, law: str) -> Tensor:
    """Random numbers of one site in one pass, in like's shape and dtype. ``passes`` is a 0-d int64 tensor, the pass's index.

    Under vmap over it: all passes. seed: ``dropout.signed``.
    """
    numbers = MaskSpec(unsigned(seed), site, passes.reshape(1).to(like.device), ids.to(like.device))
    return draws(like.shape, numbers, law, like.dtype, axis=axis)[0]


def _vmap(
    info: Any, in_dims: Any, like: Any, passes: Any, ids: Any, axis: Any, seed: Any, site: Any, law: Any
) -> tuple[Tensor, int | None]:
    like_dim, passes_dim, ids_dim = in_dims[:3]
    if ids_dim is not None:
        raise ValueError("mcscore::draw: ids must not be mapped over; map over the pass index alone")
    passes_t = passes if passes_dim is not None else passes.expand(info.batch_size)
    shape = list(like.shape)
    if like_dim is not None:
        shape.pop(like_dim)
    numbers = MaskSpec(unsigned(seed), site, passes_t.reshape(-1).to(like.device), ids.to(like.device))
    return draws(shape, numbers, law, like.dtype, axis=axis), 0


torch.library.register_vmap(draw, _vmap)
