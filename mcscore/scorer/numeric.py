"""PyTorch's numeric modes while a Scorer computes: its own, whatever the process has set, and the user's again afterward.

They are flags of the whole process, and other values give other bits: TF32 (10 bits of mantissa instead of 23) for products and
convolutions, 16-bit sums inside products, cuDNN's choice of an algorithm by time. Two processes with different flags would give an
item different scores, so scoring sets all of them:

    float32       full precision, unless ``dtype="tf32"`` asks for TF32 (PyTorch's own default is TF32 for convolutions)
    sums          of 16-bit products in float32
    cuDNN         no choice by time; deterministic algorithms, as a transposed convolution has others too. Forward convolutions
                  have no others, so that costs them nothing

TF32 has an old and a new interface (torch.backends.*.fp32_precision, PyTorch 2.9). PyTorch raises where the old one is read after the
new one was set to something else, so both are set, to the same, as far as they can be put back exactly.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ..errors import PrecisionError

_C: Any = torch._C

# Nodes of the new interface, parents first. A node that is "none" has the value of its parent: (backend, "all"), then generic.
_NODES = (
    ("generic", "all"),
    *((backend, op) for op in ("all", "matmul", "conv", "rnn") for backend in ("cuda", "mkldnn")),
)
_FLAGS = {  # name in torch._C: our value
    "cublas_allow_fp16_reduced_precision_reduction": False,
    "cublas_allow_bf16_reduced_precision_reduction": False,
    "cublas_allow_fp16_accumulation": False,
    "cudnn_benchmark": False,
    "cudnn_deterministic": True,
}

_changed = threading.Condition()
_waiting: deque[object] = deque()  # in the order in which they came
_threads: list[int] = []  # that compute in our modes; a thread that scores inside a scoring call stands there twice
_ours: bool = False  # whether with TF32
_users = contextlib.ExitStack()  # puts the user's modes back


@contextlib.contextmanager
def numeric_modes(tf32: bool = False) -> Iterator[None]:
    """Compute in mcscore's numeric modes until the block ends, with TF32 or without. Then those of before are back.

    Threads share the modes: one that needs the others waits until nobody computes in these.

    Raises:
        PrecisionError: the thread computes in the other modes already.
    """
    global _ours
    me = threading.get_ident()
    with _changed:
        if me in _threads and tf32 != _ours:
            raise PrecisionError(
                f"a Scorer with{'' if tf32 else 'out'} dtype='tf32' is called inside a forward pass of one with{'out' if tf32 else ''} "
                "it; float32 can be computed in one way at a time: give both the same dtype"
            )
        if me not in _threads:
            _wait(lambda: not _threads or tf32 == _ours)
        if not _threads:
            _ours = tf32
            _users.callback(_switched(tf32))
        _threads.append(me)
    try:
        yield
    finally:
        with _changed:
            _leave(me)


def _wait(free: Callable[[], bool]) -> None:
    """Wait in turn, or one who only leaves to come again at once would keep the others out."""
    turn = object()
    _waiting.append(turn)
    try:
        _changed.wait_for(lambda: _waiting[0] is turn and free())
    finally:
        _waiting.remove(turn)
        _changed.notify_all()


def _leave(thread: int) -> None:
    _threads.remove(thread)
    if not _threads:
        _users.close()
        _changed.notify_all()


def _switched(tf32: bool) -> Callable[[], None]:
    """Set every mode to ours. Returns what sets all to what they were."""
    _use_up_warning()
    nodes = []
    for node in _NODES:  # a node alone shows what it was set to once its parents are "none"
        value = _C._get_fp32_precision_getter(*node)
        if value != "tf32" or not _follows(node):
            nodes.append((node, value))
            _C._set_fp32_precision_setter(*node, "none")
    matmul = torch.get_float32_matmul_precision()
    convolutions = _old_convolutions() if len(nodes) == len(_NODES) else None
    flags = [(name, getattr(_C, f"_get_{name}")()) for name in _FLAGS]

    def restore() -> None:
        torch.set_float32_matmul_precision(matmul)
        if convolutions is not None:
            _C._set_cudnn_allow_tf32(convolutions)
        for node, value in nodes:
            _C._set_fp32_precision_setter(*node, value)
        for name, value in flags:
            setter = getattr(_C, f"_set_{name}")
            setter(*value) if isinstance(value, tuple) else setter(value)

    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    if convolutions is not None:
        _C._set_cudnn_allow_tf32(tf32)
    _C._set_fp32_precision_setter("cuda", "all", "tf32" if tf32 else "ieee")
    _C._set_fp32_precision_setter("mkldnn", "all", "ieee")
    for name, value in _FLAGS.items():
        getattr(_C, f"_set_{name}")(value)
    return restore


def _follows(node: tuple[str, str]) -> bool:
    """Whether a node that says "tf32" by itself says what its parents say as soon as they say anything.

    Newer PyTorch starts with convolutions like that, and has no way back to it for a node that was set: such a node is left alone,
    and the old interface with it, which would set it.
    """
    parent = (node[0], "all")
    if node == parent:
        return False
    _C._set_fp32_precision_setter(*parent, "ieee")
    follows = _C._get_fp32_precision_getter(*node) == "ieee"
    _C._set_fp32_precision_setter(*parent, "none")
    return follows


def _old_convolutions() -> bool:
    """The old flag of convolutions, which PyTorch gives only where the new ones agree with it."""
    for op in ("conv", "rnn"):
        _C._set_fp32_precision_setter("cuda", op, "tf32")
    try:
        return bool(_C._get_cudnn_allow_tf32())
    except RuntimeError:
        return False


@functools.cache
def _use_up_warning() -> None:
    """PyTorch 2.9 to 2.11 warn, once in a process, that there is a new interface; not because of us."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(RuntimeError):
            torch.get_float32_matmul_precision()


def _forget_others() -> None:
    """Forget other threads in a forked child, which does not have them: nobody would put their modes back."""
    global _changed
    _changed = threading.Condition()
    _waiting.clear()
    with _changed:
        for thread in [thread for thread in _threads if thread != threading.get_ident()]:
            _leave(thread)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_others)
