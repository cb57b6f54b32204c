"""What a Scorer can be given, and errors that say what to give instead."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..errors import OutputError
from ..montecarlo.ops.intercept import is_dense


def require_weights(model: nn.Module) -> None:
    """Raise ValueError if a parameter or buffer has no values yet."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if nn.parameter.is_lazy(tensor):
            raise ValueError(
                f"{name} of {type(model).__name__} is not initialized (a lazy layer): run the model once on a batch first"
            )
        if tensor.device.type == "meta":
            raise ValueError(
                f"{name} of {type(model).__name__} is on the meta device, so it has no values: load the weights first, with "
                "model.to_empty(device='cpu') and model.load_state_dict(...)"
            )


def require_one_device(model: nn.Module) -> None:
    """Raise ValueError if parameters lie on several devices."""
    first: tuple[str, torch.device] | None = None
    for name, parameter in model.named_parameters():
        first = first or (name, parameter.device)
        if parameter.device != first[1]:
            raise ValueError(
                f"{type(model).__name__} is spread over devices ({first[0]} on {first[1]}, {name} on {parameter.device}), and masks are "
                f"made on one: give Scorer(..., device='{first[1]}') to move all of it there"
            )


def check_items(items_B: Any) -> None:
    """Raise TypeError or ValueError unless these are items (B, ...), dense, in an array or tensor."""
    if not isinstance(items_B, (np.ndarray, Tensor)):
        raise TypeError(
            f"items must be a NumPy array or a tensor of shape (B, ...), got {type(items_B).__name__}; "
            "np.stack(items) or torch.stack(items) makes one"
        )
    if isinstance(items_B, Tensor):
        _check_dense(items_B, "items are")
    if items_B.ndim == 0:
        raise ValueError(
            "items must have a first dimension that counts them, got a single value; items[None] is a batch of one"
        )
    if isinstance(items_B, np.ndarray) and items_B.dtype.kind not in "biufc":
        raise TypeError(f"items must be numbers, got an array of {items_B.dtype}; items of one shape: np.stack(items)")


def check_transformed(inputs: Any, B: int) -> None:
    """Raise if ``transform`` gave a tensor that no model gets here, or dropped or added items."""
    leaves = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
    if not leaves:
        raise TypeError(
            f"transform must return a tensor, or a tuple or dict of the model's arguments with tensors in it, got {type(inputs).__name__}"
        )
    for leaf in leaves:
        _check_dense(leaf, "transform returned")
    if not any(
        B in leaf.shape or any(n and n % B == 0 for n in leaf.shape[: max(1, leaf.ndim - 1)]) for leaf in leaves
    ):
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in leaves)
        raise ValueError(
            f"transform returned {shapes} for {B} items: no dimension holds them. It must keep every item, in order; "
            "leave items out before scoring instead"
        )


def _check_dense(x: Tensor, who: str) -> None:
    if is_dense(x):
        return
    if x.is_nested:
        raise ValueError(
            f"{who} a nested tensor; pad it: torch.nested.to_padded_tensor(x, 0.0), and give a mask in a transform"
        )
    raise ValueError(f"{who} a sparse tensor ({x.layout}); x.to_dense() can be scored")


def check_rows(model: nn.Module, rows: int, B: int) -> None:
    """Raise OutputError if ``model`` gave scores of another number of items than it got."""
    if rows != B:
        raise OutputError(
            f"{type(model).__name__} returned logits of {rows} items for {B}; it must keep every item, in order"
        )


def ordinary(x: Tensor) -> Tensor:
    """``x``, copied if it was made in inference mode: such tensors count no versions, so no change of them can be noticed."""
    return x.clone() if x.is_inference() else x
