"""A label that was answered is there, whatever happens to the server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.parse
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcscore import Pool
from mcscore.label_app.server import NEEDED
from mcscore.label_app.session import Session
from mcscore.run import Run

from ..steps import at_step, killed_at
from .conftest import Client, make_run


def started(run: Path, *more: str) -> tuple[subprocess.Popen[str], Client, dict]:
    """A process of `mcscore label`, and a client of it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mcscore.cli", "label", str(run), "--json", *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    said = json.loads(process.stdout.readline())
    address = urllib.parse.urlsplit(said["url"])
    assert address.hostname == "127.0.0.1"
    return process, Client(address.port or 0, urllib.parse.parse_qs(address.query)["token"][0]), said


needs_server = pytest.mark.skipif(
    any(find_spec(module) is None for module in NEEDED),
    reason=f"the labeling page needs {', '.join(NEEDED.values())}: pip install 'mcscore[label]'",
)


@needs_server
def test_a_server_that_is_killed_after_each_label_loses_none(run: Run) -> None:
    pool, expected = Pool.open(run.meta["pool"]["path"]), np.full(23, -1)
    for number, id in enumerate(run.select(7, "bald", "none").ids[:3].tolist()):
        process, client, said = started(run.path)
        assert (said["items"], said["labeled"]) == (7, number)
        assert client.give(id, None, number)[0] == 200
        process.send_signal(signal.SIGKILL)
        process.communicate()
        expected[id] = number
        np.testing.assert_array_equal(pool.labels, expected)
        assert len((run.path / "labels" / "log.jsonl").read_text().splitlines()) == number + 1


@needs_server
def test_ctrl_c_ends_the_server_and_says_what_was_done(run: Run) -> None:
    process, client, said = started(run.path, "--token", "a b&c")
    assert said["selection"] == str(run.path / "selection-0001.parquet")
    assert client.token == "a b&c"
    assert client.give(int(run.select(7, "bald", "none").ids[0]), None, 1)[0] == 200
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "1 of 7 items labeled\n")


@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli"])
def test_a_kill_at_any_step_leaves_the_old_label_or_the_new_one(
    tmp_path: Path, images: np.ndarray, likelihood: str
) -> None:
    run = make_run(tmp_path, images, likelihood=likelihood)
    session = Session(run)
    several = likelihood == "bernoulli"
    values = [[0], [1, 2]] if several else [0, 2]
    id = int(session.ids[0])
    other = {json.dumps(values[0]): values[1], json.dumps(values[1]): values[0], "null": values[0]}

    def now() -> Any:
        return session.states()[0][0]

    def change() -> Any:
        """Give the item another label, without a fault; what a killed call left behind is removed by that."""
        had = now()
        session.give(id, "label", had, other[json.dumps(had)], "w")
        assert now() == other[json.dumps(had)]
        return now()

    with at_step(1000, lambda name, args: None) as steps:
        change()
    assert len(steps) >= 4
    seen = set()
    for step in range(len(steps)):
        before = change()
        value = other[json.dumps(before)]
        killed_at(step, lambda before=before, value=value: session.give(id, "label", before, value, "w"))
        assert now() in (before, value)
        seen.add(now() == value)
        assert session.log.entries()[-1]["value"] in (before, value)
    assert seen == {True, False}
    change()
    assert not [name for name in os.listdir(run.path / "labels") if name.endswith(".tmp")]
