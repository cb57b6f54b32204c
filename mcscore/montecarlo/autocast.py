"""Run products in bfloat16 where that is faster and keeps the ranking.

torch.autocast stays without effect under torch.vmap, so its rule is applied here, call by call: products take bfloat16, what needs
the range of float32 takes that, everything else what it is given.

A selection reads only the order of the scores. With T passes that order is known to a Spearman correlation of about 0.93 at
T = 50 against T = 3000 (a toy head); rounding that keeps 0.99 with the same masks is lost in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ..errors import PrecisionError
from ..kernels import backends
from ..kernels.weight_cache import made_from

ITEMS = 256  # of the first batch, on which rankings are compared
_FEWEST = 32  # with fewer items a rank correlation says little
_KEEPS = 0.99


_PRODUCTS = {
    F.linear,
    F.bilinear,
    torch.conv1d,
    torch.conv2d,
    torch.conv3d,
    torch.conv_transpose1d,
    torch.conv_transpose2d,
    torch.conv_transpose3d,
    torch.matmul,
    torch.mm,
    torch.bmm,
    torch.addmm,
    torch.baddbmm,
    torch.einsum,
    Tensor.matmul,
    Tensor.__matmul__,
    Tensor.__rmatmul__,
    Tensor.mm,
    Tensor.bmm,
    F.scaled_dot_product_attention,
}
_FLOAT32 = {
    F.softmax,
    F.log_softmax,
    F.layer_norm,
    F.group_norm,
    F.instance_norm,
    F.softplus,
    F.normalize,
    F.cosine_similarity,
    torch.softmax,
    torch.log_softmax,
    torch.logsumexp,
    torch.exp,
    torch.log,
    torch.pow,
    torch.cumsum,
    torch.prod,
    torch.norm,
    torch.cdist,
    torch.lstm,
    torch.gru,
    torch.rnn_tanh,
    torch.rnn_relu,
    Tensor.softmax,
    Tensor.log_softmax,
    Tensor.logsumexp,
    Tensor.exp,
    Tensor.log,
    Tensor.pow,
    Tensor.cumsum,
    Tensor.prod,
    Tensor.norm,
}
"""As torch.autocast has them, but for the recurrent layers, which have no bfloat16 on many processors."""


class Autocast:
    """Runs operations in bfloat16 or float32 as autocast would. Weights are converted once per scoring call."""

    def operands(self, func: Callable[..., Any], values: Any) -> Any:
        """The tensors in ``values``, however nested, in the precision of ``func``."""
        dtype = torch.bfloat16 if func in _PRODUCTS else torch.float32 if func in _FLOAT32 else None
        return values if dtype is None else tree_map_only(Tensor, lambda x: self.cast(x, dtype), values)

    def cast(self, x: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        """``x`` in ``dtype``; floating-point tensors that kernels take alone are converted."""
        if x.dtype == dtype or x.dtype not in backends.KERNEL_DTYPES:
            return x
        if not isinstance(x, nn.Parameter):
            return x.to(dtype)
        return made_from(x, dtype, lambda: x.detach().to(dtype))

    def fused(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Operands of a Linear that also drops: on a CPU float32, since its kernel multiplies nothing else."""
        dtype = torch.float32 if x.device.type == "cpu" else torch.bfloat16
        return self.cast(x, dtype), self.cast(weight, dtype), None if bias is None else self.cast(bias, dtype)


def choose(device: torch.device, scores: Callable[[bool], Tensor]) -> tuple[str, str]:
    """("bfloat16" or "", why). ``scores(in_bfloat16)`` scores the first items; hardware decides on speed, so that runs agree."""
    fast, why = _fast_bfloat16(device)
    if not fast:
        return "", why
    exact = scores(False)
    if len(exact) < _FEWEST:
        return "", f"the ranking of {len(exact)} items says too little; give a first batch of at least {_FEWEST}"
    try:
        kept = spearman(exact, scores(True))
    except PrecisionError as error:
        return "", str(error)
    verdict = f"Spearman correlation of the scores against float32 {kept:.4f} on the first {len(exact)} items"
    return ("bfloat16", verdict) if kept >= _KEEPS else ("", f"{verdict}, under {_KEEPS}")


def _fast_bfloat16(device: torch.device) -> tuple[bool, str]:
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
        return fast, "" if fast else f"{torch.cuda.get_device_name(device)} has no bfloat16 tensor cores"
    if device.type == "cpu":
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return fast, "" if fast else "this processor has no bfloat16 instructions"
    return False, f"nothing is known of bfloat16 on {device.type}"


def spearman(a: Tensor, b: Tensor) -> float:
    """Rank correlation over the items where both are numbers; tied values share their mean rank. NaN if one is constant."""
    both = a.isfinite() & b.isfinite()
    ranks = torch.stack([_ranks(a[both]), _ranks(b[both])])
    return float(torch.corrcoef(ranks)[0, 1])


def _ranks(x: Tensor) -> Tensor:
    _, inverse, counts = torch.unique(x.double(), return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1) / 2)[inverse].double()
