"""Whatever fails, and whenever the power goes: a file or directory is as it was or as it should be, and then stays so."""

from __future__ import annotations

import ast
import errno
import os
import random
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from mcscore import atomic
from mcscore.machine import machine

from .mutants import Mutant, mutants
from .power import Disk, Tree, lay_out
from .steps import at_step, half

BEFORE: Tree = {
    Path("file"): b"old",
    Path("folder"): None,
    Path("folder/a"): b"a",
    Path("folder/deep"): None,
    Path("folder/deep/b"): b"b",
    Path("target"): None,
    Path("target/a"): b"replaced by a",
}


def without(*gone: str) -> Tree:
    return {path: data for path, data in BEFORE.items() if not any(path.is_relative_to(name) for name in gone)}


def at(**content: bytes | None) -> Tree:
    return {Path(name.replace("__", "/")): data for name, data in content.items()}


@dataclass(frozen=True)
class Case:
    call: Callable[[Path], None]
    after: Tree
    between: tuple[Tree, ...] = ()  # what else may be there after a stop: work that comes in parts

    def states(self) -> list[Tree]:
        return [BEFORE, self.after, *self.between]


def streamed(root: Path) -> None:
    with atomic.replaced(root / "file") as file:
        file.write(b"new, ")
        file.write(b"in parts")


def streamed_to(path: Path) -> None:
    with atomic.replaced(path) as file:
        file.write(b"new")


def filled(root: Path) -> None:
    with atomic.new_directory(root / "new") as folder:
        atomic.make_directory(folder / "inside")  # new_directory syncs the names in it
        atomic.replace_file(folder / "inside" / "c", b"c")


MOVED = at(target__a=b"a", target__deep=None, target__deep__b=b"b", folder=None, folder__deep=None)
NEW = at(new=None, new__inside=None, new__inside__c=b"c")
CASES = {
    "replace_file": Case(lambda root: atomic.replace_file(root / "file", b"ne", b"w"), {**BEFORE, **at(file=b"new")}),
    "replaced": Case(streamed, {**BEFORE, **at(file=b"new, in parts")}),
    "create_file": Case(lambda root: atomic.create_file(root / "new", b"ne", b"w"), {**BEFORE, **at(new=b"new")}),
    "create_directory": Case(
        lambda root: atomic.create_directory(root / "x" / "y"),
        {**BEFORE, **at(x=None, x__y=None)},
        ({**BEFORE, **at(x=None)},),
    ),
    "new_directory": Case(filled, {**BEFORE, **NEW}),
    "move": Case(
        lambda root: atomic.move(root / "folder", root / "target" / "folder"),
        {**without("folder"), **at(target__folder=None, target__folder__a=b"a")}
        | at(target__folder__deep=None, target__folder__deep__b=b"b"),
    ),
    "move_files": Case(
        lambda root: atomic.move_files(root / "folder", root / "target"), {**without("folder"), **MOVED}
    ),
    "discard_directory": Case(lambda root: atomic.discard_directory(root / "folder"), without("folder")),
}
EACH = pytest.mark.parametrize("name", CASES)


def seen_of(tree: Tree) -> Tree:
    """Without what stands under a temporary name."""
    ends = (atomic.TEMPORARY, atomic.DISCARDED)
    return {path: data for path, data in tree.items() if not any(part.endswith(ends) for part in path.parts)}


def tree_of(root: Path) -> Tree:
    return {path.relative_to(root): None if path.is_dir() else path.read_bytes() for path in root.rglob("*")}


def is_part_of_a_move(tree: Tree) -> bool:
    """Each file of folder is at one of its places, or at both."""
    whole = {"a": b"a", "deep/b": b"b"}
    places = {name: {tree.get(Path(top, name)) for top in ("folder", "target")} for name in whole}
    return tree[Path("file")] == b"old" and all(data in places[name] for name, data in whole.items())


def may_be(name: str, tree: Tree) -> bool:
    if name == "move":  # for a moment a disk may have both names, and never none
        return any({**state, **tree} == tree for state in CASES[name].states())
    if name == "move_files":
        return is_part_of_a_move(tree)
    return tree in CASES[name].states()


# -- a step fails, or is the last --------------------------------------------------------------------------------------


def steps_of(name: str, root: Path) -> list[str]:
    lay_out(BEFORE, root)
    with at_step(10**9, lambda *_: None) as seen:
        CASES[name].call(root)
    assert tree_of(root) == CASES[name].after
    return seen


@EACH
def test_when_a_step_fails_all_is_as_it_was_or_as_it_should_be(name: str, tmp_path: Path) -> None:
    for n, step in enumerate(steps_of(name, tmp_path / "whole")):

        def fail(step: str, args: tuple[Path, ...]) -> None:
            half(step, args)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(args[0]))

        root = tmp_path / f"{n}"
        lay_out(BEFORE, root)
        with at_step(n, fail), suppress(OSError):
            CASES[name].call(root)
            assert step in ("remove", "remove_tree"), "the failure was swallowed"
        left = tree_of(root)
        assert may_be(name, seen_of(left)), (n, step)
        if step not in ("remove", "remove_tree") and name != "discard_directory":
            assert left == seen_of(left), (n, step, "a temporary is left")


@EACH
def test_a_kill_at_any_step_leaves_the_old_or_the_new(name: str, tmp_path: Path) -> None:
    for n, step in enumerate(steps_of(name, tmp_path / "whole")):

        def die(step: str, args: tuple[Path, ...]) -> None:
            half(step, args)
            os._exit(9)

        root = tmp_path / f"{n}"
        lay_out(BEFORE, root)
        with at_step(n, die):
            child = os.fork()
            if child == 0:
                try:
                    CASES[name].call(root)
                finally:
                    os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        assert may_be(name, seen_of(tree_of(root))), (n, step)


# -- the power goes ----------------------------------------------------------------------------------------------------


def cut_at_every_step(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise AssertionError where a power cut leaves what may not be, or takes back what had returned."""
    lay_out(BEFORE, root)
    rng = random.Random(0)
    with monkeypatch.context() as patch:
        disk = Disk(root, patch)

        def cuts() -> list[Tree]:
            kept = [disk.after_cut(names_kept=kept) for kept in (False, True)]
            # A rename from one directory to another is one change of the disk; cut at random, both names could be gone.
            parts = 0 if name in ("move", "move_files") else 4
            return [seen_of(tree) for tree in (*kept, *(disk.after_random_cut(rng) for _ in range(parts)))]

        def check() -> None:
            for tree in cuts():
                assert may_be(name, tree)

        disk.after_step = check  # type: ignore[method-assign]
        CASES[name].call(root)
        for tree in cuts():
            assert {**tree, **CASES[name].after} == tree
            assert name == "move_files" or tree == CASES[name].after  # the names it took files from may come back


@EACH
def test_a_power_cut_at_any_step_leaves_the_old_or_the_new(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_at_every_step(name, tmp_path / "disk", monkeypatch)


WRITERS = {"_written_beside": "replace_file"}  # tested by what calls it
MUTANTS = list(mutants([(atomic, name) for name in (*CASES, *WRITERS)]))


@pytest.mark.parametrize("mutant", [m for m in MUTANTS if m.what and "without if" not in m.what], ids=str)
def test_no_step_can_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mutant: Mutant) -> None:
    monkeypatch.setattr(atomic, mutant.name, mutant.function)
    with pytest.raises((AssertionError, KeyError)):
        cut_at_every_step(WRITERS.get(mutant.name, mutant.name), tmp_path / "disk", monkeypatch)


def test_there_is_a_mutant_of_every_step() -> None:
    found = [str(mutant) for mutant in MUTANTS if mutant.what]
    assert len([line for line in found if "sync(" in line]) == 12, found
    assert len([line for line in found if "rename(" in line]) == 6, found


def test_functions_that_were_only_compiled_again_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for mutant in MUTANTS:
        if not mutant.what:
            monkeypatch.setattr(atomic, mutant.name, mutant.function)
    for name in CASES:
        cut_at_every_step(name, tmp_path / name, monkeypatch)


# -- several at a time, and leftovers ----------------------------------------------------------------------------------


def test_of_several_that_create_a_file_one_succeeds(tmp_path: Path) -> None:
    atomic.create_file(tmp_path / "a", b"first")
    with pytest.raises(FileExistsError):
        atomic.create_file(tmp_path / "a", b"second")
    assert tree_of(tmp_path) == {Path("a"): b"first"}


def test_two_writers_of_a_process_do_not_share_a_temporary_name(tmp_path: Path) -> None:
    with atomic.replaced(tmp_path / "a") as one, atomic.replaced(tmp_path / "a") as other:
        one.write(b"one")
        other.write(b"other")
    assert tree_of(tmp_path) == {Path("a"): b"one"}  # the one that ended last


DEAD = 2**22 + 1  # no process has this number


def test_a_streamed_file_removes_what_the_dead_left_and_spares_the_living(tmp_path: Path) -> None:
    (tmp_path / f"a.{machine()}-{DEAD}-5eed0a1b.tmp").touch()
    (tmp_path / f"a.{machine()}-{DEAD}-0.tmp").touch()  # as older versions named it
    (tmp_path / f"a.{machine()}-{os.getpid()}-5eed0a1b.tmp").touch()  # of an earlier process that had this one's number
    spared = [f"a.{machine()}-{os.getppid()}-7.tmp", f"a.00000000-{DEAD}-0.tmp", "a.tmp", "a.b.tmp"]
    for name in spared:
        (tmp_path / name).touch()
    with atomic.replaced(tmp_path / "other"), atomic.replaced(tmp_path / "a") as file:  # which spares the one around it
        file.write(b"x")
    assert sorted(os.listdir(tmp_path)) == sorted(["a", "other", *spared])


def test_what_another_machine_writes_is_removed_once_nobody_has_written_to_it_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skew = 10_000.0  # the clock of the file server is ahead of ours, so that by ours nothing is old

    assert abs(atomic._clock_of(tmp_path) - time.time()) < 5
    assert os.listdir(tmp_path) == []
    now = time.time() + skew
    monkeypatch.setattr(atomic, "_clock_of", lambda _directory: now)
    ages = {"new": 1.0, "slow": atomic.ABANDONED_SECONDS - 10, "old": atomic.ABANDONED_SECONDS + 10}
    for name, age in ages.items():
        (tmp_path / f"{name}.00000000-{os.getpid()}-1.tmp").touch()
        os.utime(tmp_path / f"{name}.00000000-{os.getpid()}-1.tmp", (now - age, now - age))
    atomic.discard_abandoned(tmp_path)
    assert sorted(name.split(".")[0] for name in os.listdir(tmp_path)) == ["new", "slow"]


def test_only_what_matches_is_removed(tmp_path: Path) -> None:
    names = [f"{name}.{machine()}-{DEAD}-0.tmp" for name in ("run.json", "commits/1", "scores/c/0/1", "else/1")]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    atomic.discard_abandoned(tmp_path, "*", "commits/*", "scores/**/*")
    assert [name for name in names if (tmp_path / name).exists()] == names[3:]


def test_a_file_that_is_only_shown_is_whole_for_every_reader(tmp_path: Path) -> None:
    with at_step(10**9, lambda *_: None) as seen:
        for text in (b"old", b"new"):
            atomic.show_file(tmp_path / "a", text[:1], text[1:])
            assert tree_of(tmp_path) == {Path("a"): text}
        with pytest.raises(TypeError):
            atomic.show_file(tmp_path / "a", b"half", None)
    assert tree_of(tmp_path) == {Path("a"): b"new"}
    assert seen == ["remove"]  # of what failed: no power cut matters to it


WRITING = {
    "replace_file": lambda path: atomic.replace_file(path, b"new"),
    "replaced": streamed_to,
    "create_file": lambda path: atomic.create_file(path, b"new"),
}


@pytest.mark.parametrize("writer", WRITING)
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path: Path, writer: str, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        WRITING[writer](tmp_path / "a")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


@pytest.mark.parametrize("writer", ["replace_file", "replaced"])
@pytest.mark.parametrize("mode", [0o600, 0o664, 0o444])
def test_a_replaced_file_keeps_its_mode(tmp_path: Path, writer: str, mode: int) -> None:
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "a").chmod(mode)
    WRITING[writer](tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


def test_the_mode_of_what_a_link_points_to_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"old")
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "a").symlink_to("secret")
    before = os.umask(0o022)
    try:
        atomic.replace_file(tmp_path / "a", b"new")
    finally:
        os.umask(before)
    assert (tmp_path / "secret").read_bytes() == b"old"
    assert stat.S_IMODE((tmp_path / "a").lstat().st_mode) == 0o644


def test_a_directory_is_made_once(tmp_path: Path) -> None:
    filled(tmp_path)
    with pytest.raises(OSError, match="not empty"):
        filled(tmp_path)
    assert tree_of(tmp_path) == NEW


def test_what_a_killed_discard_left_is_cleared(tmp_path: Path) -> None:
    lay_out(BEFORE, tmp_path / "r")
    with at_step(2, lambda *_: None):  # the tree stays
        atomic.discard_directory(tmp_path / "r" / "folder")
    assert seen_of(tree_of(tmp_path / "r")) == without("folder") != tree_of(tmp_path / "r")
    atomic.discard_leftovers(tmp_path / "r" / "folder")
    assert tree_of(tmp_path / "r") == without("folder")


# -- the only one ------------------------------------------------------------------------------------------------------

PACKAGE = Path(atomic.__file__).parent
WRITES = {
    "write_text", "write_bytes", "mkdir", "makedirs", "touch", "symlink_to", "hardlink_to",
    "os.replace", "os.rename", "os.link", "os.fsync", "os.mkdir", "shutil.move", "shutil.copy", "copytree", "tempfile.mkstemp",
}  # fmt: skip
# clock.py writes to /proc, and output.py to the stderr that it has kept: neither to a file.
ELSEWHERE = {"atomic.py", "bench/clock.py", "cli/output.py"}


def is_write(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    if name in WRITES or name.rpartition(".")[2] in WRITES:
        return True
    modes = [*call.args[:2], *(word.value for word in call.keywords if word.arg == "mode")]
    if name.rpartition(".")[2] != "open":
        return False
    return any(isinstance(mode, ast.Constant) and str(mode.value).strip("bt+") in ("w", "a", "x") for mode in modes)


def test_nothing_else_in_the_package_writes_files() -> None:
    found = [
        f"{file.relative_to(PACKAGE)}:{node.lineno}"
        for file in PACKAGE.rglob("*.py")
        if str(file.relative_to(PACKAGE)) not in ELSEWHERE
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and is_write(node)
    ]
    assert found == []


def test_a_write_would_be_found() -> None:
    for line in ("open(p, 'wb')", "p.open(mode='a')", "os.replace(a, b)", "p.write_text('')", "p.parent.mkdir()"):
        assert is_write(ast.parse(line, mode="eval").body), line  # type: ignore[arg-type]
    for line in ("open(p)", "Pool.open(path)", "p.open('rb')", "text.replace('a', 'b')", "os.open(p, os.O_RDONLY)"):
        assert not is_write(ast.parse(line, mode="eval").body), line  # type: ignore[arg-type]
