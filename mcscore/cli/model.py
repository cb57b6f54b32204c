"""The user's model, as the verbs that need it build it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..scorer import Scorer

DROPOUT = {"sites": "sites", "p": "p", "masks": "masks", "weight_dropout": "weights"}  # option: field
EXECUTION = ("memory", "dtype", "channels_last", "compile")


def build_scorer(spec: str, weights: Path | None, *, device: str | None, **settings: Any) -> Scorer:
    """The model built and given to a Scorer; on the GPU where there is one and nothing else is asked."""
    import torch

    from ..scorer import Dropout, Execution, Scorer
    from ..scorer.model_spec import load_model

    loaded = load_model(spec, weights)
    dropout = Dropout(**{DROPOUT[name]: settings.pop(name) for name in DROPOUT if name in settings})
    execution = Execution(**{name: settings.pop(name) for name in EXECUTION if name in settings})
    return Scorer(
        loaded.module,
        dropout=dropout,
        execution=execution,
        transform=loaded.transform,
        device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
        spec=loaded.spec,
        weights=loaded.weights,
        weights_part=loaded.part,
        **settings,
    )
