"""What is made from a weight (packed for a kernel, rounded to bfloat16), kept for the length of one scoring call.

Nothing tells for certain that a weight has changed: writes through ``.data``, through NumPy's view of its memory or of an exponential
moving average that is swapped in count no version. So nothing is kept from one call to the next, and outside a call nothing at all.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Hashable, Iterator, MutableMapping

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

_Kept = MutableMapping[Tensor, dict[Hashable, tuple[tuple[int, int], Tensor]]]


class _OfThread(threading.local):
    kept: _Kept | None = None


_thread = _OfThread()


@contextlib.contextmanager
def keeping() -> Iterator[None]:
    """Keep what ``made_from`` makes in this thread until the block ends; an inner block shares what the outer one keeps."""
    if _thread.kept is not None:
        yield
        return
    _thread.kept = WeakIdKeyDictionary()
    try:
        yield
    finally:
        _thread.kept = None


@contextlib.contextmanager
def keeping_nothing() -> Iterator[None]:
    """Make everything anew inside the block: what is recorded there must hold the making, not what was made."""
    outer, _thread.kept = _thread.kept, None
    try:
        yield
    finally:
        _thread.kept = outer


def made_from(weight: Tensor, how: Hashable, make: Callable[[], Tensor]) -> Tensor:
    """``make()``, or what it gave before in this call for the same weight, version of it and ``how``."""
    # Tensors made in inference mode count no versions; those being recorded or mapped over have no memory to point at.
    if _thread.kept is None or weight.is_inference() or torch._C._functorch.is_functorch_wrapped_tensor(weight):
        return make()
    of_weight = _thread.kept.setdefault(weight, {})
    state = weight._version, weight.data_ptr()
    found = of_weight.get(how)
    if found is None or found[0] != state:
        found = of_weight[how] = state, make()
    return found[1]
