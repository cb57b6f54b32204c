"""Compare outputs of a model, and check that an output is logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from ..errors import OutputError
from .ops.intercept import is_dense


def equal_bits(one: Tensor, other: Tensor) -> bool:
    """Return whether the tensors are equal to the last bit; NaN equals NaN."""
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())


def close_to(ours: Tensor, truth: Tensor, dtype: torch.dtype) -> bool:
    """Return whether the tensors are equal up to the rounding of the same computation in other shapes in ``dtype``."""
    scale = truth.float().masked_fill(~truth.isfinite(), 0.0).abs().amax().item()
    close = max(1e-4, 8 * torch.finfo(dtype).eps)  # of the largest logit
    return ours.shape == truth.shape and torch.allclose(
        ours, truth, rtol=10 * close, atol=close * scale + 1e-6, equal_nan=True
    )


def check_output(model: nn.Module, output: Any) -> Tensor:
    """Return the output of a model if it is logits for every item. OutputError says what it is instead."""
    if not isinstance(output, Tensor):
        hint = (
            "; wrap the model in a module that returns .logits"
            if hasattr(output, "logits")
            else "; wrap the model in a module that returns one tensor"
        )
        raise OutputError(
            f"{type(model).__name__} returned {type(output).__name__}, expected a tensor of logits (B, C){hint}"
        )
    if not is_dense(output):
        raise OutputError(
            f"{type(model).__name__} returned a {'nested' if output.is_nested else 'sparse'} tensor, expected logits (B, C) as a dense "
            "one; wrap the model in a module that returns "
            + ("torch.nested.to_padded_tensor(output, 0.0)" if output.is_nested else "output.to_dense()")
        )
    if not output.is_floating_point():
        raise OutputError(
            f"{type(model).__name__} returned {output.dtype}, expected logits; return them before the argmax"
        )
    if output.ndim < 2:
        raise OutputError(
            f"{type(model).__name__} returned shape {tuple(output.shape)}, expected (B, C) or dense (B, C, H, W); "
            "for one output per item return (B, 1), e.g. x.unsqueeze(-1), with likelihood bernoulli or gaussian"
        )
    return output


def form_of(inputs: Any, ids_B: Tensor) -> tuple[Any, ...]:
    """What must be the same for a recorded step to run again: shapes, dtypes and strides, and other arguments as they are."""
    leaves, spec = tree_flatten(inputs)
    parts = ((leaf.shape, leaf.dtype, leaf.stride()) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
    return (*parts, spec, ids_B.shape)
