"""Whatever read of the disk fails, with EIO or EACCES: a verb gives the answer it gave before, or an error; never another one."""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mcscore.cli import main
from mcscore.errors import RunError
from mcscore.pool import Pool
from mcscore.run import score_pool

from .fakes import SPAN, FakePool, FakeScorer, content, fail_at, unpacked

N = 100
CALLS = [(os, "stat"), (os, "lstat"), (os, "open"), (os, "listdir"), (os, "scandir"), (os, "fstat")]
CALLS += [(os, "preadv"), (io, "open"), (builtins, "open")]


class Failing:
    """A file all of whose reads fail."""

    def __init__(self, file: Any, error: OSError) -> None:
        self.file, self.error = file, error

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> Failing:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def read(self, *_: object) -> Any:
        raise self.error


@contextlib.contextmanager
def failing(root: Path, n: int, code: int, how: str) -> Iterator[list[str]]:
    """Let the n-th look at a file below ``root`` fail; the files that were looked at come out."""
    seen: list[str] = []
    descriptors: dict[int, str] = {}

    def is_ours(name: str, args: tuple[Any, ...], mode: Any) -> str | None:
        if name in ("fstat", "preadv"):
            return descriptors.get(args[0])
        if not args or not isinstance(args[0], (str, os.PathLike)):
            return None
        path = os.fspath(args[0])
        writes = name == "open" and any(letter in str(mode) for letter in "wax+")
        return path if str(path).startswith(str(root)) and not writes else None

    def call(name: str, module_of_files: bool, real: Callable[..., Any], *args: Any, **more: Any) -> Any:
        mode = args[1] if len(args) > 1 and isinstance(args[1], str) else more.get("mode", "r")
        path = is_ours(name, args, mode)
        if path is None:
            return real(*args, **more)
        seen.append(path)
        error = OSError(code, os.strerror(code), path)
        if len(seen) == n + 1 and not (how == "read" and module_of_files):
            raise error
        result = real(*args, **more)
        if isinstance(result, int):
            descriptors[result] = path
        return Failing(result, error) if len(seen) == n + 1 else result

    with pytest.MonkeyPatch.context() as patch:
        for module, name in CALLS:
            real = getattr(module, name)
            of_files = module is not os
            patch.setattr(module, name, lambda *a, _f=(name, of_files, real), **m: call(*_f, *a, **m))
        yield seen


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("reads")
    pool = Pool.create(root / "pool", FakePool().read(0, N), keys=[f"{i}.png" for i in range(N)], classes=["a"])
    score_pool(pool, FakeScorer(), root / "run", span=SPAN).select(9, by="bald", diversity="none")  # type: ignore[arg-type]
    unpacked(score_pool(pool, FakeScorer(), root / "single", span=SPAN))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="could not be scored"):
        score_pool(pool, FakeScorer(on_block=fail_at(85)), root / "half", span=SPAN)  # type: ignore[arg-type]
    return root


VERBS: dict[str, str] = {
    "info": "run info {}/run",
    "info of single records": "run info {}/single",
    "info of a half": "run info {}/half",
    "verify": "run verify {}/run",
    "verify of single records": "run verify {}/single",
    "verify of a half": "run verify {}/half",
    "select": "select {}/run -k 9 --diversity none",
    "export": "export {}/run --format jsonl --out {}/all.jsonl",
    "export of a selection": "export {}/run --format jsonl --selection latest --out {}/chosen.jsonl",
    "pool info": "pool info {}/pool",
}


def ask(root: Path, verb: str, *fault: Any) -> tuple[Any, str]:
    """(exit code and answer, what was said)."""
    with failing(root, *fault) if fault else contextlib.nullcontext():
        result = _asked(root, verb)
    out = root / ("chosen.jsonl" if "selection" in verb else "all.jsonl")
    answer = json.loads(result.stdout) if result.stdout else None
    if (
        verb == "select" and answer is not None
    ):  # which gets a number of its own if it cannot be compared with the newest
        answer = {name: said for name, said in answer.items() if name not in ("file", "selection", "new", "warnings")}
    data = out.read_bytes() if verb.startswith("export") and out.exists() else b""
    return (result.exit_code, answer, data), result.output


def _asked(root: Path, verb: str) -> Result:
    result = CliRunner().invoke(main, [*VERBS[verb].replace("{}", str(root)).split(), "--json"])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def faults(looks: list[str]) -> Iterator[tuple[int, int, str]]:
    """(look, error, how): each look fails both ways, with one error each, and the next look with the other."""
    for n in range(len(looks)):
        yield n, (errno.EIO, errno.EACCES)[n % 2], "call"
        yield n, (errno.EACCES, errno.EIO)[n % 2], "read"


@pytest.mark.parametrize("verb", VERBS)
def test_a_read_that_fails_gives_no_other_answer(made: Path, verb: str) -> None:
    expected, _ = ask(made, verb)
    with failing(made, 10**9, errno.EIO, "call") as looks:
        _asked(made, verb)
    assert len(looks) > 5
    refused = 0
    for n, code, how in faults(looks):
        answer, said = ask(made, verb, n, code, how)
        if answer != expected:
            assert answer[0] != 0, (n, looks[n], how, said)
            assert Path(looks[n]).name in said or str(made) in said, (looks[n], said)
            refused += 1
    assert refused > 5, refused
    assert ask(made, verb)[0] == expected


@pytest.mark.parametrize("which", ["run", "single", "half"])
def test_a_resumed_run_scores_nothing_again_in_silence(made: Path, tmp_path: Path, which: str) -> None:
    def resume(*fault: Any) -> tuple[dict[str, bytes] | None, list[int], str, list[str]]:
        out = Path(shutil.copytree(made / which, tmp_path / "out"))
        scorer, run, looks = FakeScorer(), None, []
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            with failing(out, *fault) as looks, contextlib.suppress(RunError, OSError):
                run = score_pool(Pool.open(made / "pool"), scorer, out)  # type: ignore[arg-type]
        values = None if run is None else content(run)
        shutil.rmtree(out)
        return values, scorer.seen, " ".join(str(each.message) for each in said), looks

    expected, scored, _, looks = resume(10**9, errno.EIO, "call")
    for n, code, how in faults(looks):
        values, seen, said, _ = resume(n, code, how)
        assert values in (None, expected)
        if seen not in ([], scored):
            assert code == errno.EIO, (n, looks[n])  # a bad sector; what may not be read is not lost
            assert "the disk cannot read it; what is damaged is scored again" in said, (n, looks[n], said)
