"""Dropout and a Linear of many outputs: masks by Triton, products by cuBLAS, in chunks that stay in the L2 cache.

    y[t, b, l, c] = bias[c] + sum_d W[c, d] * (kept(seed, site, passes[t], ids[b], l D + d) ? x[s, b, l, d] / (1 - p) : 0)

One operand of the product is masked, multiplied while it is still in the cache, and scaled when the product is done:

    features   x . m_t, t B D values of them: always possible
    weights    W . m_t, stacked to (t C, D): where all items share the masks of a pass and there are more items than outputs.
               Made once for all items; the product reads x once for all passes, and has no random numbers in it.

``linear`` writes y. ``head`` (L = 1) keeps the logits of some items, all passes, in a workspace of half the L2 cache, and
``score`` reduces them there: T B C logits never exist.

What a chunk costs at C = 1000, D = 2048, T = 20 in bfloat16, calculated, not measured, for an H100 (product 700 TFLOP/s, 3.0e13
instructions of a lane per second, 5.5 TB/s from an L2 of 50 MB, 1.5 us between two kernels):

                                                                   weights, 640 items    features, 215 items
    product        2 T C D = 82 MFLOP per item                                  75 us                  25 us
    scores         T C = 20 000 logits per item, 10.5 instructions each          4.5                    1.5
    masks          T D = 41 000 values per item, 10 instructions each            -                      3
                   or T C D = 41 M values per call, 14 us                        0.9 (of 10 000 items)  -
    between                                                                      3                      4.5
    share of the product                                                         90 %                   74 %

less uneven last waves of the product. Fewer classes make masks on features dearer: at C = 100 they cost as much as the product,
which is why up to 128 classes ``head`` draws masks on the way into its own product.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...masks import MaskSpec, Rate
from .dropout import dropout
from .score import score

_WORKSPACE = 256 << 20  # bytes at most, unless one item alone takes more
_ROWS = {True: 512, False: 2048}
"""Rows of a product, with masked weights (T C columns) and without (C), where the workspace allows: fewer would leave
multiprocessors idle, or read the weights too often."""
_TILE = 128  # rows of a product that one multiprocessor takes
_KEEP = (1.0, 0.0, 0.0)  # kept values as they are: the product is scaled
_WIDE = 1 << 22  # outputs of one pass that fill a GPU by themselves


@dataclass(frozen=True)
class Chunk:
    """How a call is cut: items at a time, with all passes, and which operand takes the masks."""

    items: int
    weights: bool  # masked, not the features


def share_masks(ids_B: Any) -> bool:
    """Do all items have one id, and therefore one mask per pass? Told by the stride, as values on a GPU are not to be waited for."""
    return isinstance(ids_B, Tensor) and ids_B.ndim == 1 and (ids_B.numel() == 1 or ids_B.stride(0) == 0)


def cut_head(T: int, B: int, C: int, D: int, itemsize: int, shared: bool, cache: int) -> Chunk:
    """The largest chunk whose logits, and dropped features if there are any, fill half of the cache.

    More if that is too few rows for a product, up to 256 MB.
    """
    weights = shared and B > C and T * C * D * itemsize <= _WORKSPACE
    held = T * C * itemsize if weights else T * (C + D) * itemsize  # of one item
    rows = 1 if weights else T  # of the product, per item
    items = max(cache // 2 // held, min(-(-_ROWS[weights] // rows), _WORKSPACE // held), 1)
    if weights and items > _TILE:
        items -= items % _TILE
    return Chunk(max(1, min(items, B)), weights)


def head(
    x_BD: Tensor,
    masks: MaskSpec,
    weight_CD: Tensor,
    bias_C: Tensor,
    scores: Sequence[str],
    likelihood: str,
    *,
    shared: bool,
    cache: int | None = None,
    errors: bool = False,
) -> dict[str, Tensor]:
    """Scores of B items, as ``head.dropout_head``, whose operands have been checked, for any number of classes.

    shared: all ids are the same. cache: bytes that chunks should stay in; default: the device's L2. Logits are rounded to
    x's dtype once. With masks on the weights a feature that is not finite makes its item NaN even where it is dropped.
    """
    (B, D), C, T = x_BD.shape, weight_CD.shape[0], masks.t
    # Rows of logits start at 16 bytes, so that they load in one go; at 4 bytes where that would pad them by much.
    even = -C % ((16 if C >= 64 else 4) // x_BD.element_size())
    weight = F.pad(weight_CD.detach(), (0, 0, 0, even))
    bias = F.pad(bias_C.detach().to(x_BD.dtype), (0, even))
    wide = C + even
    chunk = cut_head(T, B, wide, D, x_BD.element_size(), shared, cache_bytes(x_BD.device) if cache is None else cache)
    rate = masks.drop_rate
    row = wide
    if chunk.weights:
        weight = dropout(weight[None, :, :, None], masks.shared(wide), _KEEP).view(T * wide, D)
        row = T * wide + -T * wide % 8  # a product's fast kernels want its columns to start at 16 bytes, too
        weight, bias = F.pad(weight, (0, 0, 0, row - T * wide)), F.pad(bias.repeat(T), (0, row - T * wide))
    workspace = x_BD.new_empty(chunk.items * (row if chunk.weights else T * row))
    parts = []
    for lo in range(0, max(1, B), chunk.items):
        items = slice(lo, lo + chunk.items)
        x = x_BD[items].detach()
        if chunk.weights:
            logits = workspace[: len(x) * row].view(-1, row)
            multiply(x, weight, bias, rate, logits)
            logits_TBC = logits[:, : T * wide].unflatten(1, (T, wide)).transpose(0, 1)
        else:
            logits = workspace[: T * len(x) * wide].view(-1, wide)
            multiply(
                dropout(x[None, :, :, None], masks.part(items=items), _KEEP).view(-1, D), weight, bias, rate, logits
            )
            logits_TBC = logits.view(T, len(x), wide)
        parts.append(score(logits_TBC[:, :, :C], scores, likelihood, errors))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def linear(
    x_sBLD: Tensor,
    masks: MaskSpec,
    weight_CD: Tensor,
    bias_C: Tensor,
    *,
    shared: bool,
    cache: int | None = None,
) -> Tensor:
    """y_tBLC, contiguous, as ``triton_head.dropout_linear``, whose operands have been checked, for any number of outputs."""
    (s, B, L, D), C, t = x_sBLD.shape, weight_CD.shape[0], masks.t
    cache = cache_bytes(x_sBLD.device) if cache is None else cache
    x, weight, bias = x_sBLD.detach(), weight_CD.detach(), bias_C.detach().to(x_sBLD.dtype)
    y = x.new_empty((t, B, L, C))
    rate = masks.drop_rate
    size = x.element_size()
    if shared and s == 1 and L == 1 and B > C and B * C >= _WIDE:
        for k in pieces(t, cache // 2 // max(1, C * D * size)):
            stack = dropout(weight[None, :, :, None], masks.part(k).shared(C), _KEEP)
            for y_BC, masked_CD in zip(y[k].view(-1, B, C), stack.view(-1, C, D), strict=True):
                multiply(x.view(B, D), masked_CD, bias, rate, y_BC)
        return y
    # As many whole passes as the cache holds; if it does not hold one, some items of one pass.
    for k in pieces(t, cache // 2 // max(1, B * L * D * size)):
        for b in pieces(B, B if k.stop - k.start > 1 else cache // 2 // max(1, L * D * size)):
            x_s = x[:, b] if s == 1 else x[k, b]
            dropped = dropout(x_s.reshape(len(x_s), -1, L * D, 1), masks.part(k, b), _KEEP)
            multiply(dropped.view(-1, D), weight, bias, rate, y[k, b].view(-1, C))
    return y


def multiply(x_ND: Tensor, weight_CD: Tensor, bias_C: Tensor, rate: Rate, out_NC: Tensor) -> None:
    """Out = bias + x W^T / (1 - p), rounded once; float32 at the precision that PyTorch is set to."""
    torch.addmm(bias_C, x_ND, weight_CD.T, alpha=1.0 / rate.keep, out=out_NC)


def pieces(n: int, size: int) -> Iterator[slice]:
    """0..n in pieces of ``size``, at least 1."""
    size = max(1, size)
    return (slice(lo, min(lo + size, n)) for lo in range(0, n, size))


def cache_bytes(device: torch.device) -> int:
    """The L2 cache of a CUDA device; 32 MB where there is none to ask, as in Triton's interpreter."""
    return torch.cuda.get_device_properties(device).L2_cache_size if device.type == "cuda" else 32 << 20
