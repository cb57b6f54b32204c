"""mcscore simulate: a line for each way and span, a recommendation, and the same as one object."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .conftest import Command, answer

BIG = ("--items", "1e9", "--workers", 1000, "--slow", 0.01, "--commit", 0.036)


def test_a_long_run_is_for_a_driver_and_a_short_one_for_shards(mcscore: Command) -> None:
    long = answer(mcscore("simulate", *BIG, "--rate", 50, "--json"))
    assert [each["way"] for each in long["outcomes"]] == ["driver", "shards"]
    assert long["recommended"] == {"way": "driver", "span": 16_384}
    assert long["shortest_seconds"] == 20_000
    short = answer(mcscore("simulate", *BIG, "--rate", 5000, "--json"))
    assert short["recommended"] == {"way": "shards", "span": 16_384}


def test_every_span_that_is_given_has_a_line(mcscore: Command) -> None:
    words = ("simulate", "--items", 1_000_000, "--workers", 4, "--rate", 100)
    given = ("--way", "shards", "--span", 1000, "--span", "1e4", "--deaths", 600, "--alone")
    lines = mcscore(*words, *given).output.splitlines()
    assert lines[0] == "1,000,000 items, 4 workers of 100 items/s: 42 min at best"
    assert [line.split()[:3] for line in lines[3:5]] == [["shards", "1,000", "1,000"], ["shards", "10,000", "100"]]
    assert lines[-1] == "recommended: shards, --span 1000; a driver commits 73 spans/s at most"
    assert max(map(len, lines)) <= 100
    told = answer(mcscore(*words, *given, "--json"))["outcomes"]
    assert [(each["span"], each["repeated"]) for each in told] == [(1000, 0), (10_000, 0)]
    assert all(each["lost"] > 0 for each in told)


@pytest.mark.parametrize("wrong", ["1.5", "0", "many", "nan", "inf"])
def test_a_number_of_items_that_is_none_is_wrong_usage(mcscore: Command, wrong: str) -> None:
    result = mcscore("simulate", "--items", wrong, "--workers", 2, "--rate", 1)
    assert result.exit_code == 2
    assert f"'{wrong}' is not a" in result.stderr


def test_too_many_spans_are_refused(mcscore: Command) -> None:
    result = mcscore("simulate", "--items", "1e12", "--workers", 2, "--rate", 1, "--span", 100)
    assert result.exit_code == 1
    assert "10,000,000,000 spans are too many" in result.stderr


def test_the_page_shows_what_is_printed(mcscore: Command) -> None:
    page = (Path(__file__).parents[2] / "docs" / "scale.md").read_text()
    shown = re.findall(r"^```text\n\$ mcscore (simulate .*)\n((?:.*\n)*?)```$", page, re.M)
    assert len(shown) == 5
    for words, printed in shown:
        assert mcscore(*words.split()).stdout == printed
