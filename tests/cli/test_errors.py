"""Errors of scores from the shell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from .conftest import FAST, MODEL, Command, answer


def test_errors_go_from_score_to_info(mcscore: Command, pool: Path, project: Path) -> None:
    from mcscore import Run

    assert mcscore("score", pool, *MODEL, *FAST, "--out", "plain-scores").exit_code == 0
    command = ("score", pool, *MODEL, *FAST, "--scores", "bald,entropy", "--errors", "--out", "errors", "--json")
    assert answer(mcscore(*command))["errors"] is True
    columns = ["bald", "entropy", "bald_se", "entropy_se", "bald_bias", "entropy_bias"]
    assert answer(mcscore("run", "info", "errors", "--json"))["columns"] == columns
    assert f"{', '.join(columns)}; 20 passes" in mcscore("run", "info", "errors").stdout
    run, without = Run.open(project / "errors"), Run.open(project / "plain-scores")
    for name in ("bald", "entropy"):
        assert run.scores(name).tobytes() == without.scores(name).tobytes()
        scored = np.isfinite(run.scores(name))
        assert (np.isfinite(run.scores(f"{name}_se")) == scored).all()
        assert (run.scores(f"{name}_se")[scored] > 0).any()
    assert np.nanmean(run.scores("bald_bias")) < 0 > np.nanmean(run.scores("entropy_bias"))  # both are biased low
    told = answer(mcscore("select", "errors", "-k", 5, "--by", "bald", "--diversity", "none", "--json"))
    last = run.scores("bald_se")[told["ids"][-1]]
    others = np.setdiff1d(np.flatnonzero(np.isfinite(run.scores("bald"))), told["ids"])
    near = abs(run.scores("bald")[others] - told["scores"][-1]) <= run.scores("bald_se")[others]
    assert (told["last_se"], told["near_cut"]) == (pytest.approx(last), near.sum())
    text = mcscore("select", "errors", "-k", 5, "--by", "bald", "--diversity", "none").stdout
    assert f"down to {told['scores'][-1]:.4g} (standard error {last:.2g})" in text
    assert f"{near.sum()} items not selected within one standard error of {told['scores'][-1]:.4g}" in text
    refused = mcscore("score", pool, *MODEL, *FAST, "--out", "errors")
    assert refused.exit_code == 1
    assert "started with errors=true, now false" in refused.stderr
