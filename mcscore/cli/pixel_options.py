"""Options that say what an import makes of the pixels of images."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from .options import height_and_width
from .shared import Option, together

FITS = ("crop", "pad", "squash")
DEPTHS = ("8", "16")

image_option = functools.partial(click.option, cls=Option, section="Images")


def _value_range(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | tuple[float, float] | None:
    """Parse type, image, or the values of black and white as 0,4095."""
    if value is None or value in ("type", "image"):
        return value
    try:
        low, high = (float(part) for part in value.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is neither type nor image nor two numbers such as 0,4095") from error
    return low, high


def pixel_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``size``, and the other options as ``pixels``: arguments of import_images, without those not given."""

    @functools.wraps(command)
    def with_options(
        *args: Any,
        fit: str | None,
        gray: bool,
        background: str | None,
        value_range: str | tuple[float, float] | None,
        depth: str | None,
        keep_encoded: bool,
        **more: Any,
    ) -> Any:
        given = {
            "fit": fit,
            "channels": 1 if gray else None,
            "background": background,
            "value_range": value_range,
            "depth": None if depth is None else int(depth),
            "keep_encoded": keep_encoded or None,
        }
        return command(*args, pixels={name: value for name, value in given.items() if value is not None}, **more)

    return together(
        image_option(
            "--size",
            callback=height_and_width,
            metavar="PIXELS",
            help="Pixels per side that images are resized to, or height x width as 24x96; required for images.",
        ),
        image_option(
            "--fit",
            type=click.Choice(FITS),
            help="Images of another shape: crop (default; keep the middle), pad (with black), or squash.",
        ),
        image_option("--gray", is_flag=True, help="Store one channel instead of three."),
        image_option(
            "--background",
            metavar="COLOR",
            help="Color that transparent pixels are laid on: a name or #rrggbb; default: white. none drops transparency.",
        ),
        image_option(
            "--range",
            "value_range",
            callback=_value_range,
            metavar="RANGE",
            help="Values of black and white in gray images of more than 8 bits: type (default; 0,65535), image (its own least and "
            "greatest), or two numbers, as 0,4095 for 12 bits.",
        ),
        image_option(
            "--depth",
            type=click.Choice(DEPTHS),
            help="Bits of a stored value: 8 (default), or 16, which keeps gray images of 16 bits whole.",
        ),
        image_option(
            "--keep-encoded", is_flag=True, help="Store the encoded files; decode and resize them while scoring."
        ),
    )(with_options)
