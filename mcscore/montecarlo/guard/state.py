"""Keep and restore what a forward pass may change in a model.

Forward passes are written to be run once: they count calls, keep activations, merge weights, move running statistics. Scoring runs
them many times and must leave the model exactly as it was, and pass 7 must not see what pass 6 left.
"""

from __future__ import annotations

import contextlib
import copy
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import SiteError
from .exclusive import exclusive

_TABLES = (
    "_parameters",
    "_buffers",
    "_modules",
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called",
)
_CONTAINERS = (list, dict, set)
# Names that libraries give the switch of activation checkpointing, which is useless without gradients and which vmap cannot enter.
_CHECKPOINTING = ("gradient_checkpointing", "grad_checkpointing", "use_checkpoint", "with_cp", "memory_efficient")


def private_copy(model: nn.Module) -> nn.Module:
    """Return a deep copy that owns every tensor: training-mode passes write into the weights of many models.

    Merged LoRA weights, momentum encoders, codebooks kept as Parameters, running statistics by hand.
    """
    memo: dict[int, Any] = {}
    for value in _reachable(model):
        if isinstance(value, torch.Generator):
            memo[id(value)] = value.clone_state()
        elif isinstance(value, Tensor) and not value.is_leaf:  # an activation kept from the last call, old weight_norm
            memo[id(value)] = value.detach().clone()
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise SiteError(
            f"{type(model).__name__} cannot be copied for the training-mode probe ({type(error).__name__}: {error}); "
            "give its class a __deepcopy__, or wrap it in a plain nn.Module"
        ) from error


def _reachable(model: nn.Module) -> Iterator[Any]:
    """The values in the attributes of the modules, in containers and plain objects too."""
    seen: set[int] = set()
    stack: list[Any] = [model]
    while stack:
        value = stack.pop()
        if id(value) in seen or isinstance(value, (str, bytes, int, float, type, complex)):
            continue
        seen.add(id(value))
        yield value
        if isinstance(value, dict):
            stack.extend(value.values())
        elif isinstance(value, (list, tuple, set, frozenset)):
            stack.extend(value)
        elif (not isinstance(value, Tensor) and not callable(value)) or isinstance(value, nn.Module):
            stack.append(getattr(value, "__dict__", None))


class Snapshot:
    """What modules hold: attributes, buffers and submodules by identity, lists and dicts by their members, some tensors by content.

    contents: names of the buffers and tensor attributes to keep by content; None: all of them.
    """

    def __init__(self, model: nn.Module, contents: Sequence[str] | None) -> None:
        self._tables: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._members: list[tuple[Any, Any]] = []
        self._contents: list[tuple[str, Tensor, Tensor, tuple[int, int]]] = []
        self._others: list[tuple[str, str, Tensor, tuple[int, int]]] = []
        for path, module in model.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):  # keeps its state where Python cannot exchange it
                self._keep(path, module, contents)

    def _keep(self, path: str, module: nn.Module, contents: Sequence[str] | None) -> None:
        attributes = module.__dict__
        self._tables.append((attributes, attributes.copy()))
        for name in _TABLES:
            table = attributes.get(name)
            if table is not None:
                self._tables.append((table, table.copy()))
        buffers, parameters = attributes.get("_buffers", {}), attributes.get("_parameters", {})
        for name, value in attributes.items():
            if type(value) in _CONTAINERS and name not in _TABLES:  # _flat_weights of an LSTM too
                self._members.append((value, value.copy()))
        if contents is None or contents:
            for name, value in (*attributes.items(), *buffers.items()):
                full = f"{path}.{name}" if path else name
                if isinstance(value, Tensor) and (contents is None or full in contents):
                    self._contents.append((full, value, value.detach().clone(), _state(value)))
        if contents is not None:
            for table in (parameters, buffers):
                for name, value in table.items():
                    if value is not None and not (contents and f"{path}.{name}".lstrip(".") in contents):
                        self._others.append((path, name, value, _state(value)))

    def restore(self) -> list[str]:
        """Restore everything. Returns the names of the parameters and buffers that were written and are not kept by content."""
        for table, before in self._tables:
            table.update(before)  # cheaper than to look for differences: 0.3 ms in all for 60 modules
            if len(table) != len(before):
                table.clear()
                table.update(before)
        for value, before in self._members:
            if len(value) != len(before) or _differs(value, before):
                value.clear()
                value.extend(before) if isinstance(value, list) else value.update(before)
        for _, tensor, content, _state_before in self._contents:
            if not _same(tensor, content):
                with torch.no_grad():
                    tensor.copy_(content)
        return [f"{path}.{name}".lstrip(".") for path, name, tensor, state in self._others if _state(tensor) != state]

    def written(self) -> list[str]:
        """The names of the kept tensors that were written, be it with what they held."""
        return [name for name, x, before, state in self._contents if _state(x) != state or not _same(x, before)]


def _differs(value: Any, before: Any) -> bool:
    if isinstance(value, dict):
        return any(value.get(name, value) is not member for name, member in before.items())
    return value != before if isinstance(value, set) else any(a is not b for a, b in zip(value, before, strict=True))


def _state(tensor: Tensor) -> tuple[int, int]:
    """The version, which most ways of writing count up, and the address."""
    if tensor.layout != torch.strided:
        return 0, 0
    return 0 if tensor.is_inference() else tensor._version, tensor.data_ptr()


def _same(tensor: Tensor, before: Tensor) -> bool:
    if tensor.layout != torch.strided or before.layout != torch.strided:
        tensor, before = (x.to_dense() if x.layout != torch.strided else x for x in (tensor, before))
    return tensor.shape == before.shape and torch.equal(
        tensor.nan_to_num() if tensor.is_floating_point() else tensor,
        before.nan_to_num() if before.is_floating_point() else before,
    )


@contextlib.contextmanager
def evaluating(
    model: nn.Module, training: Sequence[str] = (), written: Sequence[str] | None = (), *, grad: bool = False
) -> Iterator[Snapshot]:
    """Evaluation mode but for the named modules, no other thread in the model; afterward it is as it was, also after an exception.

    written: names of the buffers that a forward pass writes into, see ``Snapshot``; None: it is not known yet. Yields what is put back.
    Raises SiteError if the pass wrote into parameters.
    """
    with exclusive(model):
        before = Snapshot(model, written)
        try:
            for name, module in model.named_modules():
                module.training = name in training
                for switch in _CHECKPOINTING:
                    if module.__dict__.get(switch) is True:
                        module.__dict__[switch] = False
            with torch.enable_grad() if grad else torch.no_grad():
                yield before
        finally:
            changed = before.restore()
    if changed:
        raise SiteError(
            f"the forward pass of {type(model).__name__} writes into {', '.join(changed[:5])} while it is scored "
            f"(modules in training mode: {', '.join(map(repr, training)) or 'none'}); passes would depend on those before them. "
            "Load the weights anew, and guard the update with torch.is_grad_enabled(), which is off while scoring"
        )


def checksums(model: nn.Module) -> dict[str, Any]:
    """A checksum of every parameter and buffer, by name."""
    tensors = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    with torch.no_grad():
        return {name: _checksum(tensor.detach()) for name, tensor in tensors.items()}


def _checksum(tensor: Tensor) -> Any:
    if tensor.is_meta:
        return None
    if tensor.is_sparse:
        tensor = tensor.coalesce().values()
    elif tensor.is_quantized:
        tensor = tensor.int_repr()
    raw = tensor.contiguous().reshape(-1).view(torch.uint8)
    if raw.device.type == "cpu":
        return zlib.crc32(raw.numpy().data)
    whole = raw[: raw.numel() // 8 * 8].view(torch.int64)
    places = torch.arange(1, 2 * whole.numel(), 2, device=raw.device)  # odd: no single change cancels
    return int(whole.sum()), int((whole * places).sum()), int(raw[whole.numel() * 8 :].sum())


def require_unchanged(model: nn.Module, before: dict[str, Any], during: str) -> None:
    """SiteError if the content of a parameter or buffer is not what ``checksums`` found before."""
    now = checksums(model)
    changed = [name for name in before if now.get(name) != before[name]]
    if changed:
        raise SiteError(
            f"{', '.join(changed[:5])} of {type(model).__name__} changed during {during}, although it ran on a copy: some code of the "
            "model holds on to the original tensors (a closure, a global). Load the weights anew, and let the model reach its tensors "
            "through self"
        )
