"""Options of a Scorer as flat keywords, for tests that vary them one at a time."""

from __future__ import annotations

from typing import Any

from mcscore import Dropout, Execution

_DROPOUT = {"sites": "sites", "p": "p", "masks": "masks", "weight_dropout": "weights"}
_EXECUTION = ("memory", "dtype", "channels_last", "compile")


def grouped(**options: Any) -> dict[str, Any]:
    """The keyword arguments of a Scorer: options of dropout and execution in their groups, the others as they are."""
    dropout = {field: options.pop(name) for name, field in _DROPOUT.items() if name in options}
    execution = {name: options.pop(name) for name in _EXECUTION if name in options}
    return {**options, "dropout": Dropout(**dropout), "execution": Execution(**execution)}
