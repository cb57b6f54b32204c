"""Which names a piece of code uses, and what it does, read from its bytecode: that is what runs, whatever the file says by now."""

from __future__ import annotations

import dis
import functools
import sys
import types
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .hashes import hashed

_DYNAMIC = frozenset(
    ("getattr", "vars", "eval", "exec", "globals", "locals", "__import__", "import_module", "attrgetter", "__dict__")
)
_LOADS = frozenset(("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR", "LOAD_SUPER_METHOD", "IMPORT_FROM"))


@dataclass(frozen=True)
class Names:
    """The names in a code object and in the functions inside it.

    Attributes:
        globals: that are read.
        attributes: that are read of any object.
        set_attributes: that are written.
        set_variables: globals and variables of an enclosing function that are written.
        imports: modules that are imported when it runs.
        dynamic: other names may be made up when it runs, as by ``getattr``.
    """

    globals: frozenset[str]
    attributes: frozenset[str]
    set_attributes: frozenset[str]
    set_variables: frozenset[str]
    imports: frozenset[str]
    dynamic: bool


@functools.cache
def names_of(code: types.CodeType) -> Names:
    """The names that ``code`` uses."""
    read: set[str] = set()
    attributes: set[str] = set()
    set_attributes: set[str] = set()
    set_variables: set[str] = set()
    imports: set[str] = set()
    for step in dis.get_instructions(code):
        name = step.argval
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            read.add(name)
        elif step.opname in _LOADS:
            attributes.add(name)
        elif step.opname == "STORE_ATTR":
            set_attributes.add(name)
        elif step.opname == "STORE_GLOBAL" or (step.opname == "STORE_DEREF" and name in code.co_freevars):
            set_variables.add(name)
        elif step.opname == "IMPORT_NAME":
            imports.add(name)
    inner = [names_of(each) for each in code.co_consts if isinstance(each, types.CodeType)]
    return Names(
        frozenset(read).union(*(each.globals for each in inner)),
        frozenset(attributes).union(*(each.attributes for each in inner)),
        frozenset(set_attributes).union(*(each.set_attributes for each in inner)),
        frozenset(set_variables).union(*(each.set_variables for each in inner)),
        frozenset(imports).union(*(each.imports for each in inner)),
        not _DYNAMIC.isdisjoint(read | attributes) or any(each.dynamic for each in inner),
    )


def bytecode_of(code: types.CodeType) -> str:
    """What a function does, without where it stands in a file; other in every version of Python."""

    def constants(values: Iterable[Any]) -> list[str]:
        return [
            bytecode_of(each)
            if isinstance(each, types.CodeType)
            else repr(sorted(map(repr, each)))
            if isinstance(each, frozenset)
            else repr(each)
            for each in values
        ]

    parts = (code.co_code.hex(), code.co_names, code.co_varnames, code.co_freevars, *constants(code.co_consts))
    return hashed(*map(str, parts), ".".join(map(str, sys.version_info[:2])))
