"""--shard on the command line, and what docs/clusters.md tells to give to Slurm and to Kubernetes: run here, as it stands there."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from mcscore.cli import main, watch
from mcscore.ingest.arrays import import_array
from mcscore.kernels import native
from mcscore.run import Run
from mcscore.run.glance import Glance
from mcscore.run.presence import Worker, workers_of

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "clusters.md").read_text()
NET = """
import time

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.drop, self.b = nn.Linear(16, 32), nn.Dropout(0.4), nn.Linear(32, 5)

    def forward(self, x):
        time.sleep(0.02)
        return self.b(self.drop(torch.relu(self.a(x.flatten(1)))))


def build():
    return Net()
"""
ITEMS, SPAN = 300, 10


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for /shared with pool, model, weights, and a bin directory with what a cluster has; local/ is a run of one process."""
    folder = tmp_path_factory.mktemp("shared")
    np.save(folder / "items.npy", np.random.default_rng(1).integers(0, 256, (ITEMS, 4, 4), dtype=np.uint8))
    import_array(folder / "items.npy", folder / "pool.zarr", layout="hw")
    (folder / "net.py").write_text(NET)
    (folder / "bin").mkdir()
    scripts = {
        "mcscore": f'#!/bin/sh\nexec "{sys.executable}" -m mcscore.cli "$@"\n',
        "srun": '#!/bin/sh\nexec "$@"\n',
        "scontrol": f'#!/bin/sh\necho "$@" >> {folder}/scontrol.log\n',
    }
    for name, text in scripts.items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    made = "import torch, net; torch.manual_seed(3); torch.save(net.build().state_dict(), 'net.pt')"
    subprocess.run([sys.executable, "-c", made], cwd=folder, check=True, env={**os.environ, "PYTHONPATH": str(folder)})
    words = [*score(folder, "local"), "--passes", "100"]
    subprocess.run(words, env=environment(folder), check=True, capture_output=True)
    return folder


@pytest.fixture
def shared(made: Path) -> Iterator[Path]:
    """The same, with no run but the local one."""
    yield made
    shutil.rmtree(made / "runs", ignore_errors=True)
    (made / "scontrol.log").unlink(missing_ok=True)


def environment(folder: Path, **more: str) -> dict[str, str]:
    given = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "JOB_", "MCSCORE"))}
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    return {**given, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


def score(folder: Path, out: str = "runs/a", passes: int = 100) -> list[str]:
    model = ["--model", f"{folder}/net.py:build", "--weights", f"{folder}/net.pt", "--passes", str(passes)]
    return [
        f"{folder}/bin/mcscore",
        "score",
        f"{folder}/pool.zarr",
        *model,
        "--out",
        f"{folder}/{out}",
        "--span",
        str(SPAN),
        "--quiet",
    ]


def start(folder: Path, *words: str, **more: str) -> subprocess.Popen[str]:
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(words, cwd=folder, env=environment(folder, **more), **pipes)


def end(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, out + err
    return out, err


def require_same(folder: Path, out: str = "runs/a") -> None:
    one, two = Run.open(folder / out), Run.open(folder / "local")
    assert one.complete
    for name in one.columns:
        assert one.scores(name).tobytes() == two.scores(name).tobytes()
    assert one.prediction.tobytes() == two.prediction.tobytes()
    assert sorted(os.listdir(folder / out)) == sorted(os.listdir(folder / "local"))


def block(title: str) -> str:
    """What the page shows under a title, with the directory of the test in place of /shared."""
    found = re.search(rf'^```\w+ title="{re.escape(title)}"\n(.*?)^```$', PAGE, re.M | re.S)
    assert found
    return found[1]


def until(holds: Callable[[], bool]) -> None:
    limit = time.monotonic() + 100
    while not holds():
        assert time.monotonic() < limit
        time.sleep(0.01)


# -- the command line --------------------------------------------------------------------------------------------------


def here(folder: Path, *words: str) -> Result:
    """A shard of this process; a process of its own takes seconds to begin."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as environment() has it
    try:
        return CliRunner().invoke(main, [*score(folder)[1:], *words], prog_name="mcscore")
    finally:
        torch.set_num_threads(threads)


def at_work(shared: Path, *words: str, **more: str) -> subprocess.Popen[str]:
    """A shard that scores, halted."""
    shard = start(shared, *score(shared), "--shard", "0/2", *words, **more)
    until(lambda: len(list((shared / "runs/a/commits").glob("0*.json"))) > 1)
    until(lambda: {worker.state for worker in workers_of(shared / "runs/a")} == {"scoring"})
    shard.send_signal(signal.SIGSTOP)
    return shard


@pytest.mark.skipif(native.isa() not in ("avx2", "avx512"), reason="needs a machine with two instruction sets")
def test_a_shard_with_another_instruction_set_is_refused_unless_that_is_wanted(shared: Path) -> None:
    first, best = at_work(shared), native.isa()
    with native.use_isa("baseline"):
        refused = here(shared, "--shard", "1/2")
        assert refused.exit_code == 1
        assert (
            f"cannot be resumed on other hardware, as the last bits of scores would differ: instruction set {best} then"
            in refused.stderr
        )
        mixed = here(shared, "--shard", "1/2", "--mixed-hardware")
    assert mixed.exit_code == 0, mixed.output
    assert re.search(r"shard 1 of 2 has scored \d+ items in \d+ spans; others score what is left", mixed.stdout)
    first.send_signal(signal.SIGCONT)
    end(first)
    run = Run.open(shared / "runs/a")
    assert run.complete
    assert [each["instruction_set"] for each in run.meta["hardware"]] == [best, "baseline"]
    records = [json.loads(line)["record"] for line in (run.path / "commits/packed.jsonl").read_bytes().splitlines()]
    assert {record.get("hardware", 0) for record in records} == {0, 1}


def test_a_shard_is_stopped_with_exit_code_3_and_resumes(shared: Path) -> None:
    first = at_work(shared)
    first.send_signal(signal.SIGTERM)
    first.send_signal(signal.SIGCONT)
    _, err = end(first, code=3)
    assert re.search(r"stopped; resumable: \d+ of 300 items done in .*/runs/a; the same command resumes", err)
    resumed = here(shared, "--shard", "0/2")
    assert resumed.exit_code == 0, resumed.output
    require_same(shared)


@pytest.mark.parametrize(
    ("words", "more", "says"),
    [
        (["--shard", "2/2"], {}, "there is no shard 2 of 2: they are numbered 0 to 1"),
        (["--shard", "auto"], {}, "neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX is set"),
        (["--shard", "auto"], {"JOB_COMPLETION_INDEX": "0"}, "MCSCORE_SHARDS is ''"),
        (["--shard", "0/2", "--workers", "2"], {}, "--shard scores in this process"),
    ],
)
def test_a_shard_that_is_none_is_wrong_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], more: dict[str, str], says: str
) -> None:
    for name in ("SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX", "MCSCORE_SHARDS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in more.items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(main, [*score(tmp_path)[1:], *words])
    assert result.exit_code == 2
    assert says in " ".join(result.stderr.replace("\u2502", "").split())
    assert os.listdir(tmp_path) == []


# -- as the page tells -------------------------------------------------------------------------------------------------


def test_the_job_array_of_slurm(shared: Path) -> None:
    script = block("score.sbatch")
    assert re.search(r"^#SBATCH --array=0-15$", script, re.M)
    (shared / "score.sbatch").write_text(
        script.replace("/shared", str(shared)).replace("--quiet", f"--span {SPAN} --quiet")
    )
    array = {"SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_JOB_ID": "77"}
    second = start(shared, "bash", "score.sbatch", SLURM_ARRAY_TASK_ID="1", **array)
    until(lambda: {worker.state for worker in workers_of(shared / "runs/a")} == {"scoring"})
    (shard,) = workers_of(shared / "runs/a")
    assert shard.what == "shard 1 of 2"
    os.kill(shard.pid, signal.SIGTERM)  # as --signal=TERM@120 does
    end(second, code=3)
    assert (shared / "scontrol.log").read_text() == "requeue 77_1\n"
    for task in [start(shared, "bash", "score.sbatch", SLURM_ARRAY_TASK_ID=str(index), **array) for index in range(2)]:
        end(task)
    require_same(shared)


def test_the_indexed_job_of_kubernetes(shared: Path) -> None:
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load(block("score.yaml"))
    assert (job["apiVersion"], job["kind"], job["spec"]["completionMode"]) == ("batch/v1", "Job", "Indexed")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    told = {each["name"]: each["value"] for each in container["env"]}
    assert int(told["MCSCORE_SHARDS"]) == job["spec"]["completions"] == job["spec"]["parallelism"]
    (mount,) = container["volumeMounts"]
    assert [volume["name"] for volume in job["spec"]["template"]["spec"]["volumes"]] == [mount["name"]]
    words = [word.replace(mount["mountPath"], str(shared)) for word in container["command"]]
    pods = [
        start(
            shared,
            *[*words, "--span", str(SPAN), "--json"],
            JOB_COMPLETION_INDEX=str(index),
            **told | {"MCSCORE_SHARDS": "2"},
        )
        for index in range(2)
    ]
    said = [json.loads(end(pod)[0]) for pod in pods]
    assert any(each["complete"] for each in said)
    for index, each in enumerate(said):
        if "shard" in each:
            assert (each["shard"], each["shards"]) == (index, 2)
    require_same(shared)


def test_a_run_is_watched_from_another_process_until_it_is_complete(shared: Path) -> None:
    first = at_work(shared)
    watching = start(shared, f"{shared}/bin/mcscore", "run", "info", "runs/a", "--watch", "--every", "0.1")
    assert watching.stdout is not None
    line = watching.stdout.readline()
    assert re.fullmatch(r"\d\d:\d\d:\d\d  \d+ of 300 items done, 1 worker(, [\d,]+ items/s, about .* left)?\n", line)
    first.send_signal(signal.SIGCONT)
    end(first)
    out, _ = end(watching)
    assert re.fullmatch(r"\d\d:\d\d:\d\d  300 of 300 items done, 0 workers", out.splitlines()[-1])


def test_the_page_shows_the_table_that_a_terminal_shows(tmp_path: Path) -> None:
    head = next(line for line in PAGE.splitlines() if line.startswith("worker  "))
    now = Glance(tmp_path, "", 61_440, 200_000, [Worker("shard 0 of 4", "node1", 20817, "scoring", 20_480, 2_011.0)])
    assert watch._table(now)[2].split() == head.split()
    assert watch._table(now)[0].endswith("61,440 of 200,000 items done, 1 worker, 2,011 items/s, about 68.9 s left")
