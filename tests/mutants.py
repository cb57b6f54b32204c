"""Functions with one statement or condition taken out, to show that a check of the suite needs each."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

STEPS = ("sync", "rename", "link")


@dataclass(frozen=True)
class Mutant:
    owner: Any
    name: str
    what: str
    function: Callable[..., Any]

    def __str__(self) -> str:
        return f"{self.name}: {self.what}"


class _Take(ast.NodeTransformer):
    """Replaces the n-th call of a step by nothing, or the n-th condition by False."""

    def __init__(self, n: int) -> None:
        self.n, self.what = n, ""

    def _is_it(self) -> bool:
        self.n -= 1
        return self.n == -1

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        call = node.value
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in STEPS and self._is_it():
            self.what = f"without {ast.unparse(node)}"
            return ast.copy_location(ast.Pass(), node)
        return node

    def visit_If(self, node: ast.If) -> ast.AST:
        self.generic_visit(node)
        if self._is_it():
            self.what = f"without if {ast.unparse(node.test)}"
            node.test = ast.copy_location(ast.Constant(False), node.test)
        return node


def mutants(places: list[tuple[Any, str]]) -> Iterator[Mutant]:
    for owner, name in places:
        function = inspect.unwrap(getattr(owner, name))
        for n in range(100):
            tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
            take = _Take(n)
            tree = ast.fix_missing_locations(take.visit(tree))
            module = inspect.getmodule(function)
            assert module is not None
            names: dict[str, Any] = {}
            code = compile(ast.parse("from __future__ import annotations\n" + ast.unparse(tree)), "mutant", "exec")
            exec(code, module.__dict__, names)
            yield Mutant(owner, name, take.what, names[name])
            if not take.what:  # the last one is the function as it is, compiled again
                break
