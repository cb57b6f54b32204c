"""A job that runs for days: its log, its options, its metrics, and what a second process is told."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
from pathlib import Path

import pytest

from mcscore.cli.log import listening
from mcscore.cli.metrics import Metrics
from mcscore.errors import RunError
from mcscore.events import event
from mcscore.store.lock import locked

from .conftest import ITEMS, LABELED, Command, answer

SCORE = ("--model", "net.py:build", "--weights", "net.safetensors", "--check", "off", "--span", 200)


@pytest.fixture(scope="module")
def scored(project: Path, pool: Path) -> Path:
    """A complete run of few passes."""
    from mcscore import Pool, score_pool
    from mcscore.cli.model import recipe_of

    recipe = recipe_of(str(project / "net.py:build"), project / "net.safetensors", passes=5, scores=("bald",))
    return Path(str(score_pool(Pool.open(pool), recipe, project / "operated", span=200, check="off").path))


def test_a_log_tells_what_became_of_every_span(mcscore: Command, pool: Path) -> None:
    command = ("score", pool, *SCORE, "--passes", 5, "--out", "logged", "--log-json")
    lines = [json.loads(line) for line in mcscore(*command).stderr.splitlines()]
    events = [line["event"] for line in lines]
    assert events == ["run made", "plan chosen", *["span committed"] * 3, "run complete", "progress"]
    assert [line["items"] for line in lines[2:5]] == [200, 200, 100]
    assert sum(line["scored"] for line in lines[2:5]) == lines[5]["scored"] == ITEMS - LABELED
    assert (lines[-1]["done"], lines[-1]["over"]) == (ITEMS, True)
    (Path("logged") / "commits" / "packed.jsonl").unlink()
    lines = [json.loads(line) for line in mcscore(*command).stderr.splitlines()]
    assert [(line["event"], line.get("done")) for line in lines[:2]] == [("run resumed", 0), ("plan adopted", None)]
    lines = [json.loads(line) for line in mcscore(*command).stderr.splitlines()]
    assert [(line["event"], line.get("done")) for line in lines[:2]] == [
        ("run resumed", ITEMS),
        ("run complete", ITEMS),
    ]


def test_flags_win_over_the_environment_and_that_over_the_file(
    mcscore: Command, pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("mcscore.toml").write_text(
        '[score]\npasses = 7\nscores = ["entropy", "bald"]\non_bad_chunk = "skip"\nmodel = "other.py:build"\nerrors = false\n'
        "[pool.import]\nkeep-encoded = true\nmean = [0.5, 0.25]\n[simulate]\nspan = [256, 512]\n"
    )
    words = ("score", pool, *SCORE[2:], "--config", "mcscore.toml", "--json", "--quiet", "--out")
    assert answer(mcscore(*words, "of-file", "--model", "net.py:build"))["scores"] == ["entropy", "bald"]
    monkeypatch.setenv("MCSCORE_SCORE_PASSES", "6")
    monkeypatch.setenv("MCSCORE_SCORE_MODEL", "net.py:build")
    monkeypatch.setenv("MCSCORE_VERSION", "of an image")
    monkeypatch.setenv("MCSCORE_SCORE_CONFIG", "mcscore.toml")
    assert mcscore(*words, "of-environment").exit_code == 0
    assert mcscore(*words, "of-flag", "--passes", 5).exit_code == 0
    said = [json.loads((Path(name) / "run.json").read_bytes()) for name in ("of-file", "of-environment", "of-flag")]
    assert [each["passes"] for each in said] == [each["command"]["passes"] for each in said] == [7, 6, 5]
    asked = {"out": "of-flag", "on-bad-chunk": "skip", "scores": ["entropy", "bald"], "pool": str(pool)}
    assert asked.items() <= said[2]["command"].items()
    monkeypatch.delenv("MCSCORE_SCORE_PASSES")
    resumed = ("--passes", 5, "--on-bad-chunk", "raise", "--quiet")
    assert mcscore(*words, "of-flag", *resumed).exit_code == 0  # of another command: compared with nothing
    assert json.loads((Path("of-flag") / "run.json").read_bytes())["command"] == said[2]["command"]
    told = answer(
        mcscore("simulate", "--items", 1e6, "--workers", 4, "--rate", 9, "--config", "mcscore.toml", "--json")
    )
    assert {outcome["span"] for outcome in told["outcomes"]} == {256, 512}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[score]\npases = 3", "unknown key 'pases' in [score]: score has no option --pases"),
        ("[pool.import]\nsizes = 3", "unknown key 'sizes' in [pool.import]: pool import has no option --sizes"),
        ("[scores]\npasses = 3", "there is no verb for the table [scores]; there are pool, score,"),
        ("passes = 3", "passes stands in no table of a verb, such as [score]"),
        ("[score]\npasses = many", "is not TOML: "),
        ("[score]\nconfig = 'x'", "unknown key 'config' in [score]"),
        (None, "No such file or directory"),
    ],
)
def test_a_file_with_what_no_verb_knows_is_wrong_usage(
    mcscore: Command, tmp_path: Path, text: str | None, says: str
) -> None:
    if text is not None:
        (tmp_path / "c.toml").write_text(text)
    told = mcscore("plan", "pool.zarr", "--config", tmp_path / "c.toml", "--json")
    assert told.exit_code == 2
    assert says in answer(told)["message"]
    assert str(tmp_path / "c.toml") in answer(told)["message"]


def test_a_value_of_a_file_is_checked_as_one_of_the_command_line(mcscore: Command, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[plan]\npasses = 0\nmodel = 'net.py:build'")
    told = mcscore("plan", "pool.zarr", "--config", tmp_path / "c.toml")
    assert told.exit_code == 2
    assert "Invalid value for '--passes': 0 is not in the range" in told.stderr


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("passes = true", "passes in [plan] is true, where a number, a text, or a list of these is wanted"),
        ("passes = {a = 1}", 'passes in [plan] is {"a": 1}, where a number'),
        ("passes = 3.5", "'3.5' is not a valid integer"),
        ("errors = 'no'", 'errors in [plan] is "no", where true or false is wanted'),
        ("noise-variance = 1\nnoise_variance = 2", "noise_variance in [plan] is given twice"),
    ],
)
def test_a_value_of_another_type_is_wrong_usage(mcscore: Command, tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "c.toml").write_text(f"[plan]\nmodel = 'net.py:build'\n{line}")
    told = mcscore("plan", "pool.zarr", "--config", tmp_path / "c.toml", "--json")
    assert told.exit_code == 2
    assert says in answer(told)["message"]


def test_a_second_process_is_told_who_has_the_run_and_may_come_again(
    mcscore: Command, pool: Path, scored: Path
) -> None:
    command = ("score", pool, *SCORE, "--passes", 5, "--scores", "bald", "--out", scored, "--json", "--quiet")
    with locked(scored, RunError):
        told = mcscore(*command, "--take-over")
    assert (told.exit_code, answer(told)["error"]) == (3, "RunInUseError")
    here = re.escape(f"is being written by process {os.getpid()} on {socket.gethostname()} since ")
    assert re.search(here + r"\d{4}-\d\d-\d\dT\S+; wait for it", answer(told)["message"])
    lock = {"pid": "4242", "host": "node7", "boot_id": "b7", "since": "2026-01-02T03:04:05Z"}
    (scored / "lock").write_text(json.dumps(lock))
    told = mcscore(*command)
    assert told.exit_code == 3
    assert "process 4242 on another host, node7, since 2026-01-02T03:04:05Z; if no process" in answer(told)["message"]
    told = mcscore(*command, "--take-over")
    assert told.exit_code == 0, told.stderr
    assert "took over the lock of process 4242 on node7 since 2026-01-02T03:04:05Z" in answer(told)["warnings"][0]
    assert not (scored / "lock").exists()


def test_several_runs_are_a_line_each(mcscore: Command, scored: Path, tmp_path: Path) -> None:
    told = mcscore("run", "info", scored, scored)
    assert told.exit_code == 0, told.stderr
    heading, first, second = told.stdout.splitlines()
    assert heading.split() == ["run", "state", "items", "done", "share", "items/s", "left", "no", "score"]
    assert first == second
    assert first.split()[:5] == [str(scored), "complete", "500", "500", "100.0%"]
    (tmp_path / "no run").mkdir()
    told = mcscore("run", "info", scored, tmp_path / "no run", "--json")
    assert told.exit_code == 1
    whole, broken = answer(told)["runs"]
    assert (whole["done"], whole["complete"]) == (ITEMS, True)
    assert (broken["run"], broken["error"]) == (str(tmp_path / "no run"), "RunError")
    told = mcscore("run", "info", scored, tmp_path / "no run")
    assert f"{tmp_path}/no run  cannot be read" in told.stdout
    assert "is not a run: it has no run.json" in told.stdout
    assert mcscore("run", "info", scored, scored, "--watch").exit_code == 2
    assert mcscore("run", "info").exit_code == 2


def samples(text: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """The text format of Prometheus, by metric and labels. Every metric has its help and type before its samples, once."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    typed = ""
    assert text.endswith("\n")
    for line in text.splitlines():
        if head := re.fullmatch(r"# (HELP|TYPE) ([a-z_]+) (.+)", line):
            assert head[1] == "HELP" or head[3] == "gauge"
            if head[1] == "HELP":
                assert head[2] not in found
                found[head[2]] = {}
            typed = head[2]
            continue
        sample = re.fullmatch(r'([a-z_]+)\{((?:[a-z]+="(?:[^"\\\n]|\\.)*",?)*)\} ([0-9.e+-]+)', line)
        assert sample is not None, line
        assert sample[1] == typed
        labels = tuple(re.findall(r'([a-z]+)="((?:[^"\\]|\\.)*)"', sample[2]))
        assert labels not in found[typed]
        found[typed][labels] = float(sample[3])
    return found


def test_metrics_of_a_run_are_a_file_that_prometheus_reads(mcscore: Command, pool: Path, tmp_path: Path) -> None:
    file = tmp_path / "mcscore.prom"
    command = (
        "score",
        pool,
        *SCORE,
        "--passes",
        5,
        "--out",
        tmp_path / 'a "run"',
        "--metrics",
        file,
        "--quiet",
        "--top",
        10,
    )
    assert mcscore(*command, "--screen", 2, "--json").exit_code == 0
    found = samples(file.read_text())
    run = json.loads((tmp_path / 'a "run"' / "run.json").read_bytes())["id"]
    labels = (("run", run), ("path", f'{tmp_path}/a \\"run\\"'))
    assert {len(each) for name, each in found.items() if name != "mcscore_workers"} <= {1, 2}  # stages
    values = {name: each[labels] for name, each in found.items()}
    assert (values["mcscore_items"], values["mcscore_items_done"]) == (ITEMS, ITEMS)
    assert (values["mcscore_spans"], values["mcscore_spans_committed"]) == (3, 3)
    assert values["mcscore_items_scored"] + values["mcscore_items_skipped"] == ITEMS
    assert (values["mcscore_complete"], values["mcscore_workers"]) == (1, 0)  # this process has ended
    assert values["mcscore_last_commit_timestamp_seconds"] > 1.7e9
    assert set(os.listdir(tmp_path)) == {'a "run"', "mcscore.prom"}
    told = mcscore(*command, "--metrics", tmp_path / "none" / "m.prom", "--json")
    assert told.exit_code == 2
    assert f"there is no directory {tmp_path}/none" in answer(told)["message"]


def test_metrics_count_what_events_tell(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "m.prom")
    with listening(metrics):
        tally = {"items": 90, "spans": 9, "spans_done": 2, "scored": 15, "nonfinite": 1, "unreadable": 2, "done": 20}
        event("mcscore.of_a_test", "run resumed", run="r", path="a\\b", **tally)
        for number in (1, 2, 3):
            event("mcscore.of_a_test", "worker started", worker=number)
        event("mcscore.of_a_test", "worker ended", logging.WARNING, worker=2)
        facts = {"items": 10, "scored": 6, "nonfinite": 2, "unreadable": 1}
        event("mcscore.of_a_test", "span committed", run="r", path="a\\b", again=0, **facts)
        event("mcscore.of_a_test", "progress", done=33, total=90, per_second=2.5, over=False)
    metrics.write()
    found = {name: next(iter(each.values())) for name, each in samples((tmp_path / "m.prom").read_text()).items()}
    names = ("items", "items_done", "items_per_second", "items_scored", "items_skipped", "items_nonfinite")
    assert [found[f"mcscore_{name}"] for name in names] == [90, 33, 2.5, 21, 6, 3]
    names = ("items_unreadable", "spans", "spans_committed", "workers", "complete")
    assert [found[f"mcscore_{name}"] for name in names] == [3, 9, 3, 2, 0]


def test_pool_verbs_and_select_show_progress_in_the_same_way(mcscore: Command, pool: Path, scored: Path) -> None:
    lines = mcscore("pool", "verify", pool, "--progress", "json").stderr.splitlines()
    assert (json.loads(lines[-1])["unit"], json.loads(lines[-1])["over"]) == ("chunks", True)
    assert re.match(r"\d{4}-\d\d-\d\dT\S+ \d+ of \d+ chunks in ", mcscore("pool", "verify", pool).stderr)
    for words in (("select",), ("pool", "import"), ("pool", "append"), ("pool", "compact"), ("pool", "verify")):
        told = mcscore(*words, "--help").stdout
        assert all(name in told for name in ("--progress", "--quiet", "--log-json", "--config")), words
