"""Data that is no pool: whatever form it has, its scores are those of a pool of the same items."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

import mcscore
from mcscore import Pool, Run, Scorer, score, score_pool
from mcscore.errors import RunError, SampleError
from mcscore.run.data import feeds
from mcscore.run.data.feeds import regrouped

N = 301  # odd, and more than a batch of samples

pytestmark = pytest.mark.filterwarnings("ignore:this does not look right")


@pytest.fixture(scope="module")
def items() -> np.ndarray:
    return np.random.default_rng(0).random((N, 6), np.float32)


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "FULL", 100)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Dropout(0.2), nn.Linear(6, 24), nn.ReLU(), nn.Dropout(0.5), nn.Linear(24, 4)).eval()


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer(model(), 8, errors=True)


@pytest.fixture(scope="module")
def pool(items: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return Pool.create(tmp_path_factory.mktemp("data") / "pool", items)


@pytest.fixture(scope="module")
def expected(pool: Pool, scorer: Scorer) -> pyarrow.Table:
    return score_pool(pool, scorer, f"{pool.path}-run", check="off").table()


class Samples(Dataset[Any]):
    """A map-style dataset that gives what ``form`` makes of an item."""

    def __init__(self, items: np.ndarray, form: Any) -> None:
        self.items, self.form = items, form

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.form(index, self.items[index])


class Stream(IterableDataset[Any]):
    def __init__(self, items: np.ndarray) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        return ((torch.from_numpy(item), 3) for item in self.items)


def forms(x: np.ndarray) -> dict[str, Any]:
    tensor = torch.from_numpy(x)
    pairs = TensorDataset(tensor, torch.zeros(N))
    return {
        "array": x,
        "tensor": tensor,
        "tensor dataset": pairs,
        "subset": Subset(pairs, range(N)),
        "items": Samples(x, lambda _, item: item),
        "dicts": Samples(x, lambda index, item: {"image": item, "label": index % 3, "name": "a"}),
        "list of samples": list(x),
        "loader": DataLoader(pairs, batch_size=32),
        "loader of one by one": DataLoader(Samples(x, lambda _, item: item), batch_size=None),
        "loader of a stream": DataLoader(Stream(x), batch_size=50),
        "stream": Stream(x),
        "batches": iter(np.split(x, [3, 100, 100])),
        "pairs of batches": ((tensor[lo : lo + 7], torch.zeros(7)) for lo in range(0, N, 7)),
    }


@pytest.mark.parametrize("form", list(forms(np.zeros((N, 6), np.float32))))
def test_scores_of_any_form_are_those_of_a_pool(
    form: str, items: np.ndarray, scorer: Scorer, expected: pyarrow.Table
) -> None:
    found = score(forms(items)[form], scorer)
    assert found.equals(expected)  # bit for bit: blocks of one size


def test_files_and_pools(
    tmp_path: Path, items: np.ndarray, pool: Pool, scorer: Scorer, expected: pyarrow.Table
) -> None:
    np.save(tmp_path / "items.npy", items)
    assert score(tmp_path / "items.npy", scorer).equals(expected)
    assert score(pool, scorer).equals(expected)
    labeled = Pool.create(tmp_path / "pool", items[:9], labels=[0, *[-1] * 8])
    labeled.set_excluded([4])
    assert score(str(labeled.path), scorer)["id"].to_pylist() == [1, 2, 3, 5, 6, 7, 8]
    (tmp_path / "photos").mkdir()
    with pytest.raises(SampleError, match=r"of pictures make a pool: mcscore\.ingest\.import_images"):
        score(tmp_path / "photos", scorer)


def test_order_and_ids(items: np.ndarray, scorer: Scorer, expected: pyarrow.Table) -> None:
    pairs = Samples(items, lambda index, item: {"x": item, "n": index})
    with pytest.raises(SampleError, match=r"draws its items by RandomSampler.* shuffle=False, or .* ids="):
        score(DataLoader(pairs, batch_size=32, shuffle=True), scorer)
    table = score(DataLoader(pairs, batch_size=32, shuffle=True), scorer, ids="n").sort_by("id")
    assert table["id"].to_pylist() == list(range(N))
    np.testing.assert_allclose(table["bald"].to_numpy(), expected["bald"].to_numpy(), rtol=1e-4, atol=1e-6)
    twice = Samples(items, lambda index, item: {"x": item, "n": index // 2})
    with pytest.raises(SampleError, match="id 0 was given 2 times"):
        score(twice, scorer, ids="n")
    with pytest.raises(SampleError, match="sample 0 has no 'm', which ids= names"):
        score(pairs, scorer, ids="m")
    with pytest.raises(SampleError, match="leaves out 13 of 301 items: give drop_last=False"):
        score(DataLoader(pairs, batch_size=32, drop_last=True), scorer)


def test_what_is_wrong_is_named_with_its_place(items: np.ndarray, scorer: Scorer) -> None:
    two = Samples(items, lambda index, item: {"left": item, "right": item})
    with pytest.raises(SampleError, match=r"sample 0: it has 2 arrays, 'left', 'right', .* item='left'"):
        score(two, scorer)
    assert len(score(two, scorer, item="right")) == N
    ragged = Samples(items, lambda index, item: item[: 5 if index == 270 else 6])
    with pytest.raises(
        SampleError, match=r"sample 270 has an item of float32 \(5,\), and those before it have float32 \(6,\)"
    ):
        score(ragged, scorer)
    with pytest.raises(SampleError, match=r"items from position 4 on are float64 \(6,\), and those before are float32"):
        score(iter([items[:4], items[4:8].astype(np.float64)]), scorer)
    with pytest.raises(SampleError, match="batch 1: it is a str"):
        score(iter([items[:4], "text"]), scorer)
    with pytest.raises(SampleError, match="data is of type int"):
        score(7, scorer)
    with pytest.raises(SampleError, match=r"data is a Frame of pandas: give its numbers, data\.to_numpy\(\)"):
        score(type("Frame", (list,), {"iloc": 0})(), scorer)
    with pytest.raises(SampleError, match="data is a dict of 'train', 'test': give one of these"):
        score({"train": items, "test": items}, scorer)
    with pytest.raises(SampleError, match="the data holds no item"):
        score(items[:0], scorer)
    with pytest.raises(RunError, match="check must be one of off, warn, strict, not 'loud'"):
        score(items, scorer, check="loud")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="scorer is of type Linear: a Scorer is needed"):
        score(items, torch.nn.Linear(6, 3))  # type: ignore[arg-type]
    with pytest.raises(
        RunError, match="s3://bucket/run is no local path, and a copy of the items cannot be written there$"
    ):
        score(items, scorer, out="s3://bucket/run")


def test_items_that_are_not_finite_are_told_and_have_no_score(items: np.ndarray, scorer: Scorer) -> None:
    spoiled = items[:20].copy()
    spoiled[[3, 7]] = np.nan
    with pytest.warns(UserWarning, match=r"2 of 20 items have no finite score \(ids 3, 7\)"):
        table = score(spoiled, scorer)
    for name in ("bald", "bald_se", "prediction"):
        assert np.flatnonzero(table[name].is_null().to_numpy()).tolist() == [3, 7]


def test_a_model_that_does_not_fit_its_input_is_told_of(scorer: Scorer) -> None:
    dead = Scorer(nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 4)), 1)
    items = np.random.default_rng(0).random((40, 6), np.float32)
    with pytest.raises(mcscore.CheckError, match="nothing was scored"):
        score(items, dead, check="strict")  # one pass, and a score that needs spread
    assert len(score(items, dead, check="off")) == 40


def test_progress_counts_items(items: np.ndarray, scorer: Scorer) -> None:
    told: list[tuple[int, int]] = []
    score(items, scorer, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (N, N)
    told.clear()
    score(iter([items[:100], items[100:]]), scorer, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (N, N)


def test_out_makes_it_durable_by_a_pool_beside_the_run(
    tmp_path: Path, items: np.ndarray, scorer: Scorer, expected: pyarrow.Table, caplog: pytest.LogCaptureFixture
) -> None:
    data = TensorDataset(torch.from_numpy(items), torch.zeros(N))
    with caplog.at_level(logging.INFO, "mcscore"):
        table = score(data, scorer, out=tmp_path / "run")
    assert table.equals(expected)
    assert "run.pool" in caplog.text
    run = Run.open(tmp_path / "run")
    assert run.complete
    assert len(run.select(5, diversity="none")) == 5
    assert score(items, scorer, out=tmp_path / "run").equals(table)  # resumed: nothing is left
    with pytest.raises(RunError, match=r"holds 301 items of float32 .* choose another out"):
        score(items + 1, scorer, out=tmp_path / "run")
    for once in (iter([items]), DataLoader(data, batch_size=8)):
        with pytest.raises(RunError, match=r"out='.*read.*Leave out out, or make a pool"):
            score(once, scorer, out=tmp_path / "other")
    with pytest.raises(RunError, match="a run has positions as ids"):
        score(data, scorer, ids=1, out=tmp_path / "other")


def test_memory_is_of_a_block(items: np.ndarray) -> None:
    """No part waits for more than one block of it."""
    taken = 0

    def source() -> Iterator[feeds.Part]:
        nonlocal taken
        for lo in range(0, N, 7):
            taken += 1
            yield np.arange(lo, lo + 7), items[lo : lo + 7]

    for at, (ids, _) in enumerate(regrouped(source(), 14), 1):
        assert len(ids) == 14 or at == 22
        assert taken <= 2 * at + 1


def test_a_bar_is_shown_where_somebody_looks_on(
    items: np.ndarray, scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    score(items, scorer)
    assert "301/301" in terminal.getvalue()
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    score(items, scorer, progress=False)
    assert terminal.getvalue() == ""
