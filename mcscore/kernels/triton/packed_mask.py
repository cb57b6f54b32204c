"""Keep masks of one bit per element: a thread makes the word of 32 elements, from up to four Philox blocks."""

# Kernels have no Python types: Triton infers them.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...masks import MaskSpec
from .dropout import locate
from .launch import Launch, check_device
from .philox import counter_args, on_device, philox4x32

_GROUPS = 256  # words per program of 4 warps: two per thread


@triton.jit
def _kept(word, threshold, BITS: tl.constexpr):
    """The draws in a word of a block -> their keep bits, in order."""
    kept = word * 0
    for k in tl.static_range(32 // BITS):
        draw = (word >> (k * BITS)) & ((1 << BITS) - 1)
        kept |= (draw >= threshold).to(tl.uint32) << k
    return kept


@triton.jit(do_not_specialize=["key_low", "key_high", "site", "threshold", "blocks", "groups"])
def _packed_mask(
    out, passes, ids, key_low, key_high, site, threshold, blocks, groups,
    WORDS: tl.constexpr, BITS: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    item, first, exists, offset, valid = locate(program % blocks, groups, WORDS, 1, GROUPS)
    item_id = tl.load(ids + item, mask=exists, other=0)
    k = program // blocks
    site_pass = site | tl.load(passes + k).to(tl.int32)
    at = first.to(tl.uint32)
    zero = at * 0
    limit = threshold.to(tl.uint32)
    packed = zero
    BLOCKS: tl.constexpr = (32 * BITS + 127) // 128  # of 128 bits, that a word's draws lie in
    PER_WORD: tl.constexpr = 32 // BITS
    for j in tl.static_range(BLOCKS):
        w0, w1, w2, w3 = philox4x32(
            at * BLOCKS + j if BITS > 1 else at // 4,
            item_id.to(tl.uint32),
            (item_id >> 32).to(tl.uint32),
            zero + site_pass.to(tl.uint32),
            zero + key_low.to(tl.uint32),
            zero + key_high.to(tl.uint32),
        )
        if BITS == 1:  # a bit is kept if it is 1: the word is one of the block's
            packed = tl.where(at % 4 < 2, tl.where(at % 4 == 0, w0, w1), tl.where(at % 4 == 2, w2, w3))
        else:
            packed |= _kept(w0, limit, BITS) << (j * 4 * PER_WORD)
            packed |= _kept(w1, limit, BITS) << (j * 4 * PER_WORD + PER_WORD)
            packed |= _kept(w2, limit, BITS) << (j * 4 * PER_WORD + 2 * PER_WORD)
            packed |= _kept(w3, limit, BITS) << (j * 4 * PER_WORD + 3 * PER_WORD)
    words = packed.to(tl.int32, bitcast=True)[:, None]
    tl.store(out + k * groups.to(tl.int64) + offset, words, mask=valid)


def packed_mask(masks: MaskSpec, elements: int, device: torch.device | str = "cuda") -> Tensor:
    """Keep bits (t, B, ceil(elements / 32)) int32 on the device, see ``kernels.packed_mask``."""
    check_device("packed_mask", torch.device(device))
    launch, packed_tBN = plan_packed_mask(masks, elements, device)
    launch.run()
    return packed_tBN


def plan_packed_mask(masks: MaskSpec, elements: int, device: torch.device | str) -> tuple[Launch, Tensor]:
    """The launch of ``packed_mask`` and the tensor that it fills."""
    masks, rate = on_device(masks, device), masks.drop_rate
    size = triton.cdiv(elements, 32)
    packed = torch.empty((masks.t, masks.B, size), dtype=torch.int32, device=device)
    groups = masks.B * size
    blocks = triton.cdiv(groups, _GROUPS)
    args = {"out": packed, **counter_args(masks), "threshold": rate.threshold, "blocks": blocks, "groups": groups}
    meta = {"WORDS": size, "BITS": rate.bits, "GROUPS": _GROUPS}
    return Launch(_packed_mask, (blocks * masks.t,), args, meta, num_warps=4), packed
