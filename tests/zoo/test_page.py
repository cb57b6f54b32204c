"""The page of models lists the zoo."""

from __future__ import annotations

from .models import MODELS
from .table import PAGE, names


def test_the_page_lists_every_model_of_the_zoo() -> None:
    assert names(PAGE.read_text()) == list(MODELS), "write it anew: python -m tests.zoo.table"


def test_the_page_says_driven_where_the_zoo_does() -> None:
    fates = {
        line.split("|")[1].strip(): line.split("|")[5].split()[0].strip(";.")
        for line in PAGE.read_text().splitlines()
        if line.count("|") >= 6
    }
    assert {name: fates[name] for name in MODELS} == {
        name: "driven" if entry.refused is None else "refused" for name, entry in MODELS.items()
    }, "write it anew: python -m tests.zoo.table"
