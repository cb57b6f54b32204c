"""What a model is, as one number: its structure, and the bytes of all it computes with."""

from __future__ import annotations

import hashlib
import pickle
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten


def fingerprint(model: nn.Module) -> str:
    """Hash the structure of ``model`` and every parameter, buffer and extra state: name, dtype, shape, bytes. "sha256:...".

    Buffers that ``state_dict`` leaves out (persistent=False) count too: they are computed with like the others.
    """
    digest = hashlib.sha256(repr(model).encode())
    state = model.state_dict()
    for name, value in sorted(state.items()):
        if isinstance(value, Tensor):
            _add(digest, name, value)
    for name, buffer in sorted(model.named_buffers(remove_duplicate=False)):
        if name not in state:
            _add(digest, f"buffer {name}", buffer)
    for name, value in sorted(state.items()):
        if not isinstance(value, Tensor):
            _add(digest, f"extra {name}", value)
    return f"sha256:{digest.hexdigest()}"


def _add(digest: Any, name: str, value: Any) -> None:
    """A tensor or array by its content, a container part by part, sets in order, anything else as pickle sees it."""
    if isinstance(value, Tensor):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        for part in _dense(value.detach()):
            digest.update(part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
        digest.update(f"{name} {value.dtype} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, (set, frozenset)):
        digest.update(f"{name} set {sorted(map(repr, value))}".encode())
    else:
        leaves, spec = tree_flatten(value)
        if len(leaves) == 1 and leaves[0] is value:
            digest.update(f"{name} ".encode() + pickle.dumps(value, protocol=4))
            return
        digest.update(f"{name} {spec}".encode())
        for i, leaf in enumerate(leaves):
            _add(digest, f"{name}/{i}", leaf)


def _dense(x: Tensor) -> tuple[Tensor, ...]:
    """Strided tensors that hold the same."""
    if x.is_quantized:
        return x.int_repr(), x.dequantize()
    if x.layout != torch.strided:
        coordinates = x.to_sparse_coo().coalesce()
        return coordinates.indices(), coordinates.values()
    return (x.resolve_conj().resolve_neg(),)
