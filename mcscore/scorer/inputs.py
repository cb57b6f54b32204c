"""Conversion of a Scorer's items to its model's input, and checks of models, items and ids."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.utils._pytree import tree_leaves, tree_map_only

from ..errors import OutputError
from ..kernels import backends
from ..montecarlo.ops.intercept import is_dense
from ..montecarlo.ops.uncompiled import is_compiled
from .options import Execution

Items = npt.NDArray[Any] | Tensor
MeanStd = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class ModelInputs:
    """Convert items as the pool stores them to the input of a model.

    Without a transform, uint8 becomes float / 255 and uint16 float / 65535, normalized by mean and std if they are set. Other
    floats are cast to the dtype of the model's parameters, and other integers are passed unchanged.
    """

    device: torch.device
    dtype: torch.dtype
    transform: Callable[[Tensor], Any] | None = None
    channels_last: bool = False
    mean_std: MeanStd | None = None

    def __call__(self, items_B: Items) -> Any:
        """Convert a batch, on the model's device. TypeError or ValueError if ``transform`` returns no usable input."""
        inputs = self._transformed(items_B)
        if not self.channels_last:
            return inputs
        return tree_map_only(
            Tensor, lambda v: v.contiguous(memory_format=torch.channels_last) if v.ndim == 4 else v, inputs
        )

    def _transformed(self, items_B: Items) -> Any:
        x = torch.from_numpy(np.ascontiguousarray(items_B)) if isinstance(items_B, np.ndarray) else items_B
        x = ordinary(x).to(self.device)
        if self.transform is not None:
            inputs = tree_map_only(Tensor, lambda v: ordinary(v).to(self.device), self.transform(x))
            check_transformed(inputs, len(x))
            return inputs
        if x.is_complex():
            raise ValueError(
                f"items are {x.dtype}, and a model gets complex numbers by a transform alone: transform=torch.view_as_real "
                "gives real and imaginary parts in a last dimension of 2, transform=lambda x: x leaves them complex"
            )
        if x.dtype in (torch.uint8, torch.uint16):
            # In place: a new tensor's page faults took three times as long.
            if x.dtype == torch.uint8:
                x = x.to(self.dtype).div_(255)
            else:  # 65535 is more than float16 holds
                x = x.to(torch.promote_types(self.dtype, torch.float32)).div_(65535).to(self.dtype)
            if self._mean_and_std is not None:
                mean, std = (part.reshape(1, -1, *[1] * (x.ndim - 2)) for part in self._mean_and_std)
                x.sub_(mean).div_(std)
            return x
        return x.to(self.dtype) if x.is_floating_point() else x

    @functools.cached_property
    def _mean_and_std(self) -> tuple[Tensor, Tensor] | None:
        """Made once: a copy from the host makes it wait for the device."""
        if self.mean_std is None:
            return None
        mean, std = (torch.tensor(part, dtype=self.dtype, device=self.device) for part in self.mean_std)
        return mean, std


def checked_ids(items_B: Items, ids_B: npt.ArrayLike | Tensor | None, device: torch.device) -> Tensor:
    """Convert ids to (B,) int64 on the device; None: 0..B-1. TypeError or ValueError unless each item has an id >= 0."""
    check_items(items_B)
    if ids_B is None:
        return torch.arange(len(items_B), device=device)
    ids = torch.as_tensor(ids_B if isinstance(ids_B, Tensor) else np.asarray(ids_B))
    if ids.ndim != 1:
        raise ValueError(f"ids must be a 1-d array, one id per item, got shape {tuple(ids.shape)}")
    if ids.numel() and (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool):
        raise ValueError(f"ids must be integers, got {ids.dtype}; if they are whole numbers: ids.astype(np.int64)")
    if len(ids) != len(items_B):
        raise ValueError(f"{len(items_B)} items but {len(ids)} ids")
    ids = ordinary(ids).to(torch.int64)
    # On a GPU they are the caller's word: looking would wait for it.
    if ids.device.type == "cpu" and ids.numel() and int(ids.min()) < 0:
        raise ValueError(f"ids must not be negative, got {int(ids.min())}")
    return ids.to(device)


def as_compiled(model: nn.Module, execution: Execution) -> Execution:
    """Return ``execution``, with ``compile`` if torch.compile was called on the model or a part of it, which a message says.

    What torch.compile made of the model is of no use: it has the dropout of evaluation, none, compiled in.
    """
    if execution.compile or not any(map(is_compiled, model.modules())):
        return execution
    backends.warn_once(
        f"{type(getattr(model, '_orig_mod', model)).__name__} is given under torch.compile: its passes run as with "
        "Execution(compile=True), compiled by torch.compile's own defaults"
    )
    return dataclasses.replace(execution, compile=True)


def scorable(model: nn.Module) -> nn.Module:
    """Return the module to score: ``model``, or the module inside torch.compile's wrapper, whose dropout Python can see.

    Raises:
        TypeError: ``model`` is not a module, its dropout is hidden from Python (scripted, exported), or torch.compile's wrapper
            has hooks of its own.
        ValueError: a weight has no values.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError("a scripted module hides its dropout from Python; score the nn.Module it was scripted from")
    if isinstance(model, fx.GraphModule) and any(isinstance(n.target, OpOverload) for n in model.graph.nodes):
        raise TypeError("an exported graph has its dropout frozen in; score the nn.Module it was exported from")
    if hasattr(model, "_orig_mod"):
        if model._forward_hooks or model._forward_pre_hooks:
            raise TypeError(
                "torch.compile's wrapper has forward hooks, which would not run: register them on the module inside"
            )
        model = cast(nn.Module, model._orig_mod)
    require_weights(model)
    return model


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
    """Raise TypeError or ValueError unless ``items_B`` is a dense array or tensor (B, ...) of numbers."""
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
    """Raise TypeError or ValueError if ``transform`` returned no dense tensor, or dropped or added items."""
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
    """Raise OutputError if ``model`` returned logits for a number of items other than B."""
    if rows != B:
        raise OutputError(
            f"{type(model).__name__} returned logits of {rows} items for {B}; it must keep every item, in order"
        )


def rows(items_B: Items, which: npt.NDArray[np.int64]) -> Items:
    """Copy some items. PyTorch cannot index uint16 on a GPU; the bits of an int16 are the same."""
    if isinstance(items_B, np.ndarray):
        return items_B[which]
    at = torch.from_numpy(which).to(items_B.device)
    if items_B.dtype != torch.uint16:
        return items_B[at]
    return items_B.view(torch.int16)[at].view(torch.uint16)


def ordinary(x: Tensor) -> Tensor:
    """Copy ``x`` if it was made in inference mode: such tensors have no version counter, so changes to them go unnoticed."""
    return x.clone() if x.is_inference() else x
