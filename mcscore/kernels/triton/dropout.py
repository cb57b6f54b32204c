"""Dropout for T passes in one sweep, in Triton.

    y[t, b, e, i] = a x[s, b, e, i] + b  if kept(seed, site, passes[t], ids[b], e)  else d        s = t, or 0 if x is shared

Reads x once ((s, B, E, I), s = 1 or t), the ids and the passes; writes y (t, B, E, I) once. With s = 1 a program keeps its
piece of x in registers and writes it t times: T copies of the input never exist, and traffic is (1 + t) B E I values.

Tiling: a thread owns groups of V consecutive values, one 16-byte load and store each. If mask elements are single values
(I = 1) the V values take V draws of one Philox block; if I values share an element (channel dropout), V divides I and they
take one draw. That is 7 to 10 instructions per bfloat16 value and pass, counted in sm_90 code, where writing it at full memory
speed allows 14. Rows of E values that do not divide by V get narrower loads and stores; a channel of odd size is drawn for
every value, at 40 instructions. The masks stay the same.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...masks import MaskSpec
from ..operands import check_dropout
from .launch import Launch, check_device, check_dtype
from .philox import counter_args, draws, on_device

_GROUPS = 256  # groups per program of 4 warps: two per thread, so that two Philox chains overlap
_PROGRAMS = 1024  # a few waves on the largest GPUs; a call with fewer programs shares its passes out over more of them


@triton.jit
def locate(block, groups, ROW: tl.constexpr, V: tl.constexpr, GROUPS: tl.constexpr):
    """Item and first value within the item of each group of a block (GROUPS,); offset and validity of its V values."""
    PER_ROW: tl.constexpr = (ROW + V - 1) // V
    start = block.to(tl.int64) * GROUPS
    inside = tl.arange(0, GROUPS)
    group = (start % PER_ROW).to(tl.int32) + inside
    item = start // PER_ROW + group // PER_ROW
    first = group % PER_ROW * V
    exists = start + inside < groups
    lane = tl.arange(0, V)[None, :]
    if ROW % V == 0:  # rows touch, so a group's offset is V times its number: aligned, and 16 bytes move at once
        offset = ((start + inside) * V)[:, None] + lane
        valid = exists[:, None]
    else:
        offset = (item * ROW + first)[:, None] + lane
        valid = exists[:, None] & (first[:, None] + lane < ROW)
    return item, first, exists, offset, valid


@triton.jit(do_not_specialize=["key_low", "key_high", "site", "threshold", "blocks", "groups", "t", "share"])
def _dropout(
    x, y, passes, ids, key_low, key_high, site, threshold, a, b, d, blocks, groups, t, share,
    E: tl.constexpr, I: tl.constexpr, V: tl.constexpr, BITS: tl.constexpr, SHARED: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    DRAWS: tl.constexpr = V if I == 1 else 1  # of a group
    PER_ROW: tl.constexpr = (E * I + V - 1) // V
    program = tl.program_id(0)
    item, first, exists, offset, valid = locate(program % blocks, groups, E * I, V, GROUPS)
    item_id = tl.load(ids + item, mask=exists, other=0)
    one_pass = (groups // PER_ROW).to(tl.int64) * (E * I)
    start = program // blocks * share
    if SHARED:
        kept = tl.load(x + offset, mask=valid, other=0).to(tl.float32) * a + b
    for k in range(start, tl.minimum(start + share, t)):
        if not SHARED:
            kept = tl.load(x + k * one_pass + offset, mask=valid, other=0).to(tl.float32) * a + b
        site_pass = site | tl.load(passes + k).to(tl.int32)
        keep = draws(first // I, item_id, site_pass, key_low, key_high, DRAWS, BITS) >= threshold
        tl.store(y + k * one_pass + offset, tl.where(keep, kept, d).to(y.dtype.element_ty), mask=valid)


def dropout(
    x_sBEI: Tensor,
    masks: MaskSpec,
    affine: tuple[float, float, float],
) -> Tensor:
    """Mask the given passes of every item -> y_tBEI, contiguous, in x's dtype; the arithmetic is float32.

    x_sBEI: (s, B, E, I) float32, float16 or bfloat16 with s = 1 (one copy for all passes) or s = t; copied if it is not
    contiguous. affine (a, b, d): kept values become a x + b, dropped ones d. The masks are those of ``masks.keep_mask``, bit for
    bit. ValueError for shapes that do not fit.
    """
    check_device("dropout", x_sBEI.device)
    launch, y_tBEI = plan_dropout(x_sBEI, masks, affine)
    launch.run()
    return y_tBEI


def plan_dropout(
    x_sBEI: Tensor,
    masks: MaskSpec,
    affine: tuple[float, float, float],
) -> tuple[Launch, Tensor]:
    """The launch of ``dropout`` and the tensor that it fills."""
    check_dtype("dropout", x_sBEI)
    check_dropout(x_sBEI, masks)
    masks, rate = on_device(masks, x_sBEI.device), masks.drop_rate
    s, B, E, I = x_sBEI.shape
    t = masks.t
    x = x_sBEI.contiguous()
    y = torch.empty((t, B, E, I), dtype=x.dtype, device=x.device)
    widest = 16 // x.element_size()
    V = max(1, min(widest, triton.next_power_of_2(E) if I == 1 else I & -I))
    groups = B * triton.cdiv(E * I, V)
    blocks = triton.cdiv(groups, _GROUPS)
    # Few blocks: share the passes out over programs. Each share reads x again: 1 / share of what it writes.
    share = max(1, t * max(1, blocks) // _PROGRAMS)
    share = min(share, t) if t else 1
    a, b, d = affine
    args = {
        "x": x, "y": y, **counter_args(masks), "threshold": rate.threshold, "a": a, "b": b, "d": d,
        "blocks": blocks, "groups": groups, "t": t, "share": share,
    }  # fmt: skip
    meta = {"E": E, "I": I, "V": V, "BITS": rate.bits, "SHARED": s == 1, "GROUPS": _GROUPS}
    return Launch(_dropout, (blocks * triton.cdiv(t, share),), args, meta, num_warps=4), y
