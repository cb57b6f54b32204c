"""A hash of what a value holds, the same in every process: no addresses, no order of import, no absolute paths."""

from __future__ import annotations

import collections
import copyreg
import enum
import functools
import hashlib
import os
import re
import types
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._ops import OpOverload, OpOverloadPacket

from .bytecode import names_of
from .hashes import hashed
from .members import contents_of, functions_in
from .source import runs_users, text_of

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented), range, slice)
_DEVICE = re.compile(r"(cpu|cuda|mps|xpu|hip)(:\d+)?")
_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+")
_MOST = 200_000  # values behind one name: more is a data set or a program that hangs on it


class Unseen(Exception):
    """A value whose content cannot be told; the message names its type."""


def without_addresses(text: str) -> str:
    """A repr without the addresses of objects, which differ from process to process."""
    return _ADDRESS.sub("at ...", text)


def _part(x: Tensor) -> bytes:
    digest = hashlib.sha256()
    add_tensor(digest, x)
    return digest.digest()


def add_tensor(digest: Any, x: Tensor) -> None:
    """Add the bytes of a tensor to a hash: those of the tensors in it, if it is quantized, sparse or a wrapper of others."""
    for part in _dense(x.detach()):
        digest.update(part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _dense(x: Tensor) -> Iterable[Tensor]:
    """Strided tensors that hold the same."""
    if x.is_nested:
        return [part for each in x.unbind() for part in _dense(each)]
    if type(x) not in (Tensor, nn.Parameter, nn.Buffer) and hasattr(x, "__tensor_flatten__"):
        names, _context = x.__tensor_flatten__()
        return [part for name in names for part in _dense(getattr(x, name).detach())]
    if x.is_quantized:
        return x.int_repr(), x.dequantize()
    if x.layout != torch.strided:
        coordinates = x.to_sparse_coo().coalesce()
        return coordinates.indices(), coordinates.values()
    return (x.resolve_conj().resolve_neg(),)


class Content:
    """Hashes of values, each object once.

    Args:
        code: is called with each function and class that is met, and gives what names it.
        module: likewise with each nn.Module.
    """

    def __init__(self, code: Callable[[Any], str], module: Callable[[nn.Module], str]) -> None:
        self._code, self._module = code, module
        self._done: dict[int, tuple[Any, str]] = {}  # the object stays alive, or its id would be another's
        self._within: set[int] = set()
        self._left = _MOST
        self._depth = 0

    def of(self, value: Any) -> str:
        """The hash of a value. Raises Unseen if something in it cannot be told."""
        if self._depth == 0:
            self._left = _MOST
        if isinstance(value, _PLAIN) and type(value) in _PLAIN:
            return hashed(type(value).__name__, _plain(value))
        if id(value) in self._done:
            return self._done[id(value)][1]
        if id(value) in self._within:
            return "within itself"
        self._left -= 1
        if self._left < 0 or self._depth > 200:
            raise Unseen(f"more than {_MOST:,} values")
        self._within.add(id(value))
        self._depth += 1
        try:
            result = hashed(*self._parts(value))
        finally:
            self._depth -= 1
            self._within.discard(id(value))
        if self._depth == 0 or isinstance(
            value, (Tensor, np.ndarray)
        ):  # what is cut at a cycle depends on where it began
            self._done[id(value)] = value, result
        return result

    def _parts(self, value: Any) -> Iterable[bytes | str]:
        kind = self._code(type(value))
        if isinstance(value, nn.Module):
            return kind, self._module(value)
        if isinstance(value, Tensor):
            return "tensor", str(value.dtype), str(tuple(value.shape)), _part(value)
        if isinstance(value, np.ndarray) and not value.dtype.hasobject:
            return kind, str(value.dtype), str(value.shape), np.ascontiguousarray(value).tobytes()
        if isinstance(value, np.generic):
            return kind, str(value.dtype), value.tobytes()
        if isinstance(value, torch.device):  # where a run goes on is not what it computes
            return (kind,)
        if isinstance(value, (torch.dtype, torch.layout, torch.memory_format, OpOverload, OpOverloadPacket)):
            return kind, str(value)
        if isinstance(value, torch.ScriptObject):
            held: Any = value
            if not held._has_method("__getstate__"):
                raise Unseen(f"a {held._type()}")
            return kind, self.of(held.__getstate__())
        if isinstance(value, torch.Generator):
            return kind, self.of(value.get_state())
        if isinstance(value, enum.Enum):
            return kind, value.name, self.of(value.value)
        if isinstance(value, os.PathLike):
            return kind, _placeless(os.fsdecode(value))
        if isinstance(value, (weakref.ref, types.CellType)):
            return kind, self.of(value() if isinstance(value, weakref.ref) else contents_of(value))
        if isinstance(value, (type, *_CALLABLES)):
            return self._callable(value)
        if isinstance(value, types.ModuleType):
            return "module", value.__name__
        wraps = [self._function(each) for each in functions_in(value)]  # as a cache around a function does
        return kind, *wraps, *self._members(value), *self._state(value)

    def _function(self, function: types.FunctionType) -> str:
        """A function by its name, if it is the user's also by its defaults and the variables around it that it does not set."""
        name = self._code(function)
        if not runs_users(function):
            return name
        code = function.__code__
        cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
        held = [self.of(cells[each]) for each in sorted(cells.keys() - names_of(code).set_variables - {"__class__"})]
        text = text_of(function) if code.co_name == "<lambda>" else ""  # several have one name
        return hashed(name, text or "", *held, self.of(function.__defaults__), self.of(function.__kwdefaults__))

    def _callable(self, value: Any) -> Iterable[str]:
        if isinstance(value, functools.partial):
            return "partial", self.of(value.func), self.of(value.args), self.of(value.keywords)
        if isinstance(value, types.MethodType):
            return "method", self.of(value.__func__), self.of(value.__self__)
        if isinstance(value, types.BuiltinMethodType) and not isinstance(value.__self__, (types.ModuleType, type)):
            return "method", value.__qualname__, self.of(value.__self__)
        return "code", self._code(value), *(self._function(each) for each in functions_in(value))

    def _members(self, value: Any) -> Iterable[str]:
        """The content of a container, or of what is derived from one or from a plain value; sets and dicts in no order."""
        if isinstance(value, Mapping):
            return sorted(hashed(self.of(key), self.of(part)) for key, part in value.items())
        if isinstance(value, (set, frozenset)):
            return sorted(map(self.of, value))
        if isinstance(value, (list, tuple, collections.deque)):
            return [self.of(part) for part in value]
        if isinstance(value, (np.ndarray,)):
            return [self.of(part) for part in value.reshape(-1).tolist()]
        kinds: tuple[Any, ...] = (bool, int, float, complex, str, bytes)
        for kind in kinds:
            if isinstance(value, kind):
                return [hashed(kind.__name__, repr(kind(value)))]
        return []

    def _state(self, value: Any) -> Iterable[str]:
        """The attributes of an object; of one without any, or that says itself how it is made again, what it is made from."""
        kind = type(value)
        attributes = dict(getattr(value, "__dict__", {}))
        for each in kind.__mro__:
            slots = vars(each).get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                    attributes[name] = getattr(value, name)
        says = any("__reduce__" in vars(each) or "__reduce_ex__" in vars(each) for each in kind.__mro__[:-1])
        if isinstance(value, _CONTAINERS) or (attributes and not says):
            return [self.of(attributes)] if attributes else []
        if isinstance(value, (int, float, complex, str, bytes)):
            return []
        if not says and (hasattr(value, "__dict__") or any("__slots__" in vars(each) for each in kind.__mro__)):
            return []  # of a class in Python, without attributes
        try:
            registered = copyreg.dispatch_table.get(kind)
            reduced = registered(value) if registered is not None else value.__reduce_ex__(4)
        except Exception as error:  # whatever a class raises that cannot be pickled
            raise Unseen(f"a {kind.__module__}.{kind.__qualname__}") from error
        if isinstance(reduced, str):
            return [reduced]
        made, arguments, *rest = reduced
        return [self.of(made), self.of(arguments), *(self.of(_listed(part)) for part in rest)]


_CONTAINERS = (Mapping, set, frozenset, list, tuple, collections.deque)
_CALLABLES = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.MethodDescriptorType,
    types.MethodWrapperType,
    types.WrapperDescriptorType,
    functools.partial,
    staticmethod,
    classmethod,
    property,
    torch.jit.ScriptFunction,
)


def _listed(part: Any) -> Any:
    return list(part) if hasattr(part, "__next__") else part


def _plain(value: Any) -> str:
    if not isinstance(value, str):
        return repr(value)
    if _DEVICE.fullmatch(value):
        return "device"
    return _placeless(value) if os.path.isabs(value) and "\n" not in value else value


def _placeless(path: str) -> str:
    """An absolute path by its last part alone: where a project lies does not matter."""
    return os.path.basename(path.rstrip("/\\")) if os.path.isabs(path) else path
