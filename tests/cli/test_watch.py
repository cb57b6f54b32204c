"""run info: who works on a run, once or again and again until it is done."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mcscore.cli import main, watch
from mcscore.errors import RunError
from mcscore.machine import machine
from mcscore.run.glance import glance

from ..run.fakes import N, begin, fail_at, go_on
from ..run.test_presence import leave


def give(*words: object) -> str:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def half(tmp_path: Path) -> Path:
    """A run of which the first span is done, with a shard that lives elsewhere and one that was killed here."""
    with pytest.raises(RunError):
        begin(tmp_path / "run", on_block=fail_at(50))
    leave(tmp_path / "run", "a", what="shard 0 of 2", items_per_second=4.0)
    leave(tmp_path / "run", "b", what="shard 1 of 2", items_per_second=100.0, machine=machine(), pid=2**22 + 1)
    return tmp_path / "run"


def test_info_lists_the_workers(half: Path) -> None:
    facts = json.loads(give("run", "info", half, "--json"))
    assert [(each["what"], each["host"], each["alive"]) for each in facts["workers"]] == [
        ("shard 0 of 2", "node7", None),
        ("shard 1 of 2", "node7", False),
    ]
    told = give("run", "info", half)
    assert "workers     shard 0 of 2, process 4242 on node7: scoring, 7 items, 4 items/s, seen 0" in told
    assert re.search(r"\n {12}shard 1 of 2, .*: ended without a word after 7 items", told)


def test_a_glance_counts_the_spans_with_a_record_and_the_speed_of_those_that_live(half: Path) -> None:
    seen = glance(half)
    assert (seen.done, seen.items, seen.items_per_second, seen.seconds_left) == (40, N, 4.0, 15.0)
    assert not seen.over
    assert json.loads(json.dumps(seen.facts()))["workers"][0]["what"] == "shard 0 of 2"


def watched(half: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> list[str]:
    """What is shown until the run is done, which it is between the second and the third look."""
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 2:
            for file in (half / "workers").iterdir():
                file.unlink()
            go_on(half)

    monkeypatch.setattr(watch.time, "sleep", sleep)
    shown = give("run", "info", half, "--watch", "--every", 7, *words).splitlines()
    assert looks == [7, 7]
    return shown


def test_to_a_file_watching_writes_a_line_per_look(half: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = [line[10:] for line in watched(half, monkeypatch)]
    line = "40 of 100 items done, 2 workers, 4 items/s, about 15.0 s left"
    assert shown == [line, line, "100 of 100 items done, 0 workers"]


def test_with_json_watching_writes_an_object_per_look(half: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = [json.loads(line) for line in watched(half, monkeypatch, "--json")]
    assert [(each["done"], len(each["workers"])) for each in shown] == [(40, 2), (40, 2), (100, 0)]


def test_a_terminal_shows_a_table_of_the_workers_and_those_of_a_driver(half: Path) -> None:
    hands: list[dict[str, Any]] = [{"what": "cuda:0", "done": 12_345, "state": "scoring"}, {"what": "cuda:1"}]
    leave(half, "c", what="driver", workers=hands)
    table = [re.split(r" {2,}", line.strip()) for line in watch._table(glance(half))[2:]]
    assert table[0] == ["worker", "host", "process", "state", "items", "items/s", "seen"]
    assert [row[0] for row in table[1:]] == ["driver", "cuda:0", "cuda:1", "shard 0 of 2", "shard 1 of 2"]
    assert table[1][:6] == ["driver", "node7", "4242", "scoring", "7", "0"]
    assert table[2] == ["cuda:0", "scoring", "12,345"]
    assert table[5][3] == "ended without a word"


def test_the_end_of_watching_is_no_error(half: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watch.time, "sleep", interrupted)
    assert "40 of 100 items" in give("run", "info", half, "--watch")
