"""The source text of a function, if it is the text that runs, and whose code it is."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import linecache
import os
import site
import sys
import sysconfig
import types
from collections.abc import Iterator
from pathlib import Path

_PACKAGE = str(Path(__file__).resolve().parents[2])
_RECORDED = {"torch", "numpy", "mcscore"}  # whose versions run.json lists: another one is a warning
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


@functools.cache
def _library_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    folders = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    folders += [*site.getsitepackages(), site.getusersitepackages(), _PACKAGE]
    return tuple({os.path.realpath(folder) + os.sep for folder in folders})


@functools.cache
def is_users(filename: str) -> bool:
    """Whether code of this file is the user's own: of no installed package, not of Python, not ours."""
    if filename.startswith("<"):
        return not filename.startswith(("<frozen", "<__array_function__"))
    real = os.path.realpath(filename)
    installed = {"site-packages", "dist-packages"}.intersection(Path(real).parts)
    return not installed and not real.startswith(_library_folders())


def runs_users(function: types.FunctionType) -> bool:
    """Whether a function is the user's own; one that was generated, as dataclasses do, belongs to the module it was made in."""
    name = function.__code__.co_filename
    return is_users(str(function.__globals__.get("__file__") or name) if name.startswith("<") else name)


@functools.cache
def distribution(module: str) -> tuple[str, str] | None:
    """(name, version) of the distribution that a module belongs to; None for Python's own, and those that run.json lists."""
    top = module.partition(".")[0]
    if not top or top in sys.stdlib_module_names or top in _RECORDED or top in sys.builtin_module_names:
        return None
    try:
        return top, importlib.metadata.version(top)
    except importlib.metadata.PackageNotFoundError:
        names = _distributions().get(top)
        return (names[0], importlib.metadata.version(names[0])) if names else None


@functools.cache
def _distributions() -> dict[str, list[str]]:
    return dict(importlib.metadata.packages_distributions())


class _File:
    """A source file: its text, the functions in it, and what they compile to, in the same order."""

    def __init__(self, text: str, name: str) -> None:
        self.text = text
        self._codes: dict[tuple[int, str], list[types.CodeType]] = {}
        self._nodes: dict[tuple[int, str], list[_Function]] = {}
        try:
            tree = ast.parse(text)
            compiled = compile(text, name, "exec", dont_inherit=True)
        except (SyntaxError, ValueError):  # edited to something that is no Python, or a notebook's magic
            return
        for code in _inner(compiled):
            self._codes.setdefault((code.co_firstlineno, code.co_name), []).append(code)
        for node in _nodes(tree):
            first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", ()))])
            name = "<lambda>" if isinstance(node, ast.Lambda) else node.name
            self._nodes.setdefault((first, name), []).append(node)

    def text_of(self, code: types.CodeType) -> str | None:
        """The text of a function; None if the file holds another one, or none, at its place."""
        place = code.co_firstlineno, code.co_name
        codes, nodes = self._codes.get(place, []), self._nodes.get(place, [])
        if code not in codes:
            return None
        chosen = [nodes[codes.index(code)]] if len(codes) == len(nodes) else nodes
        return "\n".join(part for node in chosen for part in self._parts(node)) or None

    def _parts(self, node: _Function) -> Iterator[str]:
        for decorator in getattr(node, "decorator_list", ()):
            yield "@" + (ast.get_source_segment(self.text, decorator) or "")
        yield ast.get_source_segment(self.text, node) or ""


def _inner(code: types.CodeType) -> Iterator[types.CodeType]:
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield each
            yield from _inner(each)


def _nodes(tree: ast.AST) -> Iterator[_Function]:
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, _FUNCTIONS):
            yield child
        yield from _nodes(child)


@functools.lru_cache(maxsize=256)
def _file(text: str, name: str) -> _File:
    return _File(text, name)


# As first read, by the id of the code, which stays alive here: what runs stays the same when its file is edited.
_texts: dict[int, tuple[types.CodeType, str]] = {}


def text_of(function: types.FunctionType) -> str | None:
    """The source text of a function; None if it has none, or its file holds another text than the one that runs."""
    code = function.__code__
    if id(code) not in _texts:
        linecache.checkcache(code.co_filename)
        text = "".join(linecache.getlines(code.co_filename, function.__globals__))
        found = _file(text, code.co_filename).text_of(code) if text else None
        if found is None:
            return None
        _texts[id(code)] = code, found
    return _texts[id(code)][1]


def label(filename: str) -> str:
    """The name of a file without its folder; nothing for code that came from none."""
    return "" if filename.startswith("<") else os.path.basename(filename)
