"""Embeddings of items: the input of the last Linear, or the output of a named module."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..errors import DrawError
from .guard.state import evaluating
from .masked_forward import deterministic_call
from .ops.dropout import ConstantSource
from .ops.intercept import Call, Interceptor, call_model


def embeddings(
    model: nn.Module, inputs: Any, name: str | None, constants: ConstantSource | None, written: Sequence[str] = ()
) -> npt.NDArray[np.float32]:
    """(B, D) float32 from one deterministic pass: the input of the last Linear, or the output of the module ``name``.

    Every site is off, also in a model that drops in evaluation. constants: the constants in place of draws; None: a draw raises DrawError.
    written: see ``Snapshot``.
    """
    last: list[Tensor] = []

    def handler(call: Call) -> Any:
        if constants is None and call.op is not None and call.op.draws:
            raise DrawError(f"{call.name} ({call.function.__name__}) draws random numbers in evaluation mode")
        return deterministic_call(call, constants or ConstantSource())

    if name is not None:
        handle = dict(model.named_modules())[name].register_forward_hook(lambda _m, _i, out: last.append(out))
        try:
            with evaluating(model, (), written), Interceptor(model, handler):
                call_model(model, inputs)
        finally:
            handle.remove()
    else:

        class LastLinear(Interceptor):
            def other(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
                if func is torch.nn.functional.linear:
                    last[:] = [args[0] if args else kwargs["input"]]
                return func(*args, **kwargs)

        with evaluating(model, (), written), LastLinear(model, handler):
            call_model(model, inputs)
    if not last or not isinstance(last[0], Tensor):
        raise ValueError(
            f"{type(model).__name__} has no Linear layer to take embeddings from; name a module with embedding="
        )
    return last[0].detach().flatten(1).float().cpu().numpy()
