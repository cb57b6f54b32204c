"""Screening from the shell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mcscore.run import Run

from .conftest import Command, answer

MODEL = ("--model", "net.py:build", "--weights", "net.safetensors", "--device", "cpu")


def test_score_screens_for_the_top_and_says_what_it_found(mcscore: Command, pool: object, tmp_path: Path) -> None:
    words = (
        "score",
        pool,
        *MODEL,
        "--out",
        tmp_path / "run",
        "--top",
        5,
        "--screen",
        4,
        "--passes",
        20,
        "--audit",
        0.2,
    )
    text = mcscore(*words).stdout
    assert "items scored with 4 passes" in text
    assert "survivor" in text
    run = Run.open(tmp_path / "run")
    assert run.screen is not None
    assert (run.meta["passes"], run.screen.meta["passes"]) == (20, 4)
    told = answer(mcscore(*words, "--json"))
    assert told["complete"]
    info = answer(mcscore("run", "info", tmp_path / "run", "--json"))
    assert info["screen"]["top"] == 5
    assert info["stage_1"]["done"] == info["items"] == 500
    assert info["certificate"]["items"] == info["stage_1"]["scored"] == 460  # 40 are labeled
    assert info["certificate"]["survivors"] == info["cut"]["cut"]["survivors"]
    shown = mcscore("run", "info", tmp_path / "run").stdout
    assert "by bald for the top 5" in shown
    assert "stage 1" in shown
    assert int(np.isfinite(run.scores("bald")).sum()) == info["scored"]


def test_the_flat_run_has_the_same_scores(mcscore: Command, pool: object, tmp_path: Path) -> None:
    mcscore("score", pool, *MODEL, "--out", tmp_path / "run", "--top", 5, "--screen", 4, "--passes", 20)
    mcscore("score", pool, *MODEL, "--out", tmp_path / "flat", "--passes", 20)
    screened, flat = Run.open(tmp_path / "run").scores("bald"), Run.open(tmp_path / "flat").scores("bald")
    full = np.isfinite(screened)
    assert 5 <= full.sum() <= len(full)
    np.testing.assert_array_equal(screened[full], flat[full])


def test_without_screen_the_passes_are_a_budget(mcscore: Command, pool: object, tmp_path: Path) -> None:
    result = mcscore("score", pool, *MODEL, "--out", tmp_path / "run", "--top", 5, "--passes", 60)
    run = Run.open(tmp_path / "run")
    assert run.meta["screen"]["budget"] == 60
    if run.meta["not_screened"]:
        assert f"not screened: {run.meta['not_screened']}" in result.stdout
    else:
        assert run.passes_spent <= 60 * 1.01 * run.n + run.meta["passes"]
        assert run.meta["cuts"][0]["why"] in result.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--screen", 4), "screening needs --top"),
        (("--top", 5, "--screen", 100), "saves nothing where all passes are 100"),
        (("--top", 5, "--passes", 16), "more than 16 passes as budget"),
        (("--top", 5, "--by", "margin"), "by 'margin', but the scorer computes bald, entropy"),
        (("--top", 0), "0 is not in the range"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    mcscore: Command, pool: object, tmp_path: Path, words: tuple[object, ...], message: str
) -> None:
    result = mcscore("score", pool, *MODEL, "--out", tmp_path / "run", *words)
    assert result.exit_code
    assert message in result.stderr
    assert not (tmp_path / "run").exists()


def test_plan_tells_what_screening_would_save(mcscore: Command, pool: object) -> None:
    told = answer(mcscore("plan", pool, *MODEL, "--json"))["screening"]
    assert told["gain"] == pytest.approx(told["flat_flops"] / told["screened_flops"])
    assert "screening  " in mcscore("plan", pool, *MODEL).stdout
