"""A run on a GPU that is interrupted and resumed has the bits of one that is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mcscore import Execution, Scorer

from .models import KINDS, Kind, T

pytestmark = pytest.mark.gpu
N, SPAN = 700, 90


class Interrupted(Exception):
    pass


def scorer_of(kind: Kind, **options: object) -> Scorer:
    return Scorer(kind.on("cuda"), passes=T, execution=Execution(memory=kind.memory, dtype="model", **options))


@pytest.mark.parametrize("name", ["head", "mlp", "in-place"])
@pytest.mark.parametrize("deterministic", [False, True])
def test_an_interrupted_run_goes_on_bit_by_bit(tmp_path: Path, name: str, deterministic: bool) -> None:
    pytest.importorskip("zarr")
    from mcscore import Pool, score_pool

    kind = KINDS[name]
    pool = Pool.create(tmp_path / "pool", kind.items(N).numpy(), chunk_items=32)
    whole = score_pool(pool, scorer_of(kind, deterministic=deterministic), tmp_path / "whole", span=SPAN)

    def interrupted_at(stop: int) -> Callable[[int, int], None]:
        def interrupt(done: int, _total: int) -> None:
            if done >= stop:
                raise Interrupted

        return interrupt

    for stop in (1, 250, 600):  # one run, which goes on twice
        scorer = scorer_of(kind, deterministic=deterministic)
        with pytest.raises(Interrupted):
            score_pool(pool, scorer, tmp_path / "run", span=SPAN, progress=interrupted_at(stop))
    resumed = score_pool(pool, scorer_of(kind, deterministic=deterministic), tmp_path / "run", span=SPAN)
    for score in ("bald", "entropy"):
        assert np.isfinite(whole.scores(score)).all()
        assert whole.scores(score).tobytes() == resumed.scores(score).tobytes(), score
    assert np.array_equal(whole.prediction, resumed.prediction)
    alone = scorer_of(kind)(torch.from_numpy(pool.read(0, N)))
    np.testing.assert_allclose(whole.scores("bald"), alone["bald"].cpu().numpy(), rtol=2e-2, atol=2e-3)
