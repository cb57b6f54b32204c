"""torchvision must be importable before any package that imports it."""

from .torchvision_operators import declare_missing

declare_missing()
