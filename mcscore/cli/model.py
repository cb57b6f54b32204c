"""The user's model, as the verbs that need it build it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..scorer.scorer import Scorer


def build_scorer(spec: str, weights: Path | None, *, device: str | None, **settings: Any) -> Scorer:
    """The model built and given to a Scorer; on the GPU where there is one and nothing else is asked."""
    import torch

    from ..scorer.model_spec import load_model
    from ..scorer.scorer import Scorer

    loaded = load_model(spec, weights)
    return Scorer(
        loaded.module,
        transform=loaded.transform,
        device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
        spec=loaded.spec,
        weights=loaded.weights,
        weights_part=loaded.part,
        **settings,
    )
