"""Every fsync, rename and checksum is needed: with any one of them taken out, a check of this suite fails.

The source of the functions is parsed, one statement or condition is replaced by nothing, and the result takes the place of
the function while the check runs.
"""

from __future__ import annotations

import contextlib
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mcscore import atomic
from mcscore.errors import RunError
from mcscore.run import score_pool
from mcscore.run.journal import Journal, ShardLayout, records
from mcscore.run.journal.shard import ShardHeader
from mcscore.run.run import Run

from ..mutants import Mutant, mutants
from .fakes import SPAN, FakePool, FakeScorer, N, begin, content, unpacked
from .test_crash import cut_power_at_every_step
from .test_resume import DAMAGE

# Functions with steps in them, by what holds them; the others have conditions that find damage.
# replace_file stands in tests/test_atomic.py: a run loses by it only what it writes again, so a power cut here finds it by luck.
WRITING = [(atomic, name) for name in ("_written_beside", "create_file", "create_directory")]
READING = [
    *((Journal, name) for name in ("_load", "_check", "_checked")),
    (ShardLayout, "decode"),
    (ShardHeader, "from_bytes"),
    (records, "_checked"),
]
ALL = list(mutants(WRITING + READING))
DURABILITY = [mutant for mutant in ALL if mutant.what and mutant.owner is atomic]
CHECKSUMS = [mutant for mutant in ALL if mutant.what and mutant.owner is not atomic]


def test_there_are_mutants_of_every_step_and_check() -> None:
    assert [str(mutant) for mutant in DURABILITY] == [
        "_written_beside: without sync(temporary)",
        "create_file: without link(temporary, path)",
        "create_file: without sync(path.parent)",
        "create_directory: without sync(folder.parent)",
    ]
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
