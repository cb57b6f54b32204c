"""The random words of ``mcscore.masks`` in plain PyTorch: what every kernel without machine code of its own computes with."""

from __future__ import annotations

import torch
from torch import Tensor

from ..masks import PHILOX_ROUNDS, MaskSpec

UNIFORM_BITS = {torch.float64: 32, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}
"""Random bits of a uniform number: what its dtype holds exactly just below 1, or all there are."""

_M0, _M1 = 0xD2511F53, 0xCD9E8D57  # Philox4x32 multipliers and Weyl increments (Salmon et al. 2011, Random123)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_U32 = 0xFFFFFFFF


def random_blocks(masks: MaskSpec, blocks: int) -> Tensor:
    """Blocks of four 32-bit words, (t, B, blocks, 4) int64 on the device of the ids, by Philox4x32-7.

    Products wrap modulo 2^64, which is what a 32 x 32 multiply needs.
    """
    masks.check_values()
    seed, site, passes_t, ids_B = masks.seed, masks.site, masks.passes, masks.ids
    device = ids_B.device
    shape = (passes_t.numel(), ids_B.numel(), blocks)
    c0 = torch.arange(blocks, device=device).expand(shape)
    c1 = (ids_B & _U32)[None, :, None].expand(shape)
    c2 = ((ids_B >> 32) & _U32)[None, :, None].expand(shape)
    c3 = ((site << 16) | passes_t.to(device=device, dtype=torch.int64))[:, None, None].expand(shape)
    k0, k1 = seed & _U32, (seed >> 32) & _U32
    for _ in range(PHILOX_ROUNDS):
        p0, p1 = c0 * _M0, c2 * _M1
        c0, c1, c2, c3 = ((p1 >> 32) & _U32) ^ c1 ^ k0, p1 & _U32, ((p0 >> 32) & _U32) ^ c3 ^ k1, p0 & _U32
        k0, k1 = (k0 + _W0) & _U32, (k1 + _W1) & _U32
    return torch.stack((c0, c1, c2, c3), dim=-1)
