"""Standard errors and biases are stored beside the scores, and are no scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

from mcscore.errors import RunError
from mcscore.run import Run
from mcscore.run.status import verify

from .fakes import N, begin, content, fail_at, go_on, reheader

COLUMNS = ("bald", "entropy", "bald_se", "entropy_se", "bald_bias", "entropy_bias")


def test_errors_are_rows_of_the_array_behind_the_scores(out: Path) -> None:
    begin(out, errors=True)
    run = Run.open(out)
    assert run.columns == COLUMNS
    assert verify(out) == []
    array = zarr.open_array(out / "scores.zarr", mode="r")
    assert array.attrs["scores"] == [*COLUMNS, "prediction"]
    for row, name in enumerate(COLUMNS):
        assert abs(run.scores(name) - (np.sin(np.arange(N) + row) + 2)).max() < 0.01
        assert array[row].tobytes() == run.scores(name).tobytes()  # type: ignore[union-attr]
    assert run.values("entropy_se", np.array([7, 3])).tolist() == run.scores("entropy_se")[[7, 3]].tolist()


def test_a_run_has_the_same_scores_with_errors_and_without(out: Path, undisturbed: dict[str, bytes]) -> None:
    with_errors = content(begin(out, errors=True))
    assert {name: with_errors[name] for name in undisturbed} == undisturbed
    assert set(with_errors) - set(undisturbed) == set(COLUMNS[2:])


def test_a_run_with_errors_resumes_to_the_same_errors(out: Path, tmp_path: Path) -> None:
    whole = content(begin(tmp_path / "whole", errors=True))
    with pytest.raises(RunError, match="could not be scored"):
        begin(out, errors=True, on_block=fail_at(45))
    assert content(go_on(out, errors=True)) == whole


@pytest.mark.parametrize("errors", [False, True])
def test_a_run_is_not_resumed_with_errors_if_it_was_started_without(out: Path, errors: bool) -> None:
    with pytest.raises(RunError, match="could not be scored"):
        begin(out, errors=errors, on_block=fail_at(45))
    then, now = str(errors).lower(), str(not errors).lower()
    with pytest.raises(RunError, match=f"cannot be resumed: started with errors={then}, now {now}"):
        go_on(out, errors=not errors)


def test_an_item_without_a_finite_score_has_no_error(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finite score with an error that is not (only a fault could give it) follows the one rule: none of the item is kept."""
    from .fakes import Column, FakeScorer

    score = FakeScorer.__call__

    def broken(self: FakeScorer, items: np.ndarray, ids: np.ndarray) -> dict[str, Column]:
        columns = score(self, items, ids)
        columns["entropy_se"].values[ids == 17] = np.nan
        return columns

    monkeypatch.setattr(FakeScorer, "__call__", broken)
    run = begin_with_warning(out)
    assert run.nonfinite_ids.tolist() == [17]
    for name in COLUMNS:
        assert np.flatnonzero(np.isnan(run.scores(name))).tolist() == [17]


def begin_with_warning(out: Path) -> Run:
    with pytest.warns(UserWarning, match=r"1 of 100 items have no finite score \(ids 17\)"):
        return begin(out, errors=True)


def test_nothing_is_selected_by_an_error(out: Path) -> None:
    run = begin(out, errors=True)
    with pytest.raises(
        RunError, match="items are selected by a score, and bald_se is an error of one: choose from bald, "
    ):
        run.select(3, by="bald_se", diversity="none")
    with pytest.raises(RunError, match="has no score 'margin'; choose from bald, entropy"):
        run.select(3, by="margin", diversity="none")
    with pytest.raises(RunError, match="has no score 'margin'; it has bald, entropy, bald_se, "):
        run.scores("margin")


def test_a_run_without_errors_says_how_to_get_them(out: Path) -> None:
    with pytest.raises(RunError, match=r"has no score 'bald_se'; it has bald, entropy\. .*errors=True \(--errors\)"):
        begin(out).scores("bald_se")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"passes": 1}, "'passes' is 1; a whole number from 2 to 65,536 is needed"),
        ({"scores": ["bald", "novelty"]}, "'scores' is .*novelty.*; errors are known of entropy, "),
        ({"scores": ["bald", "bald"]}, "'scores' is .*; names, each once is needed"),
        ({"errors": 1}, "'errors' is 1; true or false is needed"),
    ],
)
def test_a_header_that_no_run_with_errors_has_is_refused(out: Path, changes: dict[str, object], told: str) -> None:
    begin(out, errors=True)
    reheader(out, **changes)
    with pytest.raises(RunError, match=told):
        Run.open(out)
