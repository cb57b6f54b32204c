"""The map of a selection: principal components, and near-repeats against random candidates."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mcscore.selection import embedding_map as module
from mcscore.selection.embedding_map import embedding_map


def test_the_plane_is_that_of_the_largest_variance() -> None:
    rng = np.random.default_rng(0)
    base = np.linalg.qr(rng.normal(size=(7, 7)))[0]
    points = (rng.normal(size=(900, 7)) * [1, 9, 1, 1, 4, 1, 1] @ base + 50).astype(np.float32)
    found = embedding_map(points, points[:3], np.array([5, 8]), np.arange(900), 0)
    centered = points - points.mean(0)
    for axis, place in ((1, 0), (4, 1)):
        got = np.array(found["candidates"])[:, place]
        assert abs(np.corrcoef(got, centered @ base[axis])[0, 1]) > 0.999
        assert found["explained"][place] == pytest.approx(got.var() / centered.var(0).sum(), rel=1e-2)
    assert found["selected"] == [found["candidates"][5], found["candidates"][8]]
    assert found["labeled"] == found["candidates"][:3]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert embedding_map(points, None, np.array([5, 8]), np.arange(900), 0)["labeled"] == []


def test_near_repeats_are_counted_beside_those_of_random_candidates() -> None:
    rng = np.random.default_rng(1)
    points = rng.normal(size=(500, 3)).astype(np.float32)
    points[400:420] = points[100] + 1e-3 * rng.normal(size=(20, 3)).astype(np.float32)
    near = embedding_map(points, None, np.arange(395, 425), np.arange(500), 3)["near"]
    apart = np.linalg.norm(points[395:425, None] - points[None, 395:425], axis=2) + 99 * np.eye(30)
    assert near["selected"] == (apart.min(1) <= near["distance"]).sum() >= 20
    assert near["random"] < 10
    assert near["of"] == 30


def test_points_are_few_however_many_candidates_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POINTS", {"candidates": 11, "labeled": 5, "selected": 7})
    points = np.random.default_rng(2).normal(size=(100, 1)).astype(np.float32)
    found = embedding_map(points, points[:30], np.arange(50), np.arange(100) * 7, 0, labeled_ids_L=np.arange(30) + 900)
    assert [len(found[kind]) for kind in ("candidates", "labeled", "selected")] == [11, 5, 7]
    assert found["ids"]["candidates"] == [7 * (i * 100 // 11) for i in range(11)]
    assert found["ids"]["labeled"] == [900, 906, 912, 918, 924]
    assert np.array(found["candidates"])[:, 1].tolist() == [0.0] * 11  # one dimension


@pytest.mark.parametrize("k", [1, 4])
def test_candidates_that_coincide_have_a_map(k: int) -> None:
    found = embedding_map(np.ones((9, 2), np.float32), None, np.arange(k), np.arange(9), 0)
    assert found["explained"] == [0.0, 0.0]
    repeats = 0 if k == 1 else k
    assert found["near"] == {"distance": 0.0, "selected": repeats, "random": repeats, "of": k}


def test_umap_keeps_groups_apart() -> None:
    pytest.importorskip("umap")
    points = np.random.default_rng(0).normal(size=(120, 8)).astype(np.float32)
    points[60:] += 40.0
    found = embedding_map(points, points[:3], np.array([5, 70]), np.arange(120), 7, "umap")
    assert found["explained"] == []
    assert [len(found[kind]) for kind in ("candidates", "labeled", "selected")] == [120, 3, 2]
    one, other = np.array(found["candidates"][:60]), np.array(found["candidates"][60:])
    apart = np.linalg.norm(one.mean(0) - other.mean(0))
    assert apart > 2 * max(one.std(0).max(), other.std(0).max())
    again = embedding_map(points, points[:3], np.array([5, 70]), np.arange(120), 7, "umap")
    assert again["selected"] == found["selected"]
