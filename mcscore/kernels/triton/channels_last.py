"""Dropout of images in channels-last format, in that format.

Mask elements are numbered as the item's values stand in (C, H, W), and lie otherwise in memory: neighbors in memory, channels of one
pixel, are H W elements apart, each in a Philox block of its own. So the masks are packed first, in their own order, 1/16 of what a
16-bit image takes, and the tiles of 32 pixels by 64 channels that a program drops look them up: from L1, as one word has the bits of a
channel's 32 pixels. Without this the image is copied to the usual format and back: on an H100 those copies were half the time of
a ResNet-50 with dropout in ten blocks.
"""

# Kernels have no Python types: Triton infers them.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...masks import MaskSpec
from .launch import Launch, check_device, check_dtype
from .packed_mask import plan_packed_mask

_PIXELS, _CHANNELS = 32, 64  # of a tile, of 4 warps


@triton.jit(do_not_specialize=["B"])
def _dropout_images(
    x, y, packed, a, b, d, B,
    P: tl.constexpr, C: tl.constexpr, WORDS: tl.constexpr, WHOLE: tl.constexpr, SHARED: tl.constexpr,
    PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    ACROSS: tl.constexpr = (C + CHANNELS - 1) // CHANNELS
    TILES: tl.constexpr = (P + PIXELS - 1) // PIXELS * ACROSS
    program = tl.program_id(0).to(tl.int64)
    image, tile = program // TILES, (program % TILES).to(tl.int32)
    pixel = (tile // ACROSS * PIXELS + tl.arange(0, PIXELS))[:, None]
    channel = (tile % ACROSS * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    inside = (pixel < P) & (channel < C)
    at = pixel * C + channel
    source = image % B if SHARED else image
    value = tl.load(x + source * (P * C) + at, mask=inside, other=0).to(tl.float32) * a + b
    element = channel + pixel * 0 if WHOLE else channel * P + pixel
    word = tl.load(packed + image * WORDS + element // 32, mask=inside, other=0)
    kept = (word >> (element % 32)) & 1
    tl.store(y + image * (P * C) + at, tl.where(kept != 0, value, d).to(y.dtype.element_ty), mask=inside)


def dropout_images(x_sBCHW: Tensor, masks: MaskSpec, affine: tuple[float, float, float], whole: bool) -> Tensor:
    """Mask the given passes of every image -> y_tBCHW in channels-last format, in x's dtype; the arithmetic is float32.

    x_sBCHW: (s, B, C, H, W) in channels-last format, s = 1 or t; float32, float16 or bfloat16. whole: one mask element per channel,
    else one per value. The masks are those of ``masks.keep_mask``, bit for bit.
    """
    check_device("dropout_images", x_sBCHW.device)
    launches, y_tBCHW = plan_dropout_images(x_sBCHW, masks, affine, whole)
    for launch in launches:
        launch.run()
    return y_tBCHW


def plan_dropout_images(
    x_sBCHW: Tensor, masks: MaskSpec, affine: tuple[float, float, float], whole: bool
) -> tuple[list[Launch], Tensor]:
    """The launches of ``dropout_images``, and the tensor that they fill."""
    check_dtype("dropout_images", x_sBCHW)
    s, B, C, H, W = x_sBCHW.shape
    if s not in (1, masks.t) or B != masks.B:
        raise ValueError(
            f"dropout_images: x is {tuple(x_sBCHW.shape)}, expected (s, B, C, H, W) with s = 1 or the number of passes ({masks.t}) "
            f"and B the number of ids ({masks.B})"
        )
    x_sBHWC = x_sBCHW.permute(0, 1, 3, 4, 2).contiguous()  # as it lies, so nothing moves
    first, packed = plan_packed_mask(masks, C if whole else C * H * W, x_sBCHW.device)
    y_tBHWC = torch.empty((masks.t, B, H, W, C), dtype=x_sBCHW.dtype, device=x_sBCHW.device)
    a, b, d = affine
    args = {"x": x_sBHWC, "y": y_tBHWC, "packed": packed, "a": a, "b": b, "d": d, "B": B}
    meta = {"P": H * W, "C": C, "WORDS": packed.shape[2], "WHOLE": whole, "SHARED": s == 1}
    tiles = triton.cdiv(H * W, _PIXELS) * triton.cdiv(C, _CHANNELS)
    sizes = {"PIXELS": _PIXELS, "CHANNELS": _CHANNELS}
    second = Launch(_dropout_images, (masks.t * B * tiles,), args, meta | sizes, num_warps=4)
    return [first, second], y_tBHWC.permute(0, 1, 4, 2, 3)
