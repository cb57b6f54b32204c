"""Seeing every stochastic call of a forward pass, whoever makes it: a module, a functional call or the user's own code.

PyTorch offers each Python-level operation to the active torch-function mode, so one mode meets ``nn.Dropout`` and
``F.dropout`` alike, in eval mode too (where they would do nothing). As a side effect the fused inference path of
``nn.TransformerEncoderLayer``, which ignores dropout, steps aside while a mode is active.
"""

from __future__ import annotations

import sys
import types
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from . import norms
from .draws import DRAW_OPS
from .dropout import (
    DROPOUT_OPS,
    RECURRENT,
    UNSUPPORTED_RANDOM,
    WEIGHT_OPS,
    DropoutOp,
    check_states,
    unsupported_is_random,
)
from .uncompiled import uncompiled


@dataclass(frozen=True)
class Call:
    """One stochastic call as it happens."""

    name: str  # where: the owner's path, the function if it is not the owner's whole purpose, and #n for the n-th time in this forward
    owner: nn.Module | None
    function: Callable[..., Any]
    op: DropoutOp | None  # None: randomness that no op covers
    arguments: Mapping[str, Any]
    is_random: bool  # would it drop anything as it stands?
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def execute(self) -> Any:
        """Execute the call unchanged."""
        return self.function(*self.args, **self.kwargs)


Handler = Callable[[Call], Any]
"""Takes the call, returns the result that the model gets."""


def _without_torch_function(function: Any) -> Callable[..., Any]:
    """The same Python function with its own torch-function check switched off, so that a mode can stay active inside its body."""
    never = {f"has_torch_function{form}": lambda *_: False for form in ("", "_unary", "_variadic")}
    namespace = {**function.__globals__, **never}
    twin = types.FunctionType(
        function.__code__, namespace, function.__name__, function.__defaults__, function.__closure__
    )
    twin.__kwdefaults__ = function.__kwdefaults__
    return twin


def _with_aten(functions: Mapping[Any, Any]) -> dict[Any, Any]:
    """The table, reached by torch.ops.aten's names of the same operations too."""
    both = dict(functions)
    for function, entry in functions.items():
        packet = getattr(torch.ops.aten, function.__name__, None)
        if packet is not None and type(function) is not types.FunctionType:
            both.setdefault(packet, entry)
            for overload in packet.overloads():
                both.setdefault(getattr(packet, overload), entry)
    return both


OP_OF_FUNCTION: dict[Any, DropoutOp] = _with_aten(
    {function: op for op in (*DROPOUT_OPS, *DRAW_OPS) for function in op.functions}
)
"""Recognized by the function that PyTorch dispatches, so modules, functional calls and user code all meet in one place."""
_UNSUPPORTED = _with_aten(
    dict.fromkeys([*UNSUPPORTED_RANDOM, *(function for op in DRAW_OPS for function in op.functions)])
)

# PyTorch offers these to a mode as one call each; the randomness is inside.
_COMPOSITE = {
    F.multi_head_attention_forward: _without_torch_function(F.multi_head_attention_forward),
    F.gumbel_softmax: _without_torch_function(F.gumbel_softmax),
    nn.init.uniform_: nn.init._no_grad_uniform_,
    nn.init.normal_: nn.init._no_grad_normal_,
}
_NORMALIZATION = {  # with the argument, if any, that asks for statistics of the batch
    F.batch_norm: "training",
    F.instance_norm: "use_input_stats",
    F.layer_norm: "",
    F.group_norm: "",
}


def is_normalization(module: nn.Module) -> bool:
    """Layers that would estimate statistics in training mode: anything that keeps a running mean."""
    return hasattr(module, "running_mean")


class Interceptor(TorchFunctionMode):
    """Calls ``handler`` for every stochastic call made while it is active, and executes everything else unchanged.

    A subclass may define ``stochastic`` instead: its own method as handler would be a reference cycle, and the tensors of
    a whole step would live until Python looks for cycles.

    weight_p: offer Linear and convolution as calls that drop their weights with this probability.
    """

    def __init__(self, model: nn.Module, handler: Handler | None, weight_p: float | None = None) -> None:
        super().__init__()
        self._weight_p = weight_p
        self._names = {id(module): name for name, module in model.named_modules()}
        self._handler = handler
        self._seen: Counter[str] = Counter()

    def __torch_function__(
        self, func: Callable[..., Any], _types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = {} if kwargs is None else kwargs
        op = OP_OF_FUNCTION.get(func)
        if op is not None and op.covers(args, kwargs):
            arguments = op.bind(args, kwargs)
            return self.stochastic(self._call(func, op, arguments, op.is_random(arguments), args, kwargs))
        if self._weight_p is not None and func in WEIGHT_OPS:
            op = WEIGHT_OPS[func]
            return self.stochastic(
                self._call(func, op, {**op.bind(args, kwargs), "p": self._weight_p}, True, args, kwargs)
            )
        if func in _COMPOSITE:
            with self:
                return _COMPOSITE[func](*args, **kwargs)
        if func in _UNSUPPORTED:
            return self.stochastic(
                self._call(func, None, kwargs, unsupported_is_random(func, args, kwargs), args, kwargs)
            )
        return self.other(func, args, kwargs)

    def stochastic(self, call: Call) -> Any:
        """Return the result of a stochastic call."""
        assert self._handler is not None
        return self._handler(call)

    def other(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Execute a call that is not stochastic."""
        return execute_plain(func, args, kwargs)

    def _call(
        self,
        func: Callable[..., Any],
        op: DropoutOp | None,
        arguments: Mapping[str, Any],
        is_random: bool,
        args: Any,
        kwargs: Any,
    ) -> Call:
        owner, path = self._owner()
        label = path
        if owner is None or not isinstance(owner, _SINGLE_PURPOSE):
            label = f"{path}:{func.__name__}" if path else func.__name__
        self._seen[label] += 1
        name = label if self._seen[label] == 1 else f"{label}#{self._seen[label]}"
        return Call(name, owner, func, op, arguments, is_random, args, kwargs)

    def _owner(self) -> tuple[nn.Module | None, str]:
        """The innermost module of the model whose method is running, found on the Python stack: no hook has to be planted in the model."""
        frame = sys._getframe(2)
        while frame is not None:
            if "self" in frame.f_code.co_varnames[:1]:
                owner = frame.f_locals.get("self")
                if id(owner) in self._names and isinstance(owner, nn.Module):
                    return owner, self._names[id(owner)]
            frame = frame.f_back  # type: ignore[assignment]
        return None, ""


_SINGLE_PURPOSE = (
    nn.modules.dropout._DropoutNd,
    nn.MultiheadAttention,
    nn.RNNBase,
    nn.Linear,
    nn.modules.conv._ConvNd,
)


def execute_plain(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Execute ``func``; a functional normalization with running statistics is kept in evaluation, so no statistic moves."""
    if func not in _NORMALIZATION:
        if func in RECURRENT:
            check_states(func, args)
        if func is Tensor.requires_grad_ and not torch.is_grad_enabled():
            return args[0]  # of no use without gradients, and vmap has none of it (Hugging Face's checkpointing hooks)
        return func(*args, **kwargs)
    names = func.__code__.co_varnames[: func.__code__.co_argcount]
    bound: dict[str, Any] = {**dict(zip(names, args, strict=False)), **kwargs}
    flag = _NORMALIZATION[func]
    if flag and isinstance(bound.get("running_mean"), Tensor):
        bound[flag] = False
    normalized = norms.under_vmap(func, bound)
    return func(**bound) if normalized is None else normalized


def is_dense(x: Tensor) -> bool:
    """Neither sparse nor nested: operations that every tensor has are defined."""
    return x.layout == torch.strided and not x.is_nested


def call_model(model: nn.Module, inputs: Any) -> Any:
    """Call the model, uncompiled. A tensor is the one argument, a tuple the positional ones, a dict the keywords."""
    with uncompiled(model):
        if isinstance(inputs, dict):
            return model(**inputs)
        if isinstance(inputs, (tuple, list)):
            return model(*inputs)
        return model(inputs)
