"""Standard errors and biases are stored beside the scores, and are no scores."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr

from mcscore.errors import RunError
from mcscore.run import Run, score_pool
from mcscore.run.status import verify

from .fakes import SPAN, Column, FakePool, FakeScorer, N, begin, content, fail_at, go_on, reheader

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


class Falling(FakeScorer):
    """bald falls by 1 from item to item; its error is 0.5 or, of every third item, 4.5. Every two items are alike."""

    def __call__(self, items: np.ndarray, ids: np.ndarray) -> dict[str, Column]:
        columns = super().__call__(items, ids)
        columns["bald"] = Column((N - ids).astype(np.float32))
        columns["bald_se"] = Column(np.where(ids % 3 == 0, 4.5, 0.5).astype(np.float32))
        return columns

    def embed(self, _items: np.ndarray, ids: np.ndarray) -> np.ndarray:
        return (ids[:, None] // 2).astype(np.float32)


class Pool(FakePool):
    classes = None
    storage = SimpleNamespace(rows=SimpleNamespace(chunk=7), offsets=None)

    def take(self, ids: np.ndarray) -> np.ndarray:
        return ids


@pytest.fixture
def falling(out: Path) -> Run:
    """A run of which item 4 was labeled before; 39 has been since, and 42 was excluded."""
    pool = Pool()
    pool.labels[4] = 0
    run = score_pool(pool, Falling(errors=True), out, span=SPAN)  # type: ignore[arg-type]
    pool.labels[39], pool.excluded[42] = 0, True
    return run


def test_a_selection_has_the_errors_of_its_items_and_of_the_cut(falling: Run) -> None:
    chosen = falling.select(40, by="bald", diversity="none")
    assert chosen.ids.tolist() == [i for i in range(42) if i not in (4, 39)]
    table = pq.read_table(falling.path / "selection-0001.parquet")
    assert table.column_names == ["id", "rank", "score", *COLUMNS, "prediction"]
    for name in COLUMNS:
        assert table[name].to_numpy().tobytes() == falling.scores(name)[chosen.ids].tobytes()
    how = json.loads(table.schema.metadata[b"mcscore"])
    # The cut is 59. Of the items below it 42 and 45 reach it, but 42 is excluded; the labeled 39 above it is near, too.
    assert (how["last_se"], how["near_cut"]) == (0.5, 1)


def test_what_diversity_left_out_near_the_cut_is_counted(falling: Run) -> None:
    assert falling.select(3, by="bald", radius=0.5).ids.tolist() == [0, 2, 6]  # 5 is like 4, which is labeled
    how = json.loads(pq.read_schema(falling.path / "selection-0001.parquet").metadata[b"mcscore"])
    # The cut is 94. 3, left out because it is like 2, and 9 are within their error of it, 4.5; 5 and 7 are not within 0.5.
    assert (how["last_se"], how["near_cut"]) == (4.5, 2)


def test_a_selection_without_errors_says_nothing_of_them(out: Path) -> None:
    begin(out).select(3, by="bald", diversity="none")
    schema = pq.read_schema(out / "selection-0001.parquet")
    assert schema.names == ["id", "rank", "score", "bald", "entropy", "prediction"]
    assert not {"last_se", "near_cut"} & json.loads(schema.metadata[b"mcscore"]).keys()


@pytest.mark.filterwarnings("ignore:.*without keys")
@pytest.mark.parametrize("selection", [None, "latest"])
def test_exports_have_the_errors(falling: Run, selection: str | None) -> None:
    chosen = falling.select(3, by="bald", diversity="none").ids
    ids = np.arange(N) if selection is None else chosen
    names = ["id", *(["rank"] if selection else []), *COLUMNS, "prediction"]
    table = pq.read_table(falling.export("parquet", selection=selection))
    rows = [json.loads(line) for line in falling.export("jsonl", selection=selection).read_text().splitlines()]
    with falling.export("csv", selection=selection).open(newline="") as file:
        cells = list(csv.DictReader(file))
    assert table.column_names == list(rows[0]) == list(cells[0]) == names
    for name in COLUMNS:
        bits = falling.scores(name)[ids].tobytes()
        assert table[name].to_numpy().astype(np.float32).tobytes() == bits
        for values in ([row[name] for row in rows], [cell[name] or None for cell in cells]):
            assert np.array([np.nan if value is None else value for value in values], np.float32).tobytes() == bits


def test_labeling_tools_get_the_errors(falling: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for i in range(N):
        (tmp_path / f"{i}.png").touch()
    monkeypatch.setattr(Pool, "has_keys", True, raising=False)
    monkeypatch.setattr(Pool, "keys_of", lambda _self, ids: np.array([f"{i}.png" for i in ids]), raising=False)
    (task, *_) = json.loads(falling.export("label-studio").read_text())
    assert task["data"]["bald_se"] == 4.5
    assert set(COLUMNS) < task["data"].keys()
    labels = json.loads(falling.export("fiftyone").read_text())["labels"]
    assert next(iter(labels.values()))["attributes"].keys() == {"item", *COLUMNS}
