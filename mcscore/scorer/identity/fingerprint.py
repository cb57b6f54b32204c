"""What a model is, as one number: its structure, and the bytes of all the tensors it computes with."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from .content import Content, Unseen, add_tensor, without_addresses


def fingerprint(model: nn.Module) -> str:
    """Hash the structure of ``model`` and every parameter, buffer and extra state: name, dtype, shape, bytes. "sha256:...".

    Parameters and buffers that ``state_dict`` leaves out (persistent=False, or a state_dict of the user's own) count too: they
    are computed with like the others.
    """
    digest = hashlib.sha256(without_addresses(repr(model)).encode())
    state = model.state_dict()
    for name, value in sorted(state.items()):
        if isinstance(value, Tensor):
            _add(digest, name, value)
    for kind, tensors in (
        ("buffer", model.named_buffers(remove_duplicate=False)),
        ("parameter", model.named_parameters(remove_duplicate=False)),
    ):
        for name, tensor in sorted(tensors):
            if name not in state:
                _add(digest, f"{kind} {name}", tensor)
    for name, value in sorted(state.items()):
        if not isinstance(value, Tensor):
            _add(digest, f"extra {name}", value)
    return f"sha256:{digest.hexdigest()}"


def _add(digest: Any, name: str, value: Any) -> None:
    """A tensor or array by its content, a container part by part, sets in order, anything else by what it holds."""
    if isinstance(value, Tensor):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        add_tensor(digest, value)
    elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
        digest.update(f"{name} {value.dtype} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, (set, frozenset)):
        digest.update(f"{name} set {sorted(map(repr, value))}".encode())
    else:
        leaves, spec = tree_flatten(value)
        if len(leaves) == 1 and leaves[0] is value:
            digest.update(f"{name} {_content(value)}".encode())
            return
        digest.update(f"{name} {spec}".encode())
        for i, leaf in enumerate(leaves):
            _add(digest, f"{name}/{i}", leaf)


def _content(value: Any) -> str:
    try:
        return Content(lambda code: getattr(code, "__qualname__", repr(code)), fingerprint).of(value)
    except Unseen:
        return f"{type(value).__module__}.{type(value).__qualname__}"
