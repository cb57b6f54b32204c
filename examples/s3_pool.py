"""Score a pool in an object store: it is read where it lies, the run is written here.

    AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=... python examples/s3_pool.py s3://bucket/pool.zarr runs/a [--endpoint URL]

Needs ``pip install 'mcscore[remote]'``. Killed, the same command resumes.
"""

from __future__ import annotations

import argparse
import os

import torch
from torch import nn

import mcscore


def main(pool: str, out: str) -> mcscore.Run:
    """Scores the pool with a small network and prints the selection."""
    opened = mcscore.Pool.open(pool)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 10))
    model(torch.zeros(1, *opened.item_shape))  # gives the lazy layer its size
    run = mcscore.score_pool(opened, mcscore.Scorer(model, passes=50), out=out)
    chosen = run.select(k=5, by="bald", diversity="none")
    print(f"{run.scored:,} of {run.n:,} items scored; next to label: {list(map(int, chosen.ids))}")
    return run


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("pool")
    parser.add_argument("out")
    parser.add_argument("--endpoint", help="of an S3-compatible store")
    asked = parser.parse_args()
    if asked.endpoint:
        os.environ["AWS_ENDPOINT_URL"] = asked.endpoint
    main(asked.pool, asked.out)
