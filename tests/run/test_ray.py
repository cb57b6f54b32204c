"""Runs scored by actors of a real Ray cluster of two nodes, each of one CPU, on this machine: what they give is a local run's."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
import types
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mcscore import Pool, RayWorkers, Run, Scorer, score_pool
from mcscore.errors import PoolError, RunError
from mcscore.recipe import FromSpec
from mcscore.run.identity.match import state_of
from mcscore.run.scoring.orders import Ended, Failed, Hello, Outfit, Reply
from mcscore.scorer.model_spec import load_model

from .fakes import said_records
from .watched import Noted, Watched, alive, pids

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'mcscore[ray]'")
from ray import cluster_utils  # noqa: E402

from mcscore.run.scoring import ray_cluster, ray_team  # noqa: E402
from mcscore.run.scoring.ray_actor import comparable  # noqa: E402
from mcscore.run.scoring.ray_team import RayTeam  # noqa: E402

N, SPAN = 7001, 251
MARKS = {4211: -1.0, 4723: -2.0, 5227: -3.0}  # first values of items after those that the model is prepared on
STORE = 80 * 2**20  # bytes of each node for objects, about the least that Ray takes
NET = """
    import os
    import time
    from pathlib import Path
    import torch
    from torch import nn

    def build():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))

    def watched():
        return build(), transform

    def transform(items):
        (Path(__file__).parent / f"pid-{os.getpid()}").touch()
        time.sleep(0.05)
        return items
"""

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")  # it would write a token into the home directory
        patch.setenv("RAY_DISABLE_IMPORT_WARNING", "1")
        patch.setenv("RAY_worker_niceness", "0")  # 15 by default: they would wait for the other tests
        head = {"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False}
        made = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
        made.add_node(num_cpus=1, object_store_memory=STORE)
        yield made
        made.shutdown()


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "net.py"
    path.write_text(textwrap.dedent(NET))
    return path


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    items = np.random.default_rng(0).random((N, 8), np.float32)
    for item, mark in MARKS.items():
        items[item, 0] = mark
    pool = Pool.create(tmp_path_factory.mktemp("ray") / "pool", items)
    labeled = np.arange(0, N, 50)
    pool.set_labels(labeled, np.zeros(len(labeled), int))
    return pool


@pytest.fixture(scope="module")
def local(pool: Pool, net: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return locally(pool, FromSpec(f"{net}:build"), tmp_path_factory.mktemp("local") / "run")


class Enough(Exception):
    pass


def locally(pool: Pool, recipe: FromSpec, out: Path, enough: int = N + 1) -> Run:
    """Score in this process, up to so many items."""

    def progress(done: int, _total: int) -> None:
        if done >= enough:
            raise Enough

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return score_pool(pool, recipe, out, span=SPAN, progress=progress)
    finally:
        torch.set_num_threads(threads)


def require_equal(run: Run, local: Run) -> None:
    assert run.complete
    for name in ("bald", "entropy"):
        assert run.scores(name).tobytes() == local.scores(name).tobytes()
    assert run.prediction.tobytes() == local.prediction.tobytes()


def until(true: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def lost(warning: warnings.WarningMessage) -> bool:
    """Whether a warning says that a worker was lost with its node."""
    text = str(warning.message)
    return "has ended (Ray: it cannot be reached)" in text or "its node" in text


def commits(run: Path) -> int:
    return len(list((run / "commits").glob("*.json")))


def test_whatever_becomes_of_actors_the_scores_are_those_of_a_local_run(
    cluster: Any, pool: Pool, net: Path, local: Run, tmp_path: Path
) -> None:
    """One is killed, one hangs, one waits until there is a node for it, and is lost with that node; and one never has room."""
    traps = dict(zip(MARKS.values(), ("kill", "hang", "wait"), strict=True))
    scorer = Scorer(load_model(f"{net}:build").module, transform=Watched(tmp_path, traps, slow=0.1))
    workers = RayWorkers(cluster.address, 4, threads_each=1)
    with warnings.catch_warnings(record=True) as told, ThreadPoolExecutor() as thread:
        warnings.simplefilter("always")
        driver = thread.submit(score_pool, pool, scorer, tmp_path / "run", span=SPAN, workers=workers)
        until(lambda: commits(tmp_path / "run") > 2 or driver.done())
        node = cluster.add_node(num_cpus=1, object_store_memory=STORE, env_vars={"WATCHED": "lost"})
        until(lambda: (tmp_path / "lost").exists() or driver.done())
        cluster.remove_node(node, allow_graceful=False)
        until(lambda: any(map(lost, told)) or driver.done())
        (tmp_path / "go").touch()
        run = driver.result()
    require_equal(run, local)
    ends = [str(each.message) for each in told]
    assert any(map(lost, told)), ends
    assert any("has ended (Ray: its worker process has died)" in end for end in ends), ends
    assert run.meta["threads"] == 1
    assert not ray.is_initialized()
    assert os.getpid() not in pids(tmp_path)
    until(lambda: not any(map(alive, pids(tmp_path))))


def test_an_actor_that_hangs_is_stopped_and_replaced(
    cluster: Any, pool: Pool, net: Path, local: Run, tmp_path: Path
) -> None:
    scorer = Scorer(load_model(f"{net}:build").module, transform=Watched(tmp_path, {-1.0: "hang"}))
    with pytest.warns(UserWarning, match=r"cpu on .* has ended \(stopped after 8\.0 s at one span\); another one"):
        run = score_pool(pool, scorer, tmp_path / "run", span=SPAN, workers=RayWorkers(cluster.address, 1, timeout=8.0))
    require_equal(run, local)
    until(lambda: not any(map(alive, pids(tmp_path))))


def test_a_run_goes_on_after_its_driver_was_killed_or_stopped(
    cluster: Any, pool: Pool, net: Path, local: Run, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "mcscore.cli", "score", str(pool.path), "--model", f"{net}:watched", "--json"]
    command += ["--out", str(out), "--span", str(SPAN), "--passes", str(local.meta["passes"])]
    command += ["--ray", cluster.address, "--max-workers", "2"]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE)
    until(lambda: commits(out) > 2)
    driver.kill()
    driver.communicate()
    until(lambda: not any(map(alive, pids(net.parent))))  # no actor outlives its driver

    done = commits(out)
    driver = subprocess.Popen(command, stdout=subprocess.PIPE)
    until(lambda: commits(out) > done + 2)
    driver.send_signal(signal.SIGTERM)
    printed, _ = driver.communicate()
    assert driver.returncode == 3
    assert 0 < json.loads(printed)["done"] < N

    before, moved = signal.getsignal(signal.SIGTERM), list[int]()
    run = score_pool(
        pool,
        FromSpec(f"{net}:watched"),
        out,
        workers=RayWorkers(cluster.address),  # as many as there is room for
        progress=lambda done, _total: moved.append(done),
    )
    require_equal(run, local)
    assert moved[0] == json.loads(printed)["done"]
    assert moved[-1] == N
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_actor_on_other_hardware_is_refused_or_recorded(
    cluster: Any, pool: Pool, net: Path, local: Run, tmp_path: Path
) -> None:
    [known] = local.meta["hardware"]
    if known["instruction_set"] in ("baseline", "none (no C++ kernels)"):
        pytest.skip("this machine has no other instruction set")
    other = cluster.add_node(num_cpus=1, object_store_memory=STORE, env_vars={"MCSCORE_ISA": "baseline"})
    recipe, workers = FromSpec(f"{net}:watched"), RayWorkers(cluster.address, 3, threads_each=1)
    with pytest.raises(Enough):
        locally(pool, recipe, tmp_path / "same", enough=3 * SPAN)

    with pytest.warns(UserWarning, match=rf"is not used: .*instruction set {known['instruction_set']} then, baseline"):
        run = score_pool(pool, recipe, tmp_path / "same", workers=workers)
    require_equal(run, local)
    assert run.meta["hardware"] == [known]

    traps = dict.fromkeys(MARKS.values(), "wait")  # until all three are at work
    scorer = Scorer(load_model(f"{net}:build").module, transform=Watched(tmp_path, traps, slow=0.3))
    with ThreadPoolExecutor() as thread:
        driver = thread.submit(
            score_pool, pool, scorer, tmp_path / "mixed", span=SPAN, workers=workers, mixed_hardware=True
        )
        until(lambda: len(list(tmp_path.glob("waits-*"))) == 3 or driver.done())
        (tmp_path / "go").touch()
        run = driver.result()
    cluster.remove_node(other)
    assert run.complete
    kinds = [each["instruction_set"] for each in run.meta["hardware"]]
    assert sorted(kinds) == sorted([known["instruction_set"], "baseline"])
    by = {record["start"]: kinds[record.get("hardware", 0)] for record in said_records(tmp_path / "mixed")}
    assert set(by.values()) == set(kinds)
    for start, kind in by.items():
        ours, theirs = (each.scores("bald")[start : start + SPAN] for each in (run, local))
        assert np.allclose(ours, theirs, atol=1e-5, equal_nan=True)
        assert kind == "baseline" or ours.tobytes() == theirs.tobytes()


def test_what_keeps_a_worker_from_beginning_is_told_with_its_node(
    cluster: Any, pool: Pool, net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, recipe = re.escape(socket.gethostname()), Noted(tmp_path, FromSpec(f"{net}:build"))
    here = Outfit(state_of(pool), recipe, 1)
    nowhere = replace(here, pool=replace(here.pool, path=str(tmp_path / "nowhere")))
    ray_cluster.connect(cluster.address)
    with contextlib.ExitStack() as stack:

        def begun(outfit: Outfit) -> RayTeam:
            team = RayTeam(outfit, "cpu", {"CPU": 0.25}, None)
            stack.callback(team.close)
            assert team.begin() == 1
            return team

        well, poolless = begun(here), begun(nowhere)
        with monkeypatch.context() as patch:
            patch.setattr(ray_team, "comparable", lambda: comparable() | {"torch": "1.0"})
            old = begun(here)
        with monkeypatch.context() as patch:
            module = types.ModuleType("only_here")  # as mcscore where it is not installed
            patch.setitem(sys.modules, "only_here", module)
            exec("class Actor:\n    def __init__(self, *args): pass\n    def answers(self): pass", module.__dict__)
            patch.setattr(ray_team, "Actor", module.Actor)
            bare = begun(here)

        with pytest.raises(PoolError, match=rf"no worker can begin on the node {host}: .*nowhere.* at a URL"):
            raise failure(poolless)
        torch_now = comparable()["torch"]
        with pytest.raises(RunError, match=rf"node {host}: it has torch {re.escape(torch_now)}, not torch 1\.0 as"):
            raise failure(old)
        with pytest.raises(RunError, match=r"on the node [\d.]+: .*No module named 'only_here'\. mcscore must be"):
            raise failure(bare)

        assert next_of(well) == Hello(f"cpu on {socket.gethostname()}")
        [pid] = pids(tmp_path)
        os.kill(pid, signal.SIGSTOP)  # as hung as can be
        well.end(1)
        assert next_of(well) == Ended("Ray: it was killed by `ray.kill`")
        until(lambda: not alive(pid))
    assert not ray.is_initialized()


def next_of(team: RayTeam) -> Reply:
    replies: list[tuple[int, Reply]] = []
    until(lambda: bool(replies.extend(team.wait(0.1)) or replies))
    [(worker, reply)] = replies
    assert worker == 1
    return reply


def failure(team: RayTeam) -> Exception:
    reply = next_of(team)
    assert isinstance(reply, Failed)
    return reply.error()


def test_how_many_workers_and_what_each_needs_follow_from_the_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"CPU": 3.0}, {"CPU": 32.0, "GPU": 8.0, "memory": 1e9}, {"CPU": 24.0, "GPU": 8.0, "fast": 2.0}]
    monkeypatch.setattr(ray_cluster, "connect", lambda _address: None)
    monkeypatch.setattr(ray_cluster, "nodes", lambda: nodes)
    assert RayWorkers().size(None) == 16  # one for each GPU
    assert RayWorkers().threads(None) == 3  # 24 CPUs for 8 of them
    assert RayWorkers().size("cpu") == 1 + 10 + 8
    assert RayWorkers().threads("cpu") == 3
    assert RayWorkers(num_gpus=0.5).size("cuda") == 32
    assert RayWorkers(resources={"fast": 1}).size("cuda") == 2
    assert RayWorkers(num_cpus=8).size(None) == 4 + 3
    assert RayWorkers(num_cpus=8).threads(None) == 8
    assert RayWorkers(max_workers=500).size(None) == 500
    with pytest.raises(RunError, match=r"needs, CPU 4, GPU 9: they have CPU 3; CPU 32, GPU 8; CPU 24, GPU 8, fast 2"):
        RayWorkers(num_gpus=9).size(None)
    nodes[1:] = []
    assert (RayWorkers().size(None), RayWorkers().threads(None)) == (1, 3)  # no GPU: on the CPUs
    with pytest.raises(RunError, match="no node of the Ray cluster has what a worker needs, CPU 3, GPU 1"):
        RayWorkers(threads_each=3).size("cuda")
    assert RayWorkers(max_workers=2).size("cuda") == 2  # the cluster may grow
    with pytest.raises(RunError, match="device must be 'cuda' or 'cpu', not 'cuda:1'"):
        RayWorkers().size("cuda:1")
