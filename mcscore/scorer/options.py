"""Options of a Scorer: ``Dropout`` selects what drops, ``Execution`` how steps run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MASKS = ("independent", "shared")
DTYPES = (None, "model", "bfloat16", "auto", "tf32")


@dataclass(frozen=True)
class Dropout:
    """Dropout sites to use, their probabilities, and whether items share masks.

    Attributes:
        sites: names (shell patterns) or indices of the dropout sites to use; default: all.
        p: drop probability of all sites, or by name or index; default: the model's own.
        masks: "independent" (each item has its own) or "shared" (pass t uses one mask for all items, a sample of the weights).
        weights: for a model without dropout: drop the weights of Linear and convolution layers with this probability
            (DropConnect, Wan et al. 2013), with one mask per pass for all items.

    Raises:
        ValueError: the kind of masks is unknown.

    >>> import torch, mcscore
    >>> model = torch.nn.Sequential(torch.nn.Dropout(0.1), torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 3))
    >>> scorer = mcscore.Scorer(model, dropout=Dropout(sites=["2"], p=0.25))
    >>> _ = scorer.prepare(torch.randn(3, 4))
    >>> [(site["name"], site["p"], site["active"]) for site in scorer.describe()["sites"]]
    [('0', 0.25, False), ('2', 0.25, True)]
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
    """Memory, precision and compilation of steps. All but ``dtype`` change no more than the last bits of scores.

    Attributes:
        memory: bytes of activations that a step may use; default: on a GPU a quarter of its free memory, at most 8 GiB, elsewhere
            256 MiB.
        dtype: "model" runs the model in its own dtype, float32 in full precision whatever torch.backends says. "bfloat16" computes
            products in bfloat16, as torch.autocast does. "auto" does so if the hardware is fast at it and the scores of the first
            batch keep their ranking (Spearman correlation with those of float32 of at least 0.99); a message says which it chose.
            "tf32" computes float32 products and convolutions in TF32, on GPUs that have it. Default: for a model in float32 on a
            GPU "auto", else "model".
        channels_last: pass images to the model in this memory format, which dropout keeps.
        compile: run the model under torch.compile, what is before the first site and what is after it, for batches as large as a
            step (see ``Scorer.plan``); smaller batches run without. A model that is under torch.compile already is run like that.
        graphs: on a GPU, replay full steps from a CUDA graph, which gives the same bits with less work for the host.
        deterministic: fill up every step to its full size with copies of its last item, so that all products have one shape and
            an item's scores do not depend on how many others there are, to the last bit. Where a library's product treats the last
            rows of a matrix otherwise, as on CPUs, its place in the batch may still change that bit. A batch smaller than a step
            costs as much as a full one.

    Raises:
        ValueError: the dtype is unknown, or memory is not positive.

    >>> Execution(memory=1 << 28, dtype="auto").memory
    268435456
    """

    memory: int | None = None
    dtype: str | None = None
    channels_last: bool = False
    compile: bool = False
    graphs: bool = True
    deterministic: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be 'model' (its own), 'bfloat16', 'auto' or 'tf32', got {self.dtype!r}")
        if self.memory is not None and self.memory <= 0:
            raise ValueError(f"memory must be a positive number of bytes, got {self.memory}")
