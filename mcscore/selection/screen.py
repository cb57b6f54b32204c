from __future__ import annotations
from dataclasses import dataclass, asdict
import numpy as np

@dataclass(frozen=True, kw_only=True)
class Cut:
    threshold: float
    def survives(self, s, se, b):
        with np.errstate(invalid="ignore"):
            return s - b + 2 * se >= self.threshold
    def to_json(self):
        return asdict(self)

@dataclass(frozen=True)
class Chosen:
    passes: int

def fix_cut(stream, top, recall):
    x = np.concatenate([s - b for s, se, b in stream()])
    x = np.sort(x[np.isfinite(x)])[::-1]
    return Cut(threshold=float(x[min(top, len(x)) - 1]))

def choose_passes(stream, top, screen, recall, budget):
    return Chosen(200)

def audited(cut, ids, s, se, b, seed):
    return np.isfinite(s) & (ids % 97 == 0)
