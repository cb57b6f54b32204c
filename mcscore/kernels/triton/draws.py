"""Random numbers in Triton, uniform or normal: (t, B, E), each a pure function of (seed, site, pass, id, element).

A thread owns the four numbers of a Philox block and writes them at once: 16 bytes in float32, 8 in 16-bit floats. Rows of E
numbers that do not divide by 4 get narrower stores. What the numbers are: ``mcscore.masks``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...masks import MaskSpec
from ..philox import UNIFORM_BITS
from .dropout import locate
from .launch import Launch, check_device
from .philox import counter_args, on_device, philox4x32

_GROUPS = 256  # blocks per program of 4 warps: two per thread, so that two Philox chains overlap


@triton.jit
def _box_muller(w0, w1):
    """Two normal numbers of two uint32 words. tl.sin and tl.cos would bring the slow path for large angles along."""
    # 65536 times the high half is exact, so that the sum is w0 + 1, rounded once.
    high, low = (w0 >> 16).to(tl.int32).to(tl.float32), (w0 & 0xFFFF).to(tl.int32).to(tl.float32) + 1.0
    radius = tl.sqrt(tl.log((high * 65536.0 + low) * 2.3283064365386963e-10) * -2.0)
    quarter = tl.add(w1, 0x20000000, sanitize_overflow=False) >> 30  # mod 4
    rest = ((w1 << 2).to(tl.int32, bitcast=True) >> 2).to(tl.float32) * 1.46291807926715968e-9  # 2 pi / 2^32
    x2 = rest * rest
    sin = ((-1.9515295891e-4 * x2 + 8.3321608736e-3) * x2 - 1.6666654611e-1) * x2 * rest + rest  # Cephes' sinf and cosf
    cos = ((2.443315711809948e-5 * x2 - 1.388731625493765e-3) * x2 + 4.166664568298827e-2) * x2 * x2 + (1.0 - 0.5 * x2)
    odd, back = quarter & 1, quarter >> 1
    first = tl.where(odd != 0, sin, cos) * tl.where((odd ^ back) != 0, -radius, radius)
    second = tl.where(odd != 0, cos, sin) * tl.where(back != 0, -radius, radius)
    return first, second


@triton.jit(do_not_specialize=["key_low", "key_high", "site", "blocks", "groups"])
def _draw(
    out, passes, ids, key_low, key_high, site, blocks, groups,
    E: tl.constexpr, BITS: tl.constexpr, NORMAL: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    PER_ROW: tl.constexpr = (E + 3) // 4
    program = tl.program_id(0)
    item, first, exists, offset, valid = locate(program % blocks, groups, E, 4, GROUPS)
    item_id = tl.load(ids + item, mask=exists, other=0)
    k = program // blocks
    site_pass = site | tl.load(passes + k).to(tl.int32)
    block = (first // 4).to(tl.uint32)
    zero = block * 0
    w0, w1, w2, w3 = philox4x32(
        block,
        item_id.to(tl.uint32),
        (item_id >> 32).to(tl.uint32),
        zero + site_pass.to(tl.uint32),
        zero + key_low.to(tl.uint32),
        zero + key_high.to(tl.uint32),
    )
    if NORMAL:
        a, b = _box_muller(w0, w1)
        c, d = _box_muller(w2, w3)
    else:
        a = (w0 >> (32 - BITS)).to(tl.int32).to(tl.float32) * (1.0 / (1 << BITS))
        b = (w1 >> (32 - BITS)).to(tl.int32).to(tl.float32) * (1.0 / (1 << BITS))
        c = (w2 >> (32 - BITS)).to(tl.int32).to(tl.float32) * (1.0 / (1 << BITS))
        d = (w3 >> (32 - BITS)).to(tl.int32).to(tl.float32) * (1.0 / (1 << BITS))
    lane = tl.arange(0, 4)[None, :]
    even, odd = tl.where(lane < 2, a[:, None], c[:, None]), tl.where(lane < 2, b[:, None], d[:, None])
    numbers = tl.where(lane % 2 == 0, even, odd)
    one_pass = (groups // PER_ROW).to(tl.int64) * E
    tl.store(out + k * one_pass + offset, numbers.to(out.dtype.element_ty), mask=valid)


def draw(
    law: str, masks: MaskSpec, elements: int, dtype: torch.dtype,
    device: torch.device | str = "cuda",
) -> Tensor:  # fmt: skip
    """Random numbers (t, B, elements) of ``law`` "uniform" or "normal", float32, float16 or bfloat16, on the device."""
    check_device("draw", torch.device(device))
    launch, out_tBE = plan_draw(law, masks, elements, dtype, device)
    launch.run()
    return out_tBE


def plan_draw(
    law: str, masks: MaskSpec, elements: int, dtype: torch.dtype,
    device: torch.device | str,
) -> tuple[Launch, Tensor]:  # fmt: skip
    """The launch of ``draw`` and the tensor that it fills."""
    masks = on_device(masks, device)
    out = torch.empty((masks.t, masks.B, elements), dtype=dtype, device=device)
    groups = masks.B * triton.cdiv(elements, 4)
    blocks = triton.cdiv(groups, _GROUPS)
    args = {"out": out, **counter_args(masks), "blocks": blocks, "groups": groups}
    meta = {"E": elements, "BITS": UNIFORM_BITS[dtype], "NORMAL": law == "normal", "GROUPS": _GROUPS}
    return Launch(_draw, (blocks * masks.t,), args, meta, num_warps=4), out
