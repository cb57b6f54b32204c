"""Pieces of work are done several at a time, in bounded memory, and come in order; so do their errors."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from mcscore.store.parallel import in_order

THREADS = 3


def ended() -> bool:
    """Whether all threads of this module end soon."""
    until = time.monotonic() + 5
    while any(thread.name == "mcscore-in-order" for thread in threading.enumerate()):
        if time.monotonic() > until:
            return False
        time.sleep(0.001)
    return True


@pytest.mark.parametrize("threads", [1, 2, THREADS, 50])
def test_results_come_in_order_whichever_is_ready_first(threads: int) -> None:
    def late(i: int) -> int:
        time.sleep(0.002 * (i % 4 == 0))
        return i * i

    assert list(in_order(late, range(101), threads)) == [i * i for i in range(101)]
    assert list(in_order(late, [], threads)) == []
    assert ended()


def test_as_many_are_in_work_as_asked_for_and_no_more() -> None:
    now, most, lock, together = 0, 0, threading.Lock(), threading.Barrier(THREADS, timeout=5)

    def count(_: int) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        together.wait()  # breaks if fewer are in work at a time
        with lock:
            now -= 1

    assert list(in_order(count, range(10 * THREADS), THREADS)) == [None] * 10 * THREADS
    assert most == THREADS


def test_pieces_are_taken_from_their_source_as_they_are_needed() -> None:
    taken = 0

    def source() -> Iterator[int]:
        nonlocal taken
        for i in range(10**6):
            taken += 1
            yield i

    results = in_order(lambda i: i, source(), THREADS)
    for i in range(1000):
        assert next(results) == i
        assert taken <= i + 4 * THREADS
    results.close()
    assert all(thread.name != "mcscore-in-order" for thread in threading.enumerate())


@pytest.mark.parametrize("threads", [1, THREADS])
def test_an_error_is_raised_at_its_place_and_what_is_not_begun_is_left(threads: int) -> None:
    done: list[int] = []

    def fail(i: int) -> int:
        done.append(i)
        if i in (20, 22):
            raise ValueError(f"piece {i}")
        return i

    got = []
    with pytest.raises(ValueError, match="piece 20"):
        got.extend(in_order(fail, range(10**6), threads))
    # list.extend keeps what came before the error
    assert got == list(range(20))
    assert all(thread.name != "mcscore-in-order" for thread in threading.enumerate())
    assert max(done) < 20 + 5 * THREADS


def test_after_ctrl_c_nobody_waits_for_a_server_that_does_not_answer() -> None:
    answer = threading.Event()

    def ask(i: int) -> int:
        if i:
            answer.wait(30)
        return i

    results = in_order(ask, range(100), THREADS)
    assert next(results) == 0
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        results.throw(KeyboardInterrupt())
    assert time.monotonic() - begin < 5
    answer.set()
    assert ended()
