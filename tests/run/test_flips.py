"""One flipped byte in any metadata file: every verb gives what it gave before, or an error; nothing is scored again unseen.

More flips, with another seed: PYTHONPATH=. python -m tests.run.test_flips SEED FLIPS
"""

from __future__ import annotations

import collections
import json
import random
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mcscore.errors import Error
from mcscore.pool import Pool
from mcscore.run import Run, score_pool
from mcscore.run.status import info, verify

from .fakes import SPAN, FakePool, FakeScorer, content, unpacked

N = 100
SELECTION = "selection-0001.parquet"
FILES = {
    "run.json": lambda run: run / "run.json",
    "record": lambda run: run / "commits" / "000001.json",
    "packed records": lambda run: run / "commits" / "packed.jsonl",
    "zarr.json": lambda run: run / "scores.zarr" / "zarr.json",
    "selection": lambda run: run / SELECTION,
}


def resume(pool: Pool, run: Path) -> Any:
    scorer = FakeScorer()
    return content(score_pool(pool, scorer, run)), scorer.seen  # type: ignore[arg-type]


def facts_of(run: Path) -> Any:
    facts = info(run).facts()
    if damage := facts.pop("damage"):
        raise Error(str(damage))  # the exit code is 1
    return facts


def whole(run: Path) -> Any:
    if found := verify(run):
        raise Error(str(found))  # the exit code is 1


# What a caller sees of each verb; the selection is made last, as it writes another file.
VERBS: dict[str, Callable[[Pool, Path], Any]] = {
    "info": lambda _pool, run: facts_of(run),
    "verify": lambda _pool, run: whole(run),
    "export": lambda pool, run: Run.open(run).export("jsonl", run.with_name("a"), pool=pool).read_bytes(),
    "export selection": lambda pool, run: (
        Run.open(run).export("jsonl", run.with_name("b"), selection=run / SELECTION, pool=pool).read_bytes()
    ),
    "select": lambda pool, run: Run.open(run).select(9, by="bald", diversity="none", pool=pool).ids.tolist(),
    "resume": resume,
}


def made(folder: Path, kind: str) -> tuple[Pool, Path]:
    pool = Pool.create(folder / "pool", FakePool().read(0, N), keys=[f"{i}.png" for i in range(N)])
    run = score_pool(pool, FakeScorer(), folder / "run", span=SPAN)  # type: ignore[arg-type]
    run.select(9, by="bald", diversity="none")
    if kind == "record":
        unpacked(run)
    return pool, run.path


def answer(verb: str, pool: Pool, run: Path) -> tuple[str, Any]:
    """("same", what it gave), or ("refused", the error), or ("told", a warning)."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            value = VERBS[verb](pool, run)
        except Error as error:
            refusal = str(error)
        else:
            refusal = ""
    if refusal:
        assert str(run) in refusal
        assert "remove it" not in refusal or "zarr.json" in refusal or SELECTION in refusal
        return "refused", None
    lost = verb == "resume" and any("what is damaged is scored again" in str(each.message) for each in said)
    return "told" if lost else "same", value


def flips(folder: Path, kind: str, seed: int, count: int) -> Iterator[tuple[str, str, str]]:
    """Yield (file, verb, outcome) of so many flips; AssertionError where another answer was given in silence."""
    pool, run = made(folder, kind)
    kept = folder / "kept"
    shutil.copytree(run, kept)
    expected = {}
    for verb in VERBS:
        _, expected[verb] = answer(verb, pool, run)
        shutil.rmtree(run)
        shutil.copytree(kept, run)
    rng = random.Random(f"{seed} {kind}")
    file = FILES[kind](run)
    data = file.read_bytes()
    for _ in range(count):
        at, bits = rng.randrange(len(data)), rng.choice([1 << rng.randrange(8), rng.randrange(1, 256)])
        for verb in VERBS:
            file.write_bytes(data[:at] + bytes([data[at] ^ bits]) + data[at + 1 :])
            outcome, value = answer(verb, pool, run)
            where = f"byte {at} of {kind} ^ {bits}: {verb}"
            if outcome == "same":
                assert value == expected[verb], where
            if outcome == "told":
                assert value[0] == expected[verb][0], where
            yield kind, verb, outcome
            if verb in ("select", "resume"):  # these write
                shutil.rmtree(run)
                shutil.copytree(kept, run)


@pytest.mark.parametrize("kind", FILES)
def test_a_flipped_byte_changes_no_answer_in_silence(tmp_path: Path, kind: str) -> None:
    outcomes = collections.Counter(outcome for _, _, outcome in flips(tmp_path, kind, seed=0, count=30))
    assert sum(outcomes.values()) == 30 * len(VERBS)
    # The checks are at work; what is selected again does not depend on what was selected before.
    assert outcomes["refused"] >= (15 if kind == "selection" else 25)


def main(seed: int, count: int) -> None:
    found: collections.Counter[tuple[str, str, str]] = collections.Counter()
    for kind in FILES:
        with tempfile.TemporaryDirectory() as folder:
            found.update(flips(Path(folder), kind, seed, count))
    for kind in FILES:
        print(
            kind,
            count,
            json.dumps(
                {
                    o: sum(n for (k, _, p), n in found.items() if (k, p) == (kind, o))
                    for o in ("same", "told", "refused")
                }
            ),
        )


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
