"""Entropies of items given the classes of others: csrc/joint.h."""

from __future__ import annotations

import torch
from torch import Tensor

from .extension import loaded
from .memory import on_cpu
from .threads import split


def conditional_entropy(p_MTC: Tensor, rows_ST: Tensor, weights_S: Tensor) -> tuple[Tensor, Tensor]:
    """``mcscore.kernels.joint.conditional_entropy`` of arrays on the CPU, computed in float32."""
    p, rows, weights = (
        on_cpu(x, what).float().contiguous()
        for x, what in ((p_MTC, "probabilities"), (rows_ST, "rows"), (weights_S, "weights"))
    )
    (M, T, C), S = p.shape, len(rows)
    block = 2 * loaded().lanes()
    blocks = -(-S // block)
    pad = blocks * block - S
    packed = torch.nn.functional.pad(rows, (0, 0, 0, pad)).view(blocks, block, T).transpose(1, 2).contiguous()
    weights = torch.nn.functional.pad(weights, (0, pad))
    mean_M, square_M = torch.empty(M, dtype=torch.float64), torch.empty(M, dtype=torch.float64)
    arrays = [x.data_ptr() for x in (p, packed, weights, mean_M, square_M)]
    split(M, S * T * max(1, C // 8), lambda *items: loaded().conditional_entropy(*arrays, (M, T, C, blocks), items))
    return mean_M, square_M
