"""Whatever happens at whatever moment, going on ends in the scores of an undisturbed run."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mcscore import atomic
from mcscore.errors import RunError
from mcscore.run import score_pool
from mcscore.run.run import Run

from ..power import Disk, lay_out
from .fakes import SPAN, FakePool, FakeScorer, N, at_step, begin, content, go_on, half, kill_five_times, killed_at


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    with at_step(10**9, lambda *_: None) as seen:
        begin(tmp_path_factory.mktemp("steps") / "run")
    others = {"remove_tree", "link_directory"}  # which clears up after a failure; which is for a pool made of others
    assert set(seen) == set(atomic.STEPS) - others
    return seen


def finish(out: Path) -> dict[str, bytes]:
    """Score on after whatever happened; only a run that had begun has a plan to adopt."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the lock is taken over is told
        return content(go_on(out) if (out / "run.json").exists() else begin(out))


def test_any_step_may_fail(tmp_path: Path, steps: list[str], undisturbed: dict[str, bytes]) -> None:
    for n, step in enumerate(steps):
        code = (errno.ENOSPC, errno.EIO)[n % 2]

        def fail(name: str, args: tuple[Any, ...], code: int = code) -> None:
            half(name, args)
            raise OSError(code, os.strerror(code), str(args[0]))

        out = tmp_path / f"{n}"
        with at_step(n, fail):
            if step == "remove":  # of a temporary name, or of the lock: nothing is lost
                assert content(begin(out)) == undisturbed
            else:
                with pytest.raises(RunError, match=os.strerror(code)):
                    begin(out)
        assert finish(out) == undisturbed, (n, step)
        assert not list(out.rglob("*.tmp")), (n, step)


def test_a_kill_may_come_at_any_step(tmp_path: Path, steps: list[str], undisturbed: dict[str, bytes]) -> None:
    for n, step in enumerate(steps):
        out = tmp_path / f"{n}"
        killed_at(n, partial(begin, out))
        assert finish(out) == undisturbed, (n, step)
        assert {path.name for path in out.iterdir()} == {"run.json", "commits", "scores.zarr", "skipped"}, (n, step)
        assert not list(out.rglob("*.tmp")), (n, step)


def cut_power_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **how: Any) -> Iterator[tuple[Path, int]]:
    """(run directory after the cut, items that had been called done before it), once for each different outcome."""
    outcomes: dict[Any, int] = {}
    done = 0
    seed = int(os.environ.get("MCSCORE_POWER_SEED", random.randrange(10**6)))
    print(f"MCSCORE_POWER_SEED={seed}")  # pytest shows it when the test fails
    rng = random.Random(seed)
    root = tmp_path / "disk"
    root.mkdir()

    def progress(items: int, _total: int) -> None:
        nonlocal done
        if items % SPAN == 0 or items == N:  # the end of a span: said when it is committed
            done = items

    with monkeypatch.context() as patch:
        following = Disk(root, patch, **how)

        def note() -> None:
            for names_kept in (False, True):
                outcomes[tuple(sorted(following.after_cut(names_kept=names_kept).items()))] = done
            outcomes[tuple(sorted(following.after_random_cut(rng).items()))] = done

        following.after_step = note  # type: ignore[method-assign]
        score_pool(FakePool(), FakeScorer(), root / "run", span=SPAN, progress=progress)
    for number, (tree, promised) in enumerate(outcomes.items()):
        where = tmp_path / f"after-{number}"
        lay_out(dict(tree), where)
        yield where / "run", promised


@pytest.mark.filterwarnings("ignore:.*took over the lock")
def test_a_power_cut_may_come_at_any_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, bytes]
) -> None:
    promises = []
    for out, promised in cut_power_at_every_step(tmp_path, monkeypatch):
        kept: list[int] = []
        scorer = FakeScorer(step=2 if (out / "run.json").exists() else 1)
        run = score_pool(FakePool(), scorer, out, span=SPAN, progress=lambda done, _, kept=kept: kept.append(done))
        assert content(run) == undisturbed
        assert kept[0] >= promised  # what was said to be done is done
        promises.append(promised)
    assert set(promises) == {0, 40, 80, 100}
    assert len(promises) > 20


@pytest.mark.filterwarnings("ignore:.*took over the lock")
@pytest.mark.parametrize("forgotten", ["file", "directory"])
def test_the_simulated_power_cut_would_find_a_forgotten_fsync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: str
) -> None:
    lost = False
    for out, promised in cut_power_at_every_step(tmp_path, monkeypatch, ignore_sync_of=forgotten):
        kept = [-1]
        try:
            score_pool(FakePool(), FakeScorer(), out, span=SPAN, progress=lambda done, _, kept=kept: kept.append(done))
        except RunError:  # run.json is there and empty
            lost = True
        lost |= kept[1:2] < [promised]
    assert lost


def test_five_real_kills(out: Path, undisturbed: dict[str, bytes]) -> None:
    kill_five_times(str(out))
    assert finish(out) == undisturbed


# -- real disks --------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB of its own; skips where none can be mounted."""
    where = tmp_path / "small"
    where.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(where)]
    if mount is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    yield where
    subprocess.run(["umount", "-l", str(where)], check=True)


def test_a_full_disk_stops_the_run_and_space_lets_it_go_on(small_disk: Path) -> None:
    # a shard and a record per span, each on pages of its own: some spans fit, not all.
    out, ballast = small_disk / "run", small_disk / "ballast"
    ballast.write_bytes(bytes(4096))
    with pytest.raises(RunError, match=r"could not be written. [1-9]\d* of 1,000 items are done.*No space left"):
        score_pool(FakePool(1000), FakeScorer(), out, span=50)
    stopped_at = Run.open(out).done
    assert 0 < stopped_at < 1000
    assert not list(out.rglob("*.tmp"))
    with pytest.raises(RunError, match="No space left"):
        score_pool(FakePool(1000), FakeScorer(), out, span=50)
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    run = score_pool(FakePool(1000), FakeScorer(step=2), out, span=50)
    assert run.complete
    other = score_pool(FakePool(1000), FakeScorer(), small_disk / "other", span=50)
    assert content(run) == content(other)


def test_a_full_disk_makes_no_run(small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(56 << 10))
    with pytest.raises(RunError, match=r"could not be made a run: .*No space left"):
        begin(small_disk / "run")
    assert not (small_disk / "run").exists()


def test_a_read_only_disk_is_told(small_disk: Path, undisturbed: dict[str, bytes]) -> None:
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    begin(small_disk / "run")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(RunError, match="Read-only file system"):
        begin(small_disk / "new")
    with pytest.raises(RunError, match=r"cannot be locked: .*Read-only file system"):
        go_on(small_disk / "run")
    assert content(Run.open(small_disk / "run")) == undisturbed


def test_steps_are_all_there_is(monkeypatch: pytest.MonkeyPatch, out: Path) -> None:
    """Nothing changes the disk past the steps: with all of them stubbed there is no run."""
    for name in atomic.STEPS:
        monkeypatch.setattr(atomic, name, lambda *_args: None)
    with pytest.raises((RunError, OSError)):
        begin(out)
    assert not out.exists()
    assert list(out.parent.iterdir()) == []
