"""Types of the values that options take."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from ..paths import is_url


def numbers(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    """Parse a comma-separated list of numbers."""
    try:
        return None if value is None else tuple(float(part) for part in value.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not a list of numbers such as 0.49,0.48,0.45") from error


def height_and_width(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | tuple[int, int] | None:
    """Parse a number of pixels, or height and width as 24x96 or 24,96."""
    if value is None:
        return None
    found = re.fullmatch(r"([1-9][0-9]{0,5})(?:\s*[x,]\s*([1-9][0-9]{0,5}))?", value.strip())
    if not found:
        raise click.BadParameter(
            f"{value!r} is neither a number of pixels such as 224 nor height x width such as 24x96"
        )
    return int(found[1]) if found[2] is None else (int(found[1]), int(found[2]))


def byte_size(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    """Parse a number of bytes such as 512MiB."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(K|M|G|T)(?:i?B)?", value.strip(), re.IGNORECASE)
    size = int(float(found[1]) * 1024 ** ("KMGT".index(found[2].upper()) + 1)) if found else 0
    if size <= 0:
        raise click.BadParameter(f"{value!r} is not a size such as 512MiB or 8GiB")
    return size


def whole(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    """Parse a whole number, such as 1000000, 1_000_000 or 1e6."""
    try:
        number = None if value is None else float(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not a number such as 1e9") from error
    if number is None:
        return None
    if not number.is_integer() or number < 1:
        raise click.BadParameter(f"{value!r} is not a whole number >= 1")
    return int(number)


def names(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Parse a comma-separated list of names."""
    return None if value is None else tuple(part.strip() for part in value.split(",") if part.strip())


def either(_ctx: click.Context, _param: click.Parameter, value: str) -> str | float:
    """Parse mean, max, or a share of the pixels."""
    if value in ("mean", "max"):
        return value
    try:
        return float(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is neither mean nor max nor a share of the pixels such as 0.1") from error


class _Local(click.Path):
    """A path on this machine: a URL would become a folder of that name."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and is_url(value):
            self.fail(f"{value} is a URL; a path on this machine is needed here", param, ctx)
        return super().convert(value, param, ctx)


class _Place(click.Path):
    """A path, or a URL, which stays text: a path would lose one of its slashes."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if isinstance(value, str) and is_url(value) else super().convert(value, param, ctx)


class _Selection(_Place):
    """A selection of a run: its number, "latest", or a file, which may be at a URL."""

    name = "selection"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and (value.isdecimal() or value == "latest"):
            return value
        return super().convert(value, param, ctx)


PATH = _Local(path_type=Path)
POOL = RUN = _Place(path_type=Path)
SELECTION = _Selection(path_type=Path)
PROBABILITY = click.FloatRange(0, 1, min_open=True, max_open=True)
COMMA = "COMMA,SEPARATED"
