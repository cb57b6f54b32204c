"""Every fsync, rename and checksum is needed: with any one of them taken out, a check of this suite fails.

The source of the functions is parsed, one statement or condition is replaced by nothing, and the result takes the place of
the function while the check runs.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import os
import shutil
import textwrap
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcscore import atomic as disk
from mcscore.errors import RunError
from mcscore.run import score_pool
from mcscore.run.journal import Journal, ShardLayout, records
from mcscore.run.journal.shard import ShardHeader
from mcscore.run.run import Run

from .fakes import SPAN, FakePool, FakeScorer, N, begin, content, unpacked
from .test_crash import cut_power_at_every_step
from .test_resume import DAMAGE

STEPS = ("sync", "rename", "link")
# Functions with steps in them, by what holds them; the others have conditions that find damage.
WRITING = [(disk, name) for name in ("_temporary", "replace_file", "create_file", "create_directory", "replaced")]
READING = [
    *((Journal, name) for name in ("_load", "_check", "_checked")),
    (ShardLayout, "decode"),
    (ShardHeader, "from_bytes"),
    (records, "_checked"),
]


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


ALL = list(mutants(WRITING + READING))
DURABILITY = [mutant for mutant in ALL if mutant.what and mutant.owner is disk and mutant.name != "replaced"]
STREAMED = [mutant for mutant in ALL if mutant.what and mutant.name == "replaced"]
CHECKSUMS = [mutant for mutant in ALL if mutant.what and mutant.owner is not disk]


def test_there_are_mutants_of_every_step_and_check() -> None:
    assert [str(mutant) for mutant in DURABILITY] == [
        "_temporary: without sync(temporary)",
        "replace_file: without rename(temporary, path)",
        "replace_file: without sync(path.parent)",
        "create_file: without link(temporary, path)",
        "create_file: without sync(path.parent)",
        "create_directory: without sync(folder.parent)",
    ]
    assert len(STREAMED) == 4  # sync, rename, sync, and the condition that spares files of the living
    checks = "\n".join(map(str, CHECKSUMS))
    for condition in (
        "crc32c(stored) != record.crc32c[row]",
        "crc32c(row[:record.span.n]) != crc",
        "!= self.index",
        "magic != _MAGIC",
        "crc != _CRC.pack(crc32c(packed))",
        "record.run != self.header.id",
        "record.span.start",
        "line.endswith(_END)",
        "crc32c(text)",
    ):
        assert condition in checks


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mutant], None]:
    return lambda mutant: monkeypatch.setattr(mutant.owner, mutant.name, mutant.function)


def violated(check: Callable[[], None]) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check()
    except Exception:  # whatever shows that something is wrong: a wrong value, a file that is not there, a parse error
        return True
    return False


# -- the checks, as the rest of the suite makes them -------------------------------------------------------------------


def power_cuts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, bytes]) -> None:
    for out, promised in cut_power_at_every_step(tmp_path, monkeypatch):
        kept: list[int] = []
        scorer = FakeScorer(step=2 if (out / "run.json").exists() else 1)
        run = score_pool(FakePool(), scorer, out, span=SPAN, progress=lambda done, _, kept=kept: kept.append(done))
        assert kept[0] >= promised
        assert content(run) == undisturbed


def damages(whole: Path, undisturbed: dict[str, bytes]) -> None:
    for kind, (damage, spans) in DAMAGE.items():
        out = whole.with_name(kind.replace(" ", "-"))
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(whole.with_name("other"), ignore_errors=True)
        shutil.copytree(whole, out)
        damage(out)
        for name, values in undisturbed.items():
            with contextlib.suppress(RunError):
                run = Run.open(out)
                read = run.prediction if name == "prediction" else run.scores(name) if name != "bad" else None
                if read is not None:
                    there = read >= 0 if name == "prediction" else ~np.isnan(read)
                    assert read[there].tobytes() == np.frombuffer(values, read.dtype)[there].tobytes(), kind
        scorer = FakeScorer(step=2)
        run = score_pool(FakePool(), scorer, out)
        assert scorer.seen == [id for span in spans for id in range(span * SPAN, min((span + 1) * SPAN, N))], kind
        assert content(run) == content(Run.open(out)) == undisturbed, kind
        assert run.scored == N


def streamed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[str, str]] = []
    with monkeypatch.context() as patch:

        def follow(name: str, real: Callable[..., None], *paths: Path) -> None:
            steps.append((name, paths[0].name))
            real(*paths)

        for name in ("sync", "rename"):
            patch.setattr(disk, name, partial(follow, name, getattr(disk, name)))
        (folder / f"a.{2**22 + 1}.tmp").touch()
        with disk.replaced(folder / "a") as file:
            file.write(b"x")
    temporary = f"a.{os.getpid()}.tmp"
    assert steps == [("sync", temporary), ("rename", temporary), ("sync", folder.name)]
    assert os.listdir(folder) == ["a"]


# -- and what they find ------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*took over the lock")
@pytest.mark.parametrize("mutant", DURABILITY, ids=str)
def test_no_step_can_be_left_out(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: dict[str, bytes],
    install: Callable[[Mutant], None],
    mutant: Mutant,
) -> None:
    install(mutant)
    assert violated(lambda: power_cuts(tmp_path, monkeypatch, undisturbed))


@pytest.mark.parametrize("mutant", STREAMED, ids=str)
def test_no_step_of_a_streamed_file_can_be_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, install: Callable[[Mutant], None], mutant: Mutant
) -> None:
    install(mutant)
    assert violated(lambda: streamed(tmp_path, monkeypatch))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked(begin(tmp_path_factory.mktemp("mutations") / "run")).path


@pytest.mark.parametrize("mutant", CHECKSUMS, ids=str)
def test_no_check_can_be_left_out(
    whole: Path, undisturbed: dict[str, bytes], install: Callable[[Mutant], None], mutant: Mutant
) -> None:
    install(mutant)
    assert violated(lambda: damages(whole, undisturbed))


@pytest.mark.filterwarnings("ignore:.*took over the lock")
def test_functions_that_were_only_compiled_again_pass_all_checks(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    whole: Path,
    undisturbed: dict[str, bytes],
    install: Callable[[Mutant], None],
) -> None:
    for mutant in ALL:
        if not mutant.what:
            install(mutant)
    power_cuts(tmp_path, monkeypatch, undisturbed)
    damages(whole, undisturbed)
    (tmp_path / "streamed").mkdir()
    streamed(tmp_path / "streamed", monkeypatch)
