"""The four commands of the README, and what they answer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from .conftest import FAST, MODEL, Command, answer


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)
        if tag not in ("meta", "img", "source", "rect", "polyline", "likelihood", "br", "input", "col"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("rect", "polyline"):
            assert self.open.pop() == tag


def test_four_commands_lead_from_an_array_to_a_report(mcscore: Command, project: Path) -> None:
    made = mcscore("pool", "import", "digits.npy", "four.zarr", "--labels", "labels.npy", "--layout", "hw", "--json")
    assert made.exit_code == 0, made.stderr
    assert answer(made)["items"] == 500
    assert answer(made)["item_shape"] == [1, 8, 8]
    assert answer(made)["labeled"] == 40

    scored = mcscore("score", "four.zarr", *MODEL, *FAST, "--scores", "bald,entropy", "--out", "four", "--json")
    assert scored.exit_code == 0, scored.stderr
    facts = answer(scored)
    assert (facts["done"], facts["scored"], facts["complete"], facts["nonfinite"]) == (500, 460, True, 0)

    selected = mcscore("select", "four", "-k", 20, "--by", "bald", "--diversity", "radius", "--json")
    assert selected.exit_code == 0, selected.stderr
    chosen = answer(selected)
    assert len(set(chosen["ids"])) == 20
    assert min(chosen["ids"]) >= 40  # the first 40 are labeled
    assert chosen["scores"] == sorted(chosen["scores"], reverse=True)
    assert Path(chosen["file"]).exists()

    reported = mcscore("report", "four", "--json")
    assert reported.exit_code == 0, reported.stderr
    page = Path(answer(reported)["report"]).read_text()
    assert all(f"#{i}<" in page for i in chosen["ids"])
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")  # the name of what is drawn, no address
    assert "https://" not in page
    tags = _Tags()
    tags.feed(page)
    assert tags.open == []
    assert {"img", "table", "svg"} <= tags.seen


def test_same_command_again_changes_nothing(mcscore: Command, pool: Path, project: Path) -> None:
    command = ("score", pool, *MODEL, *FAST, "--out", "again", "--json")

    def files() -> dict[Path, bytes]:
        return {file: file.read_bytes() for file in sorted((project / "again").rglob("*")) if file.is_file()}

    first, before = answer(mcscore(*command)), files()
    second = answer(mcscore(*command))
    assert files() == before
    assert second["done"] == first["done"] == 500


def test_select_none_needs_no_model(mcscore: Command, pool: Path, project: Path) -> None:
    (project / "away.py").write_text((project / "net.py").read_text())
    mcscore("score", pool, "--model", "away.py:build", "--weights", "net.pt", *FAST, "--out", "away")
    (project / "away.py").unlink()
    best = mcscore("select", "away", "-k", 5, "--by", "entropy", "--diversity", "none", "--json")
    assert best.exit_code == 0, best.stderr
    from mcscore import Run

    scores = Run.open(project / "away").scores("entropy")
    expected = np.argsort(-np.nan_to_num(scores, nan=-1), kind="stable")[:5]
    assert answer(best)["ids"] == expected.tolist()
    gone = mcscore("select", "away", "-k", 5)
    assert gone.exit_code == 1
    assert "away.py: no such model file" in gone.stderr
    moved = mcscore("select", "away", "-k", 5, "--model", "net.py:build")
    assert moved.exit_code == 0, moved.stderr


def test_pool_info_tells_what_import_stored(mcscore: Command, project: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
    np.savez(project / "color.npz", x=images, other=images[:2])
    words = ("--key", "x", "--layout", "hwc", "--mean", "0.5,0.4,0.3", "--std", "0.2,0.2,0.1", "--classes", "cat,dog")
    made = mcscore("pool", "import", "color.npz", "color.zarr", *words)
    assert made.exit_code == 0, made.stderr
    facts = answer(mcscore("pool", "info", "color.zarr", "--json"))
    assert facts["item_shape"] == [3, 5, 4]
    assert facts["classes"] == ["cat", "dog"]
    assert facts["mean"] == pytest.approx([0.5, 0.4, 0.3])
    assert facts["std"] == pytest.approx([0.2, 0.2, 0.1])
    text = mcscore("pool", "info", "color.zarr").stdout
    assert facts["fingerprint"] in text


def test_env_tells_versions_and_backends(mcscore: Command) -> None:
    facts = answer(mcscore("env", "--json"))
    assert facts["versions"]["torch"]
    assert facts["machine"]["cores"] >= 1
    assert all(isinstance(state["active"], bool) and state["why"] for state in facts["backends"].values())
    assert "native" in facts["backends"]
    assert "processor" in mcscore("env").stdout


def test_help_keeps_the_lines_of_its_example(mcscore: Command) -> None:
    assert "\n  mcscore select runs/a -k 50 --by bald\n" in mcscore("--help").output


def test_help_of_every_verb_imports_no_torch() -> None:
    """In a fresh process; every verb's help is printed and sys.modules looked at."""
    code = """
import sys
from click.testing import CliRunner
import mcscore.cli
heavy = ("torch", "zarr", "faiss", "matplotlib", "triton", "pyarrow", "numpy")
verbs = [[], ["pool"], ["pool", "import"], ["pool", "info"], ["score"], ["select"], ["report"], ["export"]]
verbs += [["run"], ["run", "info"], ["run", "verify"], ["env"], ["demo"]]
for words in verbs:
    result = CliRunner().invoke(mcscore.cli.main, [*words, "--help"])
    assert result.exit_code == 0 and "Usage:" in result.output, (words, result.output)
print([name for name in heavy if name in sys.modules])
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_ctrl_c_is_exit_code_3_and_the_same_command_finishes(mcscore: Command, pool: Path, project: Path) -> None:
    slow = """
import os, time
from net import build as quick
from torch import nn
class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = quick()
    def forward(self, x):
        time.sleep(float(os.environ.get("PAUSE", "0")))
        return self.net(x)
def build():
    return Slow()
"""
    (project / "slow.py").write_text(slow)
    from safetensors.torch import load_file, save_file

    weights = {f"net.{name}": tensor for name, tensor in load_file(project / "net.safetensors").items()}
    save_file(weights, project / "slow.safetensors")
    words = ["score", str(pool), "--model", "slow.py:build", "--weights", "slow.safetensors", "--out", "slow", "--json"]
    words += ["--passes", "20", "--span", "16"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PAUSE": "0.05"}
    command = [sys.executable, "-m", "mcscore.cli", *words]
    process = subprocess.Popen(
        command, cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while len(list((project / "slow" / "commits").glob("*.json"))) < 5:  # the first three spans hold labeled items
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 3, err
    told = json.loads(out)
    assert 0 < told["done"] < told["items"] == 500
    assert "the same command resumes" in err
    assert "Traceback" not in err
    partial = mcscore("select", "slow", "-k", 3, "--diversity", "none")
    assert partial.exit_code == 1
    assert mcscore("select", "slow", "-k", 3, "--diversity", "none", "--partial").exit_code == 0
    done = subprocess.run(
        command, cwd=project, env={**environment, "PAUSE": "0"}, capture_output=True, text=True, timeout=120
    )
    assert json.loads(done.stdout).get("complete") is True, done


def test_model_without_dropout_is_refused_and_can_drop_weights(mcscore: Command, pool: Path, project: Path) -> None:
    (project / "plain.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def build():\n    torch.manual_seed(1)\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    command = ("score", pool, "--model", "plain.py:build", *FAST, "--out", "plain")
    refused = mcscore(*command)
    assert refused.exit_code == 1
    assert "no live dropout" in refused.stderr
    assert not (project / "plain").exists()
    assert mcscore(*command, "--weight-dropout", "0.1").exit_code == 0
    assert mcscore("select", "plain", "-k", 5).exit_code == 0


def test_items_without_a_finite_score_are_told_and_not_selected(mcscore: Command, project: Path) -> None:
    items = np.random.default_rng(0).normal(size=(60, 1, 8, 8)).astype(np.float32)
    items[[4, 40]] = np.nan
    np.save(project / "holes.npy", items)
    assert mcscore("pool", "import", "holes.npy", "holes.zarr").exit_code == 0
    scored = mcscore("score", "holes.zarr", *MODEL, *FAST, "--out", "holes", "--json")
    assert scored.exit_code == 0
    assert answer(scored)["nonfinite"] == 2
    assert "ids 4, 40" in scored.stderr
    assert scored.stderr.startswith("mcscore: warning: ")
    chosen = answer(mcscore("select", "holes", "-k", 58, "--diversity", "none", "--json"))["ids"]
    assert set(chosen) == set(range(60)) - {4, 40}
    mcscore("report", "holes")
    assert "which cannot be selected: 4, 40." in (project / "holes" / "report.html").read_text()


def test_selected_ties_at_the_noise_floor_are_counted(mcscore: Command, project: Path) -> None:
    np.save(project / "blank.npy", np.zeros((20, 1, 8, 8), np.float32))
    assert mcscore("pool", "import", "blank.npy", "blank.zarr").exit_code == 0
    same = mcscore("score", "blank.zarr", *MODEL, *FAST, "--passes", "1", "--out", "same")  # one pass cannot disagree
    assert same.exit_code == 0, same.stderr
    chosen = answer(mcscore("select", "same", "-k", 5, "--by", "bald", "--diversity", "none", "--json"))
    assert chosen["at_noise_floor"] == 5
    assert chosen["ids"] == [0, 1, 2, 3, 4]
    said = mcscore("select", "same", "-k", 5, "--by", "bald", "--diversity", "none")
    assert "5 items of them at the noise floor of BALD" in said.stdout + said.stderr


def test_sites_and_their_p_can_be_chosen(mcscore: Command, pool: Path, project: Path) -> None:
    result = mcscore("score", pool, *MODEL, *FAST, "--sites", "5", "--p", "0.25", "--out", "one-site")
    assert result.exit_code == 0, result.stderr
    sites = json.loads((project / "one-site" / "run.json").read_text())["sites"]
    assert [(site["name"], site["active"]) for site in sites] == [("3", False), ("5", True)]
    assert sites[1]["p"] == 0.25


# -- pools -------------------------------------------------------------------------------------------------------------


def test_run_info_and_verify_tell_how_a_run_stands(mcscore: Command, pool: Path, project: Path) -> None:
    assert mcscore("score", pool, *MODEL, *FAST, "--span", 128, "--out", "stands").exit_code == 0
    facts = answer(mcscore("run", "info", "stands", "--json"))
    assert (facts["items"], facts["done"], facts["scored"], facts["spans"], facts["lock"]) == (500, 500, 460, 4, None)
    text = mcscore("run", "info", "stands").stdout
    assert "500 of 500 done, 460 of them scored" in text
    assert "4 of 4 done, of 128 items" in text
    intact = mcscore("run", "verify", "stands")
    assert intact.exit_code == 0
    assert "500 of 500 items are committed" in intact.stdout
    shard = project / "stands" / "scores.zarr" / "c" / "0" / "1"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    damaged = mcscore("run", "verify", "stands")
    assert damaged.exit_code == 1
    assert (
        f"c/0/1: {len(whole) - 1} bytes instead of {len(whole)}; span 1 (items 128..255) will be scored again"
        in damaged.stdout
    )
    told = answer(mcscore("run", "verify", "stands", "--json"))
    assert (told["exit_code"], told["damage"][0]["span"]) == (1, 1)
    assert mcscore("score", pool, *MODEL, *FAST, "--out", "stands").exit_code == 0
    assert mcscore("run", "verify", "stands").exit_code == 0


def test_export_hands_scores_to_other_tools(mcscore: Command, pool: Path, project: Path) -> None:
    from mcscore.cli.run import FORMATS
    from mcscore.run.export import formats

    assert tuple(formats.FORMATS) == FORMATS
    assert mcscore("score", pool, *MODEL, *FAST, "--out", "out").exit_code == 0
    assert mcscore("select", "out", "-k", 5, "--diversity", "none").exit_code == 0
    told = answer(mcscore("export", "out", "--json"))
    assert told["file"].endswith("out/export-all.parquet")
    assert Path(told["file"]).stat().st_size == told["bytes"]
    made = mcscore("export", "out", "--format", "csv", "--selection", "latest")
    assert made.exit_code == 0, made.stderr
    rows = Path(made.stdout.strip()).read_text().splitlines()
    assert rows[0].replace('"', "") == "id,rank,bald,entropy,prediction"
    assert len(rows) == 6
    refused = mcscore("export", "out", "--format", "label-studio")
    assert refused.exit_code == 1
    assert "has no keys" in refused.stderr


def test_unreadable_items_stop_the_run_or_are_left_out(mcscore: Command, project: Path) -> None:
    words = ("--labels", "labels.npy", "--layout", "hw")
    assert mcscore("pool", "import", "digits.npy", "bad.zarr", *words).exit_code == 0
    chunk = next(file for file in sorted((project / "bad.zarr" / "items").iterdir()) if file.name != "zarr.json")
    data = bytearray(chunk.read_bytes())
    data[50] ^= 1
    chunk.write_bytes(data)
    command = ("score", "bad.zarr", *MODEL, *FAST, "--out", "bad", "--json")
    stopped = mcscore(*command)
    assert stopped.exit_code == 1
    assert "items 0..499 cannot be read" in stopped.stderr  # one chunk holds them all
    assert "--on-bad-chunk skip" in stopped.stderr
    assert not (project / "bad").exists()
    nothing = mcscore(*command, "--on-bad-chunk", "skip")
    assert "bad.zarr that is to be scored can be read" in nothing.stderr


def test_what_does_not_look_right_is_told_by_plan_score_and_report(mcscore: Command, project: Path) -> None:
    mcscore(
        "pool",
        "import",
        "digits.npy",
        "odd.zarr",
        "--labels",
        "labels.npy",
        "--layout",
        "hw",
        "--classes",
        "a,b,c,d,e,f,g,h,i,j,k",
    )
    planned = mcscore("plan", "odd.zarr", *MODEL, "--json")
    assert [each["check"] for each in answer(planned)["findings"]] == ["classes"]
    strict = mcscore("score", "odd.zarr", *MODEL, *FAST, "--check", "strict", "--out", "odd", "--json")
    assert (strict.exit_code, answer(strict)["error"]) == (1, "CheckError")
    assert not (project / "odd").exists()
    scored = mcscore("score", "odd.zarr", *MODEL, *FAST, "--out", "odd", "--json")
    assert answer(scored)["findings"] == answer(planned)["findings"]
    assert (
        "mcscore: warning: this does not look right: Sequential gives 10 outputs, and the pool has 11 class names"
        in scored.stderr
    )
    mcscore("report", "odd")
    assert "gives 10 outputs, and the pool has 11 class names" in (project / "odd" / "report.html").read_text()
    silent = mcscore("score", "odd.zarr", *MODEL, *FAST, "--check", "off", "--out", "unseen", "--json")
    assert (answer(silent)["findings"], "warnings" in answer(silent)) == ([], False)
