"""mcscore select: methods, limits and what is said of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mcscore import Run, score_pool
from mcscore.cli.model import build_scorer
from mcscore.methods import DIVERSITY
from mcscore.pool import Pool

from .conftest import Command, answer


@pytest.fixture
def run(mcscore: Command, pool: Path, project: Path) -> Path:
    words = ("--model", "net.py:build", "--weights", "net.safetensors", "--device", "cpu", "--passes", 8, "--seed", 5)
    if not (project / "methods" / "run.json").exists():
        scored = mcscore("score", pool, *words, "--sites", "5", "--scores", "bald", "--out", "methods")
        assert scored.exit_code == 0, scored.stderr
    return project / "methods"


def scored_again(pool: Path, project: Path, folder: Path) -> Run:
    """The run of the fixture, by the Python interface."""
    scorer = build_scorer(
        f"{project}/net.py:build",
        project / "net.safetensors",
        device="cpu",
        passes=8,
        seed=5,
        sites=["5"],
        scores=("bald",),
    )
    return score_pool(Pool.open(pool), scorer, folder / "again")


def test_every_method_of_the_table_is_in_the_help_with_its_text(mcscore: Command) -> None:
    text = " ".join(mcscore("select", "--help").output.split())
    for name, row in DIVERSITY.items():
        assert f"{name}: {row.text}." in text


def test_a_draw_takes_beta_and_seed_and_says_them(mcscore: Command, run: Path) -> None:
    words = ("select", run, "-k", 9, "--diversity", "power")
    told = answer(mcscore(*words, "--beta", 2, "--seed", 7, "--json"))
    assert told["parameters"] == {"beta": 2, "seed": 7}
    assert told["ids"] == Run.open(run).select(9, "bald", "power", beta=2, seed=7, pool=None).ids.tolist()
    assert answer(mcscore(*words, "--json"))["parameters"] == {"beta": 4, "seed": 0}
    assert "drawn with beta 4, seed 0: another seed draws other items" in mcscore(*words).stdout
    for name, method in (("beta", "none"), ("radius", "power")):
        refused = mcscore("select", run, "-k", 9, "--diversity", method, f"--{name}", 1)
        assert refused.exit_code == 2
        assert f"--{name} belongs to --diversity" in refused.stderr


def test_badge_from_the_shell_is_badge_with_the_scorer_of_the_run(
    mcscore: Command, run: Path, pool: Path, project: Path, tmp_path: Path
) -> None:
    told = answer(mcscore("select", run, "-k", 6, "--diversity", "badge", "--device", "cpu", "--json"))
    again = scored_again(pool, project, tmp_path)
    assert told["ids"] == again.select(6, "bald", "badge").ids.tolist()


def test_joint_methods_score_the_candidates_again_and_keep_their_samples(
    mcscore: Command, run: Path, pool: Path, project: Path, tmp_path: Path
) -> None:
    for file in run.glob("samples-*"):
        file.unlink()
    words = ("select", run, "-k", 3, "--candidates", 40, "--device", "cpu")
    first = mcscore(*words, "--diversity", "batchbald")
    assert "information of the model by pick: " in first.stdout
    kept = (run / "samples-candidates.bin").read_bytes()
    told = answer(mcscore(*words, "--diversity", "batchbald", "--json"))
    assert len(told["parameters"]["gains"]) == 3
    assert (run / "samples-candidates.bin").read_bytes() == kept
    again = scored_again(pool, project, tmp_path)
    assert told["ids"] == again.select(3, "bald", "batchbald", candidates=40).ids.tolist()
    told = answer(mcscore(*words, "--diversity", "epig", "--targets", "3-9,20", "--json"))
    assert told["ids"] == again.select(3, "bald", "epig", candidates=40, targets=[3, 4, 5, 6, 7, 8, 9, 20]).ids.tolist()
    elsewhere = answer(mcscore(*words, "--diversity", "epig", "--targets", pool, "--json"))
    assert elsewhere["ids"] == again.select(3, "bald", "epig", candidates=40, targets=Pool.open(pool)).ids.tolist()
    refused = mcscore(*words, "--diversity", "none", "--targets", 3)
    assert refused.exit_code == 2
    assert "--targets belongs to --diversity epig" in refused.stderr


def test_limits_are_kept_and_what_they_left_out_is_said(
    mcscore: Command, run: Path, project: Path, tmp_path: Path
) -> None:
    first = answer(mcscore("select", run, "-k", 8, "--diversity", "none", "--json"))["ids"]
    (tmp_path / "items.csv").write_text(
        "id,patient,minutes\n" + "".join(f"{i},p{i % 4},{1 + i % 3}\n" for i in range(499))
    )
    (tmp_path / "seen.txt").write_text(f"{first[0]}\n{first[1]}\n")
    words = ("select", run, "-k", 8, "--diversity", "none", "--leave-out", tmp_path / "seen.txt")
    told = answer(
        mcscore(*words, "--groups", f"{tmp_path}/items.csv:patient", "--per-group", 0.25, "--costs", f"{tmp_path}/items.csv:minutes",
                "--budget", 12, "--json")
    )  # fmt: skip
    ids = np.array(told["ids"])
    assert np.bincount(ids % 4).tolist() == [2, 2, 2, 2]
    assert (1 + ids % 3).sum() <= 12
    assert not set(first[:2]) & set(told["ids"])
    assert told["left_out"] == {"labeled_or_excluded": 40, "left_out": 2, "without_group": 1}
    assert told["parameters"]["limits"]["of"] == "patient"
    assert told["parameters"]["limits"]["spent"] == (1 + ids % 3).sum()
    refused = mcscore(*words, "--groups", f"{tmp_path}/items.csv:patient", "--per-group", 1)
    assert refused.exit_code == 1
    assert "the quota of 1 for each patient allows 4 items, 4 too few" in refused.stderr
    refused = mcscore(*words, "--per-class", 0.01)
    assert "a quota of 0.01 of 8 items is less than one item" in refused.stderr
    assert "groups and per_group belong together" in mcscore(*words, "--per-group", 1).stderr
    assert np.bincount(Run.open(run).prediction[answer(mcscore(*words, "--per-class", 1, "--json"))["ids"]]).max() == 1
