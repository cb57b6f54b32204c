"""Locks raise the error of their caller, or wait."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from mcscore.errors import Error, PoolError, RunError
from mcscore.store.lock import locked, locked_in_turn


@pytest.mark.parametrize("error", [PoolError, RunError])
def test_a_second_writer_is_refused_with_the_error_of_the_caller(tmp_path: Path, error: type[Error]) -> None:
    with locked(tmp_path, RunError), pytest.raises(error, match="is being written by process"), locked(tmp_path, error):
        pass


def test_in_turn_a_second_writer_waits(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with locked_in_turn(tmp_path):
            order.append("second")

    with locked_in_turn(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        order.append("first")
    thread.join(30)
    assert order == ["first", "second"]
