"""Builds the user's model for the verbs that need it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..scorer import Scorer

_DROPOUT = {"sites": "sites", "p": "p", "masks": "masks", "weight_dropout": "weights"}  # option: field
_EXECUTION = ("memory", "dtype", "channels_last", "compile")


def grouped(**options: Any) -> dict[str, Any]:
    """Return the keyword arguments of a Scorer: options of dropout and execution in their groups, the others as they are."""
    from ..scorer import Dropout, Execution

    dropout = {field: options.pop(name) for name, field in _DROPOUT.items() if name in options}
    execution = {name: options.pop(name) for name in _EXECUTION if name in options}
    return {**options, "dropout": Dropout(**dropout), "execution": Execution(**execution)}


def build_scorer(spec: str, weights: Path | None, *, device: str | None, **settings: Any) -> Scorer:
    """Build the model and give it to a Scorer; without ``device``, on the GPU if there is one."""
    import torch

    from ..scorer import Scorer
    from ..scorer.model_spec import load_model

    loaded = load_model(spec, weights)
    return Scorer(
        loaded.module,
        transform=loaded.transform,
        device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
        spec=loaded.spec,
        weights=loaded.weights,
        weights_part=loaded.part,
        **grouped(**settings),
    )
