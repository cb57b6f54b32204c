"""What an installed wheel must do by itself: load its C++ kernels, score a pool, resume, select. No test framework, no checkout."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

import mcscore
from mcscore import env


def main() -> None:
    """Exits with an AssertionError where the installation does not work."""
    here = Path(mcscore.__file__).resolve()
    assert "site-packages" in here.parts, f"{here} is a checkout, not an installed wheel"
    facts = env.describe()
    active, why = facts["backends"]["native"].values()
    assert active, f"the wheel has no C++ kernels: {why}"
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 10))
    images = np.random.default_rng(0).integers(0, 256, (500, 1, 8, 8), dtype=np.uint8)
    scorer = mcscore.Scorer(model, passes=20, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        pool = mcscore.Pool.create(f"{folder}/pool.zarr", images)
        run = mcscore.score_pool(pool, scorer, out=f"{folder}/run", check="off")  # its weights are random
        bald = run.scores("bald")
        assert (bald >= 0).all()
        assert bald.max() > 0
        assert np.allclose(bald[7:9], scorer(images[7:9], np.arange(7, 9))["bald"].numpy(), rtol=0, atol=2e-6)
        assert len(run.select(k=10, by="bald", diversity="none").ids) == 10
    print(f"mcscore {mcscore.__version__}, torch {torch.__version__}: 500 items scored by the wheel's kernels ({why})")


if __name__ == "__main__":
    main()
