"""How another process makes the scorer that this one has, or never makes: by the model's spec, or from a copy of the model."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from .acquisition import SCORES
from .errors import ModelError, first_line
from .own_scores import registered

if TYPE_CHECKING:
    from .scorer.scorer import Scorer


@runtime_checkable
class Recipe(Protocol):
    """Makes a scorer, in any process."""

    def build(self, device: str) -> Scorer:
        """Make the scorer on a device. Raises what loading the model raises."""


@dataclass(frozen=True)
class FromSpec:
    """A scorer whose model is built by ``load_model``.

    Attributes:
        spec: "FILE.py:NAME" or "package.module:NAME"; found on the machine that builds.
        weights: the file of the weights, on that machine; None: as the model is built.
        options: keyword arguments of ``Scorer``.
    """

    spec: str
    weights: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def build(self, device: str) -> Scorer:
        """Build the model, load its weights, and make the scorer."""
        from .scorer.model_spec import load_model
        from .scorer.scorer import Scorer

        loaded = load_model(self.spec, self.weights)
        return Scorer(
            loaded.module,
            transform=loaded.transform,
            device=device,
            spec=loaded.spec,
            weights=loaded.weights,
            weights_part=loaded.part,
            spec_sha256=loaded.spec_sha256,
            **self.options,
        )


@dataclass(frozen=True)
class Pickled:
    """A copy of a scorer: model, transform, registered scores and options in bytes. Code of a script or a notebook is in them, too.

    files: model files that the copy refers to by a name of ours, as their own was taken.
    """

    data: bytes
    files: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def of(scorer: Scorer) -> Pickled:
        """Copy a scorer, without its plan.

        Raises:
            ModelError: the model, its transform or an option cannot be pickled.
        """
        import cloudpickle

        from .scorer.model_spec import imported_files

        options: dict[str, Any] = {name: getattr(scorer, name) for name in _OPTIONS}
        options["embedding"] = scorer._embedding
        kept = (scorer.model, options, scorer.normalization, registered(scorer.scores))
        try:
            data = cloudpickle.dumps(kept)
        except Exception as error:  # of any __reduce__
            raise ModelError(
                f"{type(scorer.model).__name__}, its transform or a registered score cannot be copied to another process: "
                f"{first_line(error)}. Name the model by a spec instead, as `mcscore score --model FILE.py:NAME` does"
            ) from error
        # Those of other models that this process has loaded stay here: they may not be importable any more.
        return Pickled(data, {name: file for name, file in imported_files().items() if name.encode() in data})

    def build(self, device: str) -> Scorer:
        """Make the scorer on a device."""
        from .scorer.model_spec import import_files
        from .scorer.scorer import Scorer

        try:
            import_files(self.files)
            model, options, normalization, own = pickle.loads(self.data)
        except Exception as error:
            raise ModelError(f"the copy of the model cannot be read in another process: {first_line(error)}") from error
        SCORES.update((score.name, score) for score in own)
        scorer = Scorer(model, device=device, **options)
        scorer.normalize(*(normalization or (None, None)))
        return scorer


_OPTIONS = (
    *("passes", "scores", "likelihood", "input", "seed", "transform", "dropout", "execution", "noise_variance"),
    *("reduction", "errors", "spec", "weights", "weights_part", "spec_sha256"),
)
