"""Builds the user's model for the verbs that need it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ModelError, first_line
from ..recipe import FromSpec
from .output import diverted

if TYPE_CHECKING:
    from ..scorer import Scorer

_DROPOUT = {"sites": "sites", "p": "p", "masks": "masks", "weight_dropout": "weights"}  # option: field
_EXECUTION = ("memory", "dtype", "channels_last", "compile", "deterministic")


def grouped(**options: Any) -> dict[str, Any]:
    """Return the keyword arguments of a Scorer: options of dropout and execution in their groups, the others as they are."""
    from ..scorer import Dropout, Execution

    dropout = {field: options.pop(name) for name, field in _DROPOUT.items() if name in options}
    execution = {name: options.pop(name) for name in _EXECUTION if name in options}
    return {**options, "dropout": Dropout(**dropout), "execution": Execution(**execution)}


@contextlib.contextmanager
def users_code() -> Iterator[None]:
    """For what runs the user's code: what that prints stays off stdout, and it cannot end the verb by click's exceptions."""
    ctx = click.get_current_context(silent=True)
    with diverted(into_log=ctx is not None and ctx.meta.get("log_json", False)):
        try:
            yield
        except (
            click.exceptions.Exit,
            click.Abort,
            click.ClickException,
        ) as error:  # of a model file with a command of its own
            raise ModelError(
                f"the model's code ended a command of its own ({first_line(error)}): nothing is scored by it"
            ) from error


def recipe_of(spec: str, weights: str | Path | None, **settings: Any) -> FromSpec:
    """How the scorer is made, here or by a worker; in whatever directory that runs."""
    where, _, name = spec.rpartition(":")
    if where.endswith(".py"):
        spec = f"{Path(where).absolute()}:{name}"
    return FromSpec(spec, Path(weights).absolute() if weights else None, grouped(**settings))


def import_spec(spec: str) -> None:
    """Import the file or module of a model. ModelError if it cannot be imported, or lacks what the spec names."""
    from ..scorer.model_spec import find_builder

    find_builder(spec)


def build_scorer(spec: str, weights: str | Path | None, *, device: str | None, **settings: Any) -> Scorer:
    """Build the model and give it to a Scorer; without ``device``, on the GPU if there is one."""
    import torch

    return recipe_of(spec, weights, **settings).build(device or ("cuda" if torch.cuda.is_available() else "cpu"))
