"""The prefix once, however many chunks the passes come in.

Before the first site nothing depends on the pass, so the second chunk of passes need not compute it again. The tape
keeps what the prefix computed in the first chunk: the tensors somebody still holds when the first site fires (its
input, residual branches), and only the shape of all others. Later chunks run the same Python code, but its tensor
operations return what the tape holds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves


class TapeError(RuntimeError):
    """The prefix of a later chunk differs from the recorded one, so the recorded results cannot be used."""


@dataclass
class _Entry:
    function: Callable[..., Any]
    result: Any
    replays: bool  # False for calls without tensors, which are executed again: switches such as grad mode
    version: int = 0


def _holders(slots: list[Any], i: int) -> int:
    """Return the number of references to slots[i], ours included."""
    return sys.getrefcount(slots[i])


_OURS = _holders([object()], 0)  # measured, since interpreters count temporaries differently


class Tape:
    """Record the prefix in the first forward pass and replay it in the next ones; ``start`` begins each pass."""

    def __init__(self) -> None:
        self._entries: list[_Entry] = []
        self._sealed = False
        self._position = 0
        self._in_prefix = True

    def start(self) -> None:
        """Begin a forward pass. Records anew if a pass wrote in place into a tensor that the tape keeps."""
        if self._sealed and any(
            isinstance(e.result, Tensor) and _version(e.result) != e.version for e in self._entries
        ):
            self._sealed = False
        if not self._sealed:
            self._entries.clear()
        self._position, self._in_prefix = 0, True

    def call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], execute: Callable[[], Any]
    ) -> Any:
        """Execute an operation, or return its recorded result."""
        if not self._in_prefix:
            return execute()
        if not self._sealed:
            result = execute()
            replays = any(isinstance(leaf, Tensor) for leaf in tree_leaves((args, kwargs, result)))
            self._entries.append(_Entry(function, result, replays))
            return result
        if self._position >= len(self._entries) or self._entries[self._position].function != function:
            name = getattr(function, "__name__", str(function))
            raise TapeError(
                f"operation {self._position} before the first dropout is {name}, which it was not the first time"
            )
        entry = self._entries[self._position]
        self._position += 1
        return entry.result if entry.replays else execute()

    def site(self) -> None:
        """Note that a site fires. The prefix ends at the first one."""
        if self._in_prefix and not self._sealed:
            self._seal()
        self._in_prefix = False

    def _seal(self) -> None:
        for entry in self._entries:
            slots = [entry.result]
            entry.result = None
            if type(slots[0]) in (tuple, list) and _holders(slots, 0) <= _OURS:
                parts = list(slots[0])
                kind = type(slots[0])
                slots[0] = None
                for i in range(len(parts)):
                    _hollow_if_unheld(parts, i)
                slots[0] = kind(parts)
            else:
                _hollow_if_unheld(slots, 0)
            entry.result = slots[0]
            entry.version = _version(entry.result) if isinstance(entry.result, Tensor) else 0
        self._sealed = True


def _version(tensor: Tensor) -> int:
    """How often the tensor was written; those made in inference mode do not count."""
    return 0 if tensor.is_inference() else tensor._version


def _hollow_if_unheld(slots: list[Any], i: int) -> None:
    """Replace a tensor that nobody else holds by a stand-in of its shape with no memory.

    The stand-in is NaN (or the lowest integer), so that a use of it by mistake cannot pass unseen.
    """
    if not isinstance(slots[i], Tensor) or _holders(slots, i) > _OURS:
        return
    dtype, device, shape = slots[i].dtype, slots[i].device, slots[i].shape
    if dtype.is_floating_point or dtype.is_complex:
        value: Any = float("nan")
    elif dtype == torch.bool:
        value = False
    else:
        value = torch.iinfo(dtype).min
    slots[i] = torch.full((), value, dtype=dtype, device=device).expand(shape)
