"""Scores of a head of many classes: masks by Triton, products by cuBLAS, some items at a time with all their passes.

    logits[t, b, c] = bias[c] + sum_d W[c, d] * (kept(seed, site, passes[t], ids[b], d) ? x[b, d] / (1 - p) : 0)

One operand of the product is masked as a whole, and the product scaled:

    features   x . m_t, t B D values of them: always possible
    weights    W . m_t, stacked to (t C, D), made once per call: where all items share the masks of a pass. The product reads x
               once for all passes, and has no random numbers in it

The logits of a chunk of items, and its dropped features if there are any, lie in a workspace of up to 512 MB, where ``score``
reduces them: T B C logits never exist. A chunk of half the L2 cache (41 items at C = 1000, D = 2048, T = 100) saved traffic and
lost more: on an H100 a call reached 21 % of the rate of a large product in device time, 10 % with the host's, as ``score`` has one
warp per item and waits for T rows one after the other.

Microseconds per item at C = 1000, D = 2048, T = 100 in bfloat16, calculated, not measured, for an H100 (measured there: products
789 TFLOP/s, memory 3.0 TB/s):

                                                              weights, B = 16384    features
    product        2 T C D = 410 MFLOP                                      0.52        0.52
    masks          T D dropped features, written                               -        0.14
                   or T C D masked weights per call, written               0.008           -
    scores         T C logits, read                                         0.07        0.07
    share of the product                                                    87 %        72 %

if the product hides what it reads and writes behind its arithmetic; 78 % and 56 % if it hides nothing. Fewer classes make masks on
features dearer: at C = 100 writing them takes three times as long as the product, which is why up to 128 classes ``head`` draws
masks on the way into its own product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...masks import MaskSpec, Rate
from .dropout import dropout
from .score import score

_WORKSPACE = 512 << 20  # bytes of logits and dropped features, unless the GPU is small or one item alone takes more
_MASKED_WEIGHTS = 1 << 30  # bytes
_ROWS = 256  # items of a chunk below which a product waits for its masked weights: each is read once per chunk
_TILE = 128  # rows of a product that one multiprocessor takes
_KEEP = (1.0, 0.0, 0.0)  # kept values as they are: the product is scaled


@dataclass(frozen=True)
class Chunk:
    """How a call is cut: items at a time, with all passes, and which operand takes the masks."""

    items: int
    weights: bool  # masked, not the features


def share_masks(ids_B: Any) -> bool:
    """Do all items have one id, and therefore one mask per pass? Told by the stride, as values on a GPU are not to be waited for."""
    return isinstance(ids_B, Tensor) and ids_B.ndim == 1 and (ids_B.numel() == 1 or ids_B.stride(0) == 0)


def cut_head(T: int, B: int, C: int, D: int, itemsize: int, shared: bool, workspace: int) -> Chunk:
    """Chunks of equal size, as few as the workspace (bytes) allows.

    Which operand is masked does not depend on B: an item gets the same formula in any batch.
    """
    logits = T * C * itemsize  # of one item
    weights = shared and B > 0 and logits * D <= min(_MASKED_WEIGHTS, 2 * workspace) and logits * _ROWS <= workspace
    most = max(1, workspace // (logits if weights else logits + T * D * itemsize))
    items = -(-B // -(-B // most)) if B else 1
    if weights and items < B:
        items = min(items + -items % _TILE, most)
    return Chunk(items, weights)


def head(
    x_BD: Tensor,
    masks: MaskSpec,
    weight_CD: Tensor,
    bias_C: Tensor,
    scores: Sequence[str],
    likelihood: str,
    *,
    shared: bool,
    workspace: int | None = None,
    errors: bool = False,
) -> dict[str, Tensor]:
    """Scores of B items, as ``head.dropout_head``, whose operands have been checked, for any number of classes.

    shared: all ids are the same. workspace: bytes; default: 512 MB, at most a sixteenth of the GPU's memory. Logits are rounded to
    x's dtype once. With masks on the weights a feature that is not finite makes its item NaN even where it is dropped.
    """
    (B, D), C, T = x_BD.shape, weight_CD.shape[0], masks.t
    even = -C % (
        16 // x_BD.element_size()
    )  # more classes: rows of logits start at 16 bytes, so that they load in one go
    weight, bias = weight_CD.detach(), bias_C.detach().to(x_BD.dtype)
    if even:
        weight, bias = F.pad(weight, (0, 0, 0, even)), F.pad(bias, (0, even))
    wide = C + even
    size = workspace_bytes(x_BD.device) if workspace is None else workspace
    chunk = cut_head(T, B, wide, D, x_BD.element_size(), shared, size)
    if chunk.weights:  # the masks of one id for all their rows
        weight = dropout(weight[None, :, :, None], masks.shared(wide), _KEEP).view(T * wide, D)
        bias = bias.repeat(T)
    space = x_BD.new_empty(chunk.items * T * wide)
    parts = []
    for lo in range(0, max(1, B), chunk.items):
        items = slice(lo, lo + chunk.items)
        x = x_BD[items].detach()
        logits = space[: len(x) * T * wide]
        if chunk.weights:
            multiply(x, weight, bias, masks.drop_rate, logits.view(-1, T * wide))
            logits_TBC = logits.view(-1, T, wide).transpose(0, 1)
        else:
            dropped = dropout(x[None, :, :, None], masks.part(items=items), _KEEP).view(-1, D)
            multiply(dropped, weight, bias, masks.drop_rate, logits.view(-1, wide))
            logits_TBC = logits.view(T, -1, wide)
        parts.append(score(logits_TBC[:, :, :C], scores, likelihood, errors))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]} if len(parts) > 1 else parts[0]


def multiply(x_ND: Tensor, weight_CD: Tensor, bias_C: Tensor, rate: Rate, out_NC: Tensor) -> None:
    """Out = bias + x W^T / (1 - p), rounded once; float32 at the precision that PyTorch is set to."""
    torch.addmm(bias_C, x_ND, weight_CD.T, alpha=1.0 / rate.keep, out=out_NC)


def workspace_bytes(device: torch.device) -> int:
    """512 MB, at most a sixteenth of the memory of a CUDA device."""
    if device.type != "cuda":  # Triton's interpreter
        return _WORKSPACE
    return min(_WORKSPACE, torch.cuda.get_device_properties(device).total_memory // 16)
