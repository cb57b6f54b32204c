"""What the commands refuse: one sentence that names the thing, an exit code, and nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import FAST, MODEL, Command, answer


def test_select_refuses_a_model_with_other_weights(mcscore: Command, pool: Path) -> None:
    mcscore("score", pool, "--model", "net.py:build", *FAST, "--out", "fresh")
    result = mcscore("select", "fresh", "-k", 5)
    assert result.exit_code == 1
    assert f"is not the model that scored {Path.cwd() / 'fresh'}" in result.stderr
    assert "fresh random weights" in result.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("score", "pool.zarr", "--out", "x"), "--model"),
        (("score", "pool.zarr", *MODEL, "--out", "x", "--scores", "bold"), "unknown score 'bold'; choose from entropy"),
        (
            ("score", "pool.zarr", *MODEL, "--out", "x", "--likelihood", "gaussian"),
            "not defined for likelihood 'gaussian'",
        ),
        (("score", "pool.zarr", *MODEL, "--out", "x", "--passes", "0"), "--passes"),
        (("score", "pool.zarr", *MODEL, "--out", "x", "--errors", "--passes", "1"), "needs at least 2 passes, got 1"),
        (("score", "pool.zarr", *MODEL, "--out", "x", "--reduction", "most"), "neither mean nor max"),
        (("pool", "import", "digits.npy", "y.zarr", "--mean", "a,b"), "not a list of numbers"),
        (("select", "run", "-k", "0"), "-k"),
        (("select", "run", "-k", "3", "--diversity", "none", "--radius", "1"), "--radius belongs to"),
        (("flatter",), "No such command"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_names_the_option(mcscore: Command, words: tuple[str, ...], says: str) -> None:
    result = mcscore(*words)
    assert result.exit_code == 2
    assert says in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("pool", "info", "nowhere"), "nowhere is not a pool"),
        (("score", "nowhere", *MODEL, "--out", "x"), "nowhere is not a pool"),
        (("select", "nowhere", "-k", 3), "nowhere is not a run"),
        (("report", "nowhere"), "nowhere is not a run"),
        (("pool", "import", "net.py", "z.zarr"), "net.py is none of"),
    ],
)
def test_failure_is_one_sentence_on_stderr_and_one_object_with_json(
    mcscore: Command, words: tuple[object, ...], says: str
) -> None:
    result = mcscore(*words)
    assert result.exit_code == 1
    assert result.stderr.startswith("mcscore: ")
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    told = answer(mcscore(*words, "--json"))
    assert says in told["message"]
    assert told["exit_code"] == 1


def test_traceback_is_shown_only_when_asked_for(mcscore: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Traceback" not in mcscore("pool", "info", "nowhere").stderr
    assert "Traceback" in mcscore("--traceback", "pool", "info", "nowhere").stderr
    monkeypatch.setenv("MCSCORE_TRACEBACK", "1")
    assert "Traceback" in mcscore("pool", "info", "nowhere").stderr


def test_unfit_weights_are_named_and_nothing_is_written(mcscore: Command, pool: Path, project: Path) -> None:
    import torch

    state = torch.load(project / "net.pt", weights_only=True)
    state["6.weight"] = torch.zeros(7, 16)
    state["7.weight"] = state.pop("4.bias")
    torch.save(state, project / "unfit.pt")
    result = mcscore("score", pool, "--model", "net.py:build", "--weights", "unfit.pt", *FAST, "--out", "unfit")
    assert result.exit_code == 1
    assert "missing: 4.bias" in result.stderr
    assert "unexpected: 7.weight" in result.stderr
    assert "6.weight (file float32 7×16, model float32 10×16)" in result.stderr
    assert not (project / "unfit").exists()


def test_other_passes_than_the_run_began_with_are_refused(mcscore: Command, pool: Path) -> None:
    assert mcscore("score", pool, *MODEL, *FAST, "--out", "twenty").exit_code == 0
    result = mcscore("score", pool, *MODEL, "--passes", 30, "--quiet", "--out", "twenty")
    assert result.exit_code == 1
    assert "passes" in result.stderr


def test_more_items_than_are_left_cannot_be_selected(mcscore: Command, pool: Path) -> None:
    mcscore("score", pool, *MODEL, *FAST, "--out", "few")
    result = mcscore("select", "few", "-k", 461, "--diversity", "none")
    assert result.exit_code == 1
    assert "460" in result.stderr
