"""What drops out, and how steps are executed: the two groups of a Scorer's options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..montecarlo.plan import MEMORY

MASKS = ("independent", "shared")
DTYPES = (None, "bfloat16", "auto")


@dataclass(frozen=True)
class Dropout:
    """Which dropout sites act, how strongly, and what the masks share.

    sites: names (shell patterns) or indices of the dropout sites to use; default all. p: a drop probability for all of them, or by
    name or index, instead of the model's own. masks: "independent" (each item has its own) or "shared" (pass t uses one mask for all
    items, a true sample of weights). weights: for a model without dropout, drop the weights of Linear and convolution layers with
    this probability (DropConnect, Wan et al. 2013), one mask per pass for all items.

    Raises ValueError for an unknown kind of masks.
    """

    sites: Sequence[str | int] | None = None
    p: float | Mapping[str | int, float] | None = None
    masks: str = "independent"
    weights: float | None = None

    def __post_init__(self) -> None:
        if self.masks not in MASKS:
            raise ValueError(f"masks must be 'independent' or 'shared', got {self.masks!r}")


@dataclass(frozen=True)
class Execution:
    """How steps run; scores are the same up to the last bits, but for dtype.

    memory: bytes of activations that a step may use. dtype: None runs the model as it is, "bfloat16" computes products in it, as
    torch.autocast would; "auto" takes bfloat16 where the hardware is fast at it and the first batch keeps its ranking (Spearman of
    its scores against float32 at least 0.99), and says what it did. channels_last: images go into the model in this memory format,
    which lasts until the first site. compile: what comes after the first site runs under torch.compile, for batches as large as a
    step (see ``Scorer.plan``); smaller ones run without.

    Raises ValueError for an unknown dtype.
    """

    memory: int = MEMORY
    dtype: str | None = None
    channels_last: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be None (the model's own), 'bfloat16' or 'auto', got {self.dtype!r}")
