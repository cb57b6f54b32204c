"""Functions as operators of PyTorch's dispatcher, which vmap, a compiler and fake tensors see whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def operator(name: str, fake: Callable[..., Tensor]) -> Callable[[Callable[..., Tensor]], Any]:
    """Decorate a function of tensors, annotated, that changes none of its arguments and returns a new tensor.

    ``torch.library.custom_op`` would do the same; but its first call imports torch._dynamo, 1.5 s of every process that scores.

    Args:
        name: "mcscore::NAME".
        fake: for the same arguments, a tensor like the result, of any values.

    Returns:
        The ``torch._ops.OpOverload``, to call and for ``torch.library.register_vmap``.
    """

    def register(function: Callable[..., Tensor]) -> Any:
        schema = torch.library.infer_schema(function, mutates_args=())
        torch.library.define(name, schema, tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.impl(name, "CompositeExplicitAutograd", function)
        torch.library.register_fake(name, fake)
        namespace, _, own = name.partition("::")
        return getattr(getattr(torch.ops, namespace), own).default

    return register
