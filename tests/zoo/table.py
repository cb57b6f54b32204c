"""Write docs/models.md: what becomes of each model of the zoo, as measured on this machine.

python -m tests.zoo.table
"""

from __future__ import annotations

import importlib.metadata
import sys
import warnings
from pathlib import Path

from mcscore.errors import SiteError

from .entry import Entry
from .models import MODELS
from .torchvision_operators import declare_missing

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"
HEADER = "| model | package | sites | path | driven or refused |\n| --- | --- | --- | --- | --- |\n"
KINDS_SHOWN = 4


def version(entry: Entry) -> str:
    distribution = entry.package.replace("_", "-")
    return f"{distribution} {importlib.metadata.version(distribution)}"


def row(entry: Entry) -> str:
    """Find the sites and a path, as the first batch of a Scorer does; a model that is refused shows the error."""
    note = f"; {entry.note}" if entry.note else ""
    model, x = entry.build(3)
    try:
        passes, strategy = entry.prepare(model, x)
        path = strategy.path
    except SiteError as error:
        said = str(error).replace("|", "\\|").replace("\n", " ")
        sites, path, fate = "", "", f"refused{note}. The error: {said}"
    else:
        kinds = sorted({site.kind for site in passes.found.sites if site.active})
        named = ", ".join(kinds[:KINDS_SHOWN]) + (", …" if len(kinds) > KINDS_SHOWN else "")
        sites = f"{sum(site.active for site in passes.found.sites)}: {named}"
        fate = f"driven{note}"
    return f"| {entry.name} | {version(entry)} | {sites} | {path} | {fate} |\n"


def names(page: str) -> list[str]:
    """The models a page's table has."""
    _, _, table = page.partition(HEADER)
    return [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")]


def main() -> None:
    declare_missing()
    missing = sorted({entry.package for entry in MODELS.values() if entry.missing()})
    if missing:
        sys.exit(f"these packages of the extra zoo are not installed: {', '.join(missing)}; pip install -e '.[zoo]'")
    warnings.simplefilter("ignore")
    text, found, _ = PAGE.read_text().partition(HEADER)
    if not found:
        sys.exit(f"{PAGE} has lost the head of its table:\n{HEADER}")
    rows = []
    for entry in MODELS.values():
        rows.append(row(entry))
        print(rows[-1], end="", flush=True)
    PAGE.write_text(text + HEADER + "".join(rows))


if __name__ == "__main__":
    main()
