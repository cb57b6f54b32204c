"""Let one thread at a time use a model: a forward pass changes its flags, with which another thread would run.

Models that share a module (a backbone under two heads) wait for each other; others run side by side.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

from torch import nn

PREPARING = object()
"""Held while code moves the random generators of the process and restores them: one discovery at a time, for all models."""

_Ticket = tuple[int, frozenset[int]]  # a thread, and the ids of what it holds or waits for

_changed = threading.Condition()
_holding: list[_Ticket] = []  # a thread that takes what it holds already has two tickets
_waiting: list[_Ticket] = []  # in the order in which they came


def _forget_others() -> None:
    """Forget other threads in a forked child, which does not have them: nobody would release what they hold."""
    global _changed
    _changed = threading.Condition()
    _waiting.clear()
    _holding[:] = [ticket for ticket in _holding if ticket[0] == threading.get_ident()]


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
    ticket = (threading.get_ident(), ids)
    with _changed:
        if not _free(ticket, _waiting):
            _waiting.append(ticket)
            try:
                _changed.wait_for(lambda: _free(ticket, _waiting[: _place(ticket, _waiting)]))
            finally:
                del _waiting[_place(ticket, _waiting)]
                _changed.notify_all()
        _holding.append(ticket)
    try:
        yield
    finally:
        with _changed:
            del _holding[_place(ticket, _holding)]
            if _waiting:
                _changed.notify_all()


def _free(ticket: _Ticket, before: list[_Ticket]) -> bool:
    """Whether its thread can go on: nobody else holds any of it, and none of those ``before`` it is to have it first.

    One who waits for something that the thread holds comes later in any case: each would wait for the other.
    """
    me, ids = ticket
    if any(thread != me and not held.isdisjoint(ids) for thread, held in _holding):
        return False
    if not before:
        return True
    mine = frozenset[int]().union(*(held for thread, held in _holding if thread == me))
    wanted = ids - mine
    return all(other.isdisjoint(wanted) or not other.isdisjoint(mine) for _, other in before)


def _place(ticket: _Ticket, among: list[_Ticket]) -> int:
    return next(i for i, each in enumerate(among) if each is ticket)
