"""Processes score a run: the same bits as one process, whatever is killed. The processes, pool and model are real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mcscore import Pool, Scorer, score_pool
from mcscore.errors import ModelError, RunError, Stopped
from mcscore.recipe import FromSpec
from mcscore.run import Run
from mcscore.run.scoring.workers import Workers

from .fakes import content

N, SPAN = 600, 64  # ten spans, the last one partial
NET = """
    import os, signal, time
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.drop, self.b = nn.Linear(8, 16), nn.Dropout(0.4), nn.Linear(16, 3)

        def forward(self, x):
            time.sleep(float(os.environ.get("NET_SECONDS", 0)))
            if os.environ.get("NET_DIES_AT") and bool((x[:, 0] == float(os.environ["NET_DIES_AT"])).any()):
                os.kill(os.getpid(), signal.SIGKILL)
            if os.environ.get("NET_FAILS"):
                raise MemoryError("no memory")
            return self.b(self.drop(torch.relu(self.a(x))))

    def build():
        torch.manual_seed(3)
        return Net(), None

    def build_badly():
        raise KeyError("weights")
"""
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workers")
    (folder / "net.py").write_text(textwrap.dedent(NET))
    items = np.random.default_rng(0).random((N, 8), np.float32)
    items[:, 0] = np.arange(N)
    pool = Pool.create(folder / "pool", items)
    pool.set_labels([3, 70, 599], [0, 1, 2])
    pool.set_excluded([5, 128, 129])
    return folder


def recipe(folder: Path, **options: Any) -> FromSpec:
    return FromSpec(f"{folder}/net.py:build", None, {"passes": 6, **options})


def score(folder: Path, out: Path, workers: int | None = 2, **options: Any) -> Run:
    staff = workers and Workers(workers, threads_each=1)
    return score_pool(
        Pool.open(folder / "pool"), recipe(folder), out, span=SPAN, workers=staff, device="cpu", **options
    )


@pytest.fixture(scope="module")
def local(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The same run by one process, with one thread as the workers have."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return content(score(folder, tmp_path_factory.mktemp("local") / "run", None))
    finally:
        torch.set_num_threads(threads)


def children(pid: int | None = None) -> list[int]:
    pid = pid or os.getpid()
    pids = " ".join(read(f"/proc/{pid}/task/{task}/children") for task in os.listdir(f"/proc/{pid}/task")).split()
    return [int(each) for each in pids if "scoring.child" in read(f"/proc/{each}/cmdline")]


def read(path: str) -> str:
    """A file of /proc, or nothing if its thread or process has ended by now."""
    try:
        return Path(path).read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def killing(when: Callable[[int], bool]) -> Callable[[int, int], None]:
    """As progress: kill a worker once, when so many items are done."""
    done: list[int] = []

    def progress(items: int, _total: int) -> None:
        if not done and when(items) and (found := children()):
            done.append(items)
            os.kill(found[0], signal.SIGKILL)

    return progress


def test_workers_give_the_bits_of_one_process_and_leave_nothing(
    folder: Path, local: dict[str, bytes], out: Path
) -> None:
    told: list[int] = []
    run = score(folder, out, progress=lambda done, _total: told.append(done))
    assert content(run) == local
    assert run.complete
    assert told[-1] == N
    assert told == sorted(told)
    assert not children()
    assert sorted(path.name for path in out.iterdir()) == ["commits", "run.json", "scores.zarr", "skipped"]
    assert run.meta["threads"] == 1


def test_a_worker_that_is_killed_is_replaced(
    folder: Path, local: dict[str, bytes], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NET_SECONDS", "0.1")  # so that the end of one is seen before the other has done all
    with pytest.warns(
        UserWarning, match=r"worker cpu on .* has ended \(killed by SIGKILL\); another one takes its place"
    ):
        run = score(folder, out, progress=killing(lambda done: done > SPAN))
    assert content(run) == local


def test_a_scorer_of_this_process_is_copied_and_its_run_is_taken_up_by_either(
    folder: Path, local: dict[str, bytes], out: Path
) -> None:
    scorer, pool = recipe(folder).build("cpu"), Pool.open(folder / "pool")
    stop = False

    def interrupt(done: int, _total: int) -> None:
        if not stop and done > 4 * SPAN:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Stopped, match="resumable"):
        score_pool(pool, scorer, out, span=SPAN, workers=Workers(2, 1), progress=interrupt)
    done = Run.open(out).done
    assert 0 < done < N
    assert not children()
    stop = True
    assert content(score_pool(pool, scorer, out)) == local


def test_a_model_that_only_this_process_has_is_copied(folder: Path, out: Path, tmp_path: Path) -> None:
    class Here(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(8, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.body(x)

    torch.manual_seed(0)
    pool, scorer = Pool.open(folder / "pool"), Scorer(Here(), passes=5, transform=lambda x: x.float() / N)
    first = content(score_pool(pool, scorer, tmp_path / "local", span=SPAN))
    assert content(score_pool(pool, scorer, out, span=SPAN, workers=2)) == first


@pytest.mark.filterwarnings("ignore")
def test_a_span_that_kills_every_worker_is_named_and_the_others_are_done(
    folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NET_DIES_AT", "300")
    with pytest.raises(RunError) as caught:
        score(folder, out)
    assert "span 4 (items 256..319) of" in str(caught.value)
    assert str(caught.value).count("killed by SIGKILL") == 3
    assert Run.open(out).done == N - SPAN


def test_what_the_model_raises_is_told_as_one_process_tells_it(
    folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match=r"net.py:build_badly failed when called: KeyError"):
        score_pool(Pool.open(folder / "pool"), FromSpec(f"{folder}/net.py:build_badly"), out, workers=2, device="cpu")
    assert not out.exists()
    assert not children()


def test_a_screened_run_is_the_same(folder: Path, out: Path, tmp_path: Path) -> None:
    from mcscore import Screen

    pool, screen = Pool.open(folder / "pool"), Screen(top=20, passes=6)
    by = recipe(folder, passes=24)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one = score_pool(pool, by, tmp_path / "one", span=SPAN, screen=screen, device="cpu")
    finally:
        torch.set_num_threads(threads)
    two = score_pool(pool, by, out, span=SPAN, screen=screen, workers=Workers(2, 1), device="cpu")
    assert content(two) == content(one)
    assert two.meta["cuts"] == one.meta["cuts"]
    assert two.meta["certificate"] == one.meta["certificate"]
    assert two.select(10, diversity="none").ids.tolist() == one.select(10, diversity="none").ids.tolist()


@pytest.fixture
def command(folder: Path, out: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(**environment: str) -> subprocess.Popen[str]:
        words = [
            sys.executable,
            "-m",
            "mcscore.cli",
            "score",
            str(folder / "pool"),
            "--model",
            f"{folder}/net.py:build",
        ]
        words += [
            "--passes",
            "6",
            "--span",
            str(SPAN),
            "--workers",
            "2",
            "--out",
            str(out),
            "--device",
            "cpu",
            "--quiet",
        ]
        child = subprocess.Popen(
            words,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(child)
        return child

    yield start
    for child in started:
        child.kill()
        child.communicate()


def until(holds: Callable[[], Any], seconds: float = 150.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def test_a_driver_that_is_killed_takes_its_workers_with_it(
    folder: Path, local: dict[str, bytes], out: Path, command: Any
) -> None:
    child = command(NET_SECONDS="0.05")
    until(lambda: out.exists() and list(out.glob("commits/*.json")))
    pids = children(child.pid)
    assert len(pids) == 2
    child.kill()
    child.wait()
    until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in pids), 10)
    assert 0 < Run.open(out).done < N
    again = command()
    _, errors = again.communicate(timeout=100)
    assert again.returncode == 0, errors
    assert content(Run.open(out)) == local


def test_ctrl_c_stops_all_of_them(folder: Path, local: dict[str, bytes], out: Path, command: Any) -> None:
    child = command(NET_SECONDS="0.05")
    until(lambda: out.exists() and list(out.glob("commits/*.json")))
    pids = children(child.pid)
    for pid in (child.pid, *pids):  # as a terminal does
        os.kill(pid, signal.SIGINT)
    _, errors = child.communicate(timeout=20)
    assert child.returncode == 3
    assert "the same command resumes" in errors
    assert not any(Path(f"/proc/{pid}/exe").exists() for pid in pids)
    assert not (out / "lock").exists()


def test_who_works_is_seen_by_those_who_watch(folder: Path, out: Path) -> None:
    from mcscore.run.presence import workers_of

    seen = []

    def watch(_done: int, _total: int) -> None:
        seen.extend(workers_of(out))

    score(folder, out, progress=watch)
    assert {worker.what for worker in seen} == {"driver of 2 workers"}
    assert all(worker.pid == os.getpid() and worker.alive for worker in seen)
    assert {each["what"].split(" on ")[0] for worker in seen for each in worker.workers} >= {"cpu"}
    assert workers_of(out) == []


def test_a_pool_that_is_another_for_a_worker_is_refused(folder: Path, tmp_path: Path) -> None:
    """As where a path leads to another pool on another machine."""
    from dataclasses import replace

    from mcscore.run.identity.match import state_of
    from mcscore.run.scoring.orders import Outfit
    from mcscore.run.scoring.worker import Worker

    other = Pool.create(tmp_path / "other", np.zeros((N, 8), np.float32))
    state = replace(state_of(Pool.open(folder / "pool")), path=str(other.path))
    with pytest.raises(RunError, match=r"other was exchanged or changed .* by a worker that reads another pool"):
        Worker(Outfit(state, recipe(folder), 1), "cpu")


def test_embeddings_of_candidates_are_computed_by_workers(folder: Path, out: Path) -> None:
    run, pool, scorer = score(folder, out, None), Pool.open(folder / "pool"), recipe(folder).build("cpu")
    one = run.select(20, candidates=400, scorer=scorer, pool=pool)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        killed = threading.Timer(4.0, lambda: [os.kill(pid, signal.SIGKILL) for pid in children()[:1]])
        killed.start()
        two = run.select(20, candidates=400, scorer=scorer, pool=pool, workers=Workers(2, 1))
        killed.cancel()
    assert two.ids.tolist() == one.ids.tolist()
    assert two.radius == pytest.approx(one.radius, rel=1e-5)
    assert not [each for each in told if "embed" in str(each.message)]
    assert not children()
