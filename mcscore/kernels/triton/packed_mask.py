"""Keep masks of one bit per element: a thread makes the byte of eight elements from one Philox block."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...masks import MaskSpec
from .dropout import locate
from .launch import Launch, check_device
from .philox import counter_args, draws, on_device

_GROUPS = 256  # bytes per program of 4 warps, as in ``dropout``


@triton.jit(do_not_specialize=["key_low", "key_high", "site", "threshold", "blocks", "groups"])
def _packed_mask(
    out, passes, ids, key_low, key_high, site, threshold, blocks, groups,
    BYTES: tl.constexpr, BITS: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    item, first, exists, offset, valid = locate(program % blocks, groups, BYTES, 1, GROUPS)
    item_id = tl.load(ids + item, mask=exists, other=0)
    k = program // blocks
    site_pass = site | tl.load(passes + k).to(tl.int32)
    keep = draws(first * 8, item_id, site_pass, key_low, key_high, 8, BITS) >= threshold
    byte = tl.sum(keep.to(tl.int32) << tl.arange(0, 8)[None, :], 1)
    tl.store(out + k * groups.to(tl.int64) + offset, byte.to(tl.uint8)[:, None], mask=valid)


def packed_mask(masks: MaskSpec, elements: int, device: torch.device | str = "cuda") -> Tensor:
    """Keep bits (t, B, ceil(elements / 8)) uint8 on the device, see ``kernels.packed_mask``."""
    check_device("packed_mask", torch.device(device))
    launch, packed_tBN = plan_packed_mask(masks, elements, device)
    launch.run()
    return packed_tBN


def plan_packed_mask(masks: MaskSpec, elements: int, device: torch.device | str) -> tuple[Launch, Tensor]:
    """The launch of ``packed_mask`` and the tensor that it fills."""
    masks, rate = on_device(masks, device), masks.drop_rate
    size = triton.cdiv(elements, 8)
    packed = torch.empty((masks.t, masks.B, size), dtype=torch.uint8, device=device)
    groups = masks.B * size
    blocks = triton.cdiv(groups, _GROUPS)
    args = {"out": packed, **counter_args(masks), "threshold": rate.threshold, "blocks": blocks, "groups": groups}
    meta = {"BYTES": size, "BITS": rate.bits, "GROUPS": _GROUPS}
    return Launch(_packed_mask, (blocks * masks.t,), args, meta, num_warps=4), packed
