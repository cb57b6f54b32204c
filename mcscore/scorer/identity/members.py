"""What kind of thing a member of a class, a module or a closure is, and the functions behind it."""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Iterator
from typing import Any

from .source import is_users


def functions_in(value: Any) -> Iterator[types.FunctionType]:
    """The functions of Python that calling or getting a member of a class runs: through decorators, properties, caches."""
    seen: set[int] = set()
    stack = [value]
    while stack:
        each = stack.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, types.FunctionType):
            yield each
        for name in ("__func__", "__wrapped__", "fget", "func", "py_func", "pyfunc"):
            inner = inspect.getattr_static(each, name, None)
            if isinstance(inner, (types.MemberDescriptorType, types.GetSetDescriptorType)):
                inner = getattr(each, name, None)
            if callable(inner) or isinstance(inner, (staticmethod, classmethod)):
                stack.append(inner)


def script_text(module: Any) -> str:
    """The code of a scripted module or function."""
    return str(module.code)


def contents_of(cell: types.CellType) -> Any:
    """What a variable of an enclosing function holds; None before it is set."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def class_is_users(kind: type) -> bool:
    """Whether a class is the user's own."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    if kind.__module__ in ("builtins", *sys.builtin_module_names):
        return False
    return is_users(file) if file else True


def is_descriptor(value: Any) -> bool:
    """Whether a member of a class is a method, a property or the like."""
    return hasattr(type(value), "__get__")


def is_data(value: Any) -> bool:
    """Whether a member of a class is a value, not code."""
    return not callable(value) and not is_descriptor(value) and not isinstance(value, types.ModuleType)
