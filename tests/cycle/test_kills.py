"""A cycle that is killed, anywhere, goes on and ends in what one that was never killed ends in."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcscore import Pool
from mcscore.cycle import cycle

from ..steps import at_step
from .conftest import ARGUMENTS, evaluate, fit, left, oracle, told

ROOT = Path(__file__).resolve().parents[2]
SHORT = {**ARGUMENTS, "rounds": 2}


class Killed(BaseException):
    """Nothing that would come after this happens."""


@pytest.fixture(scope="module")
def undisturbed(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("whole") / "c"
    turns = list(cycle(pool, out=out, **SHORT))
    return {"told": told(turns), "left": left(out)}


def go_on(pool: Pool, out: Path) -> dict[str, Any]:
    return {"told": told(list(cycle(pool, out=out, **SHORT))), "left": left(out)}


@pytest.mark.parametrize("where", ["fit", "evaluate", "oracle"])
@pytest.mark.parametrize("time", [1, 2])
def test_a_kill_in_a_function_of_the_users(
    pool: Pool, tmp_path: Path, undisturbed: dict[str, Any], where: str, time: int
) -> None:
    calls = 0

    def killing(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == time + 1:
            raise Killed
        return {"fit": fit, "evaluate": evaluate, "oracle": oracle}[where](*args)

    with pytest.raises(Killed):
        list(cycle(pool, out=tmp_path / "c", **{**SHORT, where: killing}))
    assert go_on(pool, tmp_path / "c") == undisturbed


def test_a_kill_at_any_step_on_disk_of_the_cycle_itself(
    pool: Pool, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    with at_step(10**9, lambda *_: None) as steps:
        list(cycle(pool, out=tmp_path / "all", **SHORT))

    def die(_name: str, _args: tuple[Any, ...]) -> None:
        raise Killed

    rng = random.Random(0)
    for n in sorted({*range(8), *rng.sample(range(8, len(steps)), 4)}):
        out = tmp_path / f"{n}"
        with at_step(n, die), pytest.raises(Killed):
            list(cycle(pool, out=out, **SHORT))
        assert go_on(pool, out) == undisturbed, (n, steps[n])


def test_labels_that_were_not_given_any_more_are_given_once(
    pool: Pool, tmp_path: Path, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def counting(ids: np.ndarray) -> np.ndarray:
        asked.extend(ids.tolist())
        return oracle(ids)

    turns = cycle(pool, out=tmp_path / "c", **{**SHORT, "oracle": counting})
    next(turns)
    real = Pool.set_labels
    monkeypatch.setattr(Pool, "set_labels", lambda *_args, **_how: (_ for _ in ()).throw(Killed()))
    with pytest.raises(Killed):
        next(turns)
    monkeypatch.setattr(Pool, "set_labels", real)
    assert (tmp_path / "c/rounds/round-01.json").exists()
    list(cycle(pool, out=tmp_path / "c", **{**SHORT, "oracle": counting}))
    assert left(tmp_path / "c") == undisturbed["left"]
    assert len(asked) == len(set(asked)) == 3 + 10


def test_training_that_is_not_reproducible_does_not_stop_it(pool: Pool, tmp_path: Path) -> None:
    salt = 0

    def other(own: Pool, labeled: np.ndarray, seed: int) -> Any:
        return fit(own, labeled, seed + salt)

    def dying(ids: np.ndarray) -> np.ndarray:
        if len(ids) == 5:
            raise Killed
        return oracle(ids)

    with pytest.raises(Killed):
        list(cycle(pool, out=tmp_path / "c", **{**SHORT, "fit": other, "oracle": dying}))
    salt = 7
    turns = list(cycle(pool, out=tmp_path / "c", **{**SHORT, "fit": other}))
    assert [turn.labels for turn in turns] == [3, 8, 13]


def test_real_kills(pool: Pool, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    code = (
        "import sys; from mcscore import Pool; from mcscore.cycle import cycle; from tests.cycle.test_kills import SHORT\n"
        f"for turn in cycle(Pool.open({str(pool.path)!r}), out={str(tmp_path / 'c')!r}, **SHORT): print(turn.index, flush=True)"
    )
    rng = random.Random(int(os.environ.get("MCSCORE_KILL_SEED", 0)))
    command = [sys.executable, "-W", "ignore", "-c", code]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "0\n"
        time.sleep(rng.uniform(0, 0.05))
        child.send_signal(signal.SIGKILL)
    assert go_on(pool, tmp_path / "c") == undisturbed
