"""Modules under torch.compile, run as the Python code that they are made of."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn

_CALLED = (
    "_compiled_call_impl",
    "forward",
)  # attributes that a call of a compiled module takes in place of its class's code


def is_compiled(module: nn.Module) -> bool:
    """Whether it is torch.compile's wrapper of a module, or a module whose ``compile`` was called."""
    return _is_wrapper(module) or module._compiled_call_impl is not None


@contextlib.contextmanager
def uncompiled(model: nn.Module) -> Iterator[None]:
    """Let compiled modules run as Python code, whose calls a mode can see: compiled, they would fall apart into single operations."""
    before = []
    for module in filter(is_compiled, model.modules()):
        attributes = vars(module)
        before.append((attributes, {name: attributes[name] for name in _CALLED if name in attributes}))
        attributes["_compiled_call_impl"] = None
        if _is_wrapper(module):
            attributes["forward"] = module._modules["_orig_mod"]
    try:
        yield
    finally:
        for attributes, old in before:
            for name in _CALLED:
                attributes.pop(name, None)
            attributes.update(old)


def _is_wrapper(module: nn.Module) -> bool:
    """Whether it is an OptimizedModule, whose class is in a part of PyTorch that takes long to import."""
    return "dynamo_ctx" in vars(module)
