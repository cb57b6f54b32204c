"""A cycle that takes a tenth of a second: a made-up pool, and networks with weights drawn by the seed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mcscore import Pool, Run
from mcscore.cycle import Round

N = 90


def fit(pool: Pool, labeled: np.ndarray, seed: int) -> nn.Module:
    """Weights that depend on the seed and on the labels that the pool has."""
    digest = hashlib.sha256(np.concatenate([labeled, pool.labels[labeled]]).tobytes()).digest()
    torch.manual_seed(seed + int.from_bytes(digest[:4], "little"))
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Dropout(0.3), nn.Linear(8, 3))


def evaluate(model: nn.Module) -> dict[str, float]:
    weight = next(model.parameters())
    return {"accuracy": float(weight.detach().abs().mean()), "loss": float(weight.detach().mean())}


def oracle(ids: np.ndarray) -> np.ndarray:
    return (ids % 3).astype(np.int32)


ARGUMENTS: dict[str, Any] = {
    **{"fit": fit, "evaluate": evaluate, "oracle": oracle, "rounds": 3, "k": 5, "start": [40, 7, 3]},
    **{"scorer": {"passes": 6}, "scoring": {"check": "off"}, "select": {"by": "bald", "diversity": "none"}},
}


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    items = np.random.default_rng(0).integers(0, 256, (N, 1, 4, 4), dtype=np.uint8)
    return Pool.create(tmp_path_factory.mktemp("cycle") / "pool", items, labels=[2, *[-1] * (N - 1)], chunk_items=16)


def told(rounds: list[Round]) -> list[dict[str, Any]]:
    """All of the rounds but how long they took."""
    return [{**each.to_json(), "seconds": 0} for each in rounds]


def left(out: Path) -> dict[str, Any]:
    """What a cycle left on disk, but for times and random ids."""
    rounds = [json.loads(file.read_bytes()) for file in sorted((out / "rounds").iterdir())]
    runs = sorted(out.glob("round-*"))
    return {
        "rounds": [{**each, "seconds": 0, "checksum": ""} for each in rounds],
        "labels": Pool.open(out / "pool").labels.tolist(),
        "scores": [Run.open(run).scores("bald").tobytes() for run in runs],
        "selections": [[each.k for each in Run.open(run).selections()] for run in runs],
        "names": sorted(file.name for file in out.iterdir()),
    }
