"""How far a call is: shown where somebody looks on, told to a callable, and else not at all."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import pytest

from mcscore.progress import Bar, looked_on, shown, stage_of


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_is_shown_on_a_terminal_and_told_of_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with shown(None) as tell:
        assert isinstance(tell, Bar)
        stage_of(tell)("stage 2 of 2", 100)
        tell(3, 12)
        tell(12, 12)
    assert "stage 2 of 2" in terminal.getvalue()
    assert "12.0/12.0" in terminal.getvalue()


def test_nothing_is_shown_elsewhere_or_if_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", plain := io.StringIO())
    assert not looked_on()
    with shown(None) as tell:
        tell(1, 2)
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with shown(False) as tell:
        stage_of(tell)("stage", 1)
        tell(1, 2)
    assert plain.getvalue() == terminal.getvalue() == ""


def test_a_callable_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    told: list[tuple[int, int]] = []
    with shown(lambda done, total: told.append((done, total))) as tell:
        tell(1, 2)
    assert told == [(1, 2)]
    with pytest.raises(TypeError, match="progress=True: give a function"), shown(True):  # type: ignore[arg-type]
        pass
    assert sys.stderr.getvalue() == ""


def test_a_notebook_is_looked_on_though_its_stderr_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    shell = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setitem(sys.modules, "IPython", shell)
    assert looked_on()
    monkeypatch.setattr(shell, "get_ipython", lambda: None)
    assert not looked_on()


def test_a_total_that_is_not_known_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with shown(None, "images") as tell:
        for done in (64, 128):
            tell(done, done)
    assert "128images" in terminal.getvalue().replace(" ", "")
    assert "%" not in terminal.getvalue()
