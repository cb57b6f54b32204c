"""--help of every verb reads well by itself: each option has a text of its own, and shared options have one text."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from mcscore.cli import main

from .conftest import Command, answer


def verbs(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield words, command
    for name, verb in getattr(command, "commands", {}).items():
        yield from verbs(verb, (*words, name))


VERBS = dict(verbs(main))
EACH = pytest.mark.parametrize("words", VERBS, ids=" ".join)


def options(words: tuple[str, ...]) -> dict[str, click.Option]:
    return {param.opts[0]: param for param in VERBS[words].params if isinstance(param, click.Option)}


@EACH
def test_help_has_a_sentence_for_the_verb_and_for_every_option(words: tuple[str, ...]) -> None:
    assert (VERBS[words].help or "").strip()
    for name, option in options(words).items():
        assert (option.help or "").endswith("."), name
        assert "as for" not in (option.help or "").lower(), name
    for line in CliRunner().invoke(main, [*words, "--help"], terminal_width=110).output.splitlines():
        assert not (line.startswith("  ") and line.endswith("...")), "the list of verbs cuts a sentence"


@EACH
def test_help_lists_every_option_once(words: tuple[str, ...]) -> None:
    lines = CliRunner().invoke(main, [*words, "--help"], terminal_width=110).output.splitlines()
    for name in options(words):
        assert sum(line.startswith((f"  {name} ", f"  {name},")) for line in lines) == 1, name


def test_an_option_that_verbs_share_is_declared_once() -> None:
    score, plan, bench = options(("score",)), options(("plan",)), options(("bench", "model"))
    assert set(score) - set(plan) == {
        "--out", "--span", "--workers", "--shard", "--ray", "--max-workers", "--labeled", "--on-bad-chunk", "--mixed-hardware",
        "--accept-edited-code", "--seed", "--quiet", "--progress", "--log-json",
        "--metrics", "--take-over", "--top", "--screen", "--by", "--recall", "--audit", "--new-cut",
    }  # fmt: skip
    for other in (plan, bench):
        for name in set(score) & set(other) - {"--scores", "--config"}:
            assert (score[name].help, score[name].default) == (other[name].help, other[name].default), name
            assert score[name].type.to_info_dict() == other[name].type.to_info_dict(), name
    places = [options(words)["--pool"] for words in (("select",), ("report",), ("export",))]
    assert len({(option.help, id(option.type)) for option in places}) == 1  # each takes a URL, too


def test_options_come_in_sections() -> None:
    text = CliRunner().invoke(main, ["score", "--help"]).output
    sections = ["Model:", "Run:", "Scores:", "Screening:", "Dropout:", "Execution:", "Options:"]
    assert [line for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")] == sections
    assert text.index("Dropout:") < text.index("--sites") < text.index("--seed") < text.index("Execution:")


def test_plan_takes_what_changes_the_plan_of_score(mcscore: Command, pool: object) -> None:
    words = ("--model", "net.py:build", "--weights", "net.safetensors", "--device", "cpu", "--json")
    told = answer(mcscore("plan", pool, *words, "--sites", "5", "--reduction", "max", "--passes", 7))
    assert [site["active"] for site in told["sites"]] == [False, True]


def test_a_range_that_runs_backwards_is_a_failure(mcscore: Command, pool: object) -> None:
    result = mcscore("pool", "exclude", pool, "3-1")
    assert result.exit_code == 1
    assert "the range 3-1 runs backwards and names no item: write 1-3" in result.stderr
    huge = mcscore("pool", "exclude", pool, "0-99999999999")
    assert huge.exit_code == 1
    assert "which has 500 items: ids 0..499" in huge.stderr
