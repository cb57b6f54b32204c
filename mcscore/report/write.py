"""A page of this room: made of its template, and written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, BinaryIO

from ..errors import RunError
from ..outputs import named_output, refuse_foreign
from ..paths import local_path
from ..store.files import AnyPath
from ..text import visible


def place_of(out: str | os.PathLike[str] | None, default: AnyPath) -> AnyPath:
    """Where a page is written: ``out``, else ``default``. RunError if something else is there."""
    path = default if out is None else local_path(out, "a report", RunError)
    refuse_foreign(path, "a report", _is_report, RunError)  # before the minutes that the plots of a large run take
    return path


def write_page(path: AnyPath, template: str, variables: Mapping[str, Any]) -> None:
    """Write the page of a template of this folder; an older one is replaced as the last step."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def shown(value: object) -> object:
        return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    # Keys, class names and paths come from outside: HTML in them is escaped, and what cannot be seen is spelled out.
    pages = Environment(
        loader=PackageLoader("mcscore", "report"),
        autoescape=True,
        finalize=shown,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    page = pages.get_template(template).render(variables).encode("utf-8")
    with named_output(path, "a report", _is_report, RunError) as file:
        file.write(page)


def _is_report(file: BinaryIO) -> bool:
    return b'<meta name="generator" content="mcscore ' in file.read(4096)
