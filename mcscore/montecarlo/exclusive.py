"""One thread at a time for a model: its flags are changed for the length of a forward pass, which another thread would run with.

Models that share a module (a backbone under two heads) wait for each other; others run side by side.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

from torch import nn

PREPARING = object()
"""For what moves the random generators of the process and puts them back: discovery, one at a time, of whatever model."""

_changed = threading.Condition()
_holders: dict[int, tuple[int, int]] = {}  # id of what is held: (thread, how many times)
_waiting: list[tuple[int, frozenset[int]]] = []  # (thread, ids) in the order in which they came


def _forget_others() -> None:
    """A forked child has none of the other threads, so nobody would let go of what they hold."""
    global _changed
    me = threading.get_ident()
    _changed = threading.Condition()
    _waiting.clear()
    for each in [each for each, (thread, _) in _holders.items() if thread != me]:
        del _holders[each]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_others)


@contextlib.contextmanager
def exclusive(*things: object) -> Iterator[None]:
    """Block while another thread holds one of ``things``, of a model any of its modules; then hold all until the block ends.

    A thread may take again what it holds. Whoever waits is served in turn, or a thread that only lets go to take again at once
    would keep the others out.
    """
    ids = frozenset(
        id(part) for thing in things for part in (thing.modules() if isinstance(thing, nn.Module) else (thing,))
    )
    me = threading.get_ident()
    with _changed:
        if not _free(ids, me, len(_waiting)):
            ticket = (me, ids)
            _waiting.append(ticket)
            try:
                _changed.wait_for(lambda: _free(ids, me, _place(ticket)))
            finally:
                del _waiting[_place(ticket)]
                _changed.notify_all()
        for each in ids:
            _holders[each] = me, _holders.get(each, (me, 0))[1] + 1
    try:
        yield
    finally:
        with _changed:
            for each in ids:
                held = _holders[each][1] - 1
                if held:
                    _holders[each] = me, held
                else:
                    del _holders[each]
            if _waiting:
                _changed.notify_all()


def _free(ids: frozenset[int], me: int, before: int) -> bool:
    """Whether ``me`` can go on: nobody else holds these, and none of the first ``before`` who wait is to have them first.

    One who waits for something that ``me`` holds comes later in any case: each would wait for the other.
    """
    wanted = {each for each in ids if _holders.get(each, (0, 0))[0] != me}
    if not wanted.isdisjoint(_holders):
        return False
    rivals = [other for _, other in _waiting[:before] if not other.isdisjoint(wanted)]
    return not rivals or all(any(_holders.get(each, (0, 0))[0] == me for each in other) for other in rivals)


def _place(ticket: tuple[int, frozenset[int]]) -> int:
    return next(i for i, each in enumerate(_waiting) if each is ticket)
