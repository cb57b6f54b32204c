"""The zoo: real architectures, each driven or refused for a reason its error names."""

from __future__ import annotations

from .adapters import ADAPTERS
from .entry import Entry
from .huggingface import HUGGING_FACE
from .vision import IMAGES

MODELS: dict[str, Entry] = {entry.name: entry for entry in (*HUGGING_FACE, *IMAGES, *ADAPTERS)}
