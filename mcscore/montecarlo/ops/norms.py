"""Normalization under vmap in one operation.

PyTorch takes it apart there: normalize, then scale, then shift, each through memory, and batch norm first copies the passes into the
channels and then back. In evaluation a norm is a function of each item alone, so passes and items are simply more items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...kernels.operator import operator


def batch_norm(x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Batch norm by running statistics."""
    return F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)


def group_norm(x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Group norm."""
    return F.group_norm(x, groups, weight, bias, eps)


def layer_norm(x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Layer norm."""
    return F.layer_norm(x, list(shape), weight, bias, eps)


def _rule(plain: Callable[..., Tensor], flat: bool) -> Callable[..., tuple[Tensor, int]]:
    def rule(info: Any, in_dims: Sequence[Any], x: Tensor, *others: Any) -> tuple[Tensor, int]:
        if in_dims[0] is None or any(dim is not None for dim in in_dims[1:] if not isinstance(dim, (tuple, list))):
            raise ValueError("normalization under vmap: the input alone may differ between passes")
        x = x.movedim(in_dims[0], 0)
        if not flat:
            return plain(x, *others), 0
        return plain(x.flatten(0, 1), *others).unflatten(0, (info.batch_size, -1)), 0

    return rule


_OPERATORS = {
    plain: operator(f"mcscore::{plain.__name__}", lambda x, *_: torch.empty_like(x))(plain)
    for plain in (batch_norm, group_norm, layer_norm)
}
for _plain, _operator in _OPERATORS.items():
    torch.library.register_vmap(_operator, _rule(_plain, flat=_plain is not layer_norm))

PLAIN: dict[Any, Callable[..., Tensor]] = {operator: plain for plain, operator in _OPERATORS.items()}
"""The operators as PyTorch's own, for a compiler."""


def under_vmap(func: Callable[..., Any], bound: Mapping[str, Any]) -> Tensor | None:
    """Normalize as ``func`` with these arguments does in evaluation, if it is a norm of an input that vmap maps over; else None."""
    batched = torch._C._functorch.is_batchedtensor
    x = bound.get("input")
    if func not in _NORMS or not isinstance(x, Tensor) or not batched(x):
        return None
    weight, bias, eps = bound.get("weight"), bound.get("bias"), bound.get("eps", 1e-5)
    statistics = bound.get("running_mean"), bound.get("running_var")
    if any(isinstance(each, Tensor) and batched(each) for each in (weight, bias, *statistics)):
        return None
    if func is F.layer_norm:
        return _OPERATORS[layer_norm](x, list(bound["normalized_shape"]), weight, bias, eps)
    if func is F.group_norm:
        return _OPERATORS[group_norm](x, bound["num_groups"], weight, bias, eps)
    mean, var = statistics
    if mean is None or var is None:  # statistics of the batch: not a function of each item alone
        return None
    return _OPERATORS[batch_norm](x, mean, var, weight, bias, eps)


_NORMS = (F.batch_norm, F.group_norm, F.layer_norm)
