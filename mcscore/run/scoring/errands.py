"""Orders that any worker may carry out, each once: those of a worker that died are carried out by another."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from ...errors import RunError
from .crew import AHEAD, DEATHS, Crew
from .orders import Embed, Embedded, Ended, Failed


def embedded(crew: Crew, orders: Iterable[Embed]) -> Iterator[Embedded]:
    """Yield the answer to each order, as workers give them.

    Raises:
        RunError: an order ended three workers.
        Exception: what a worker raised.
    """
    left, again = iter(orders), deque[Embed]()
    flights: dict[int, dict[int, Embed]] = {}
    deaths: dict[int, int] = {}
    drained = False
    while True:
        crew.fill()
        for hand in [hand for hand in crew.hands.values() if hand.place]:
            flight = flights.setdefault(hand.number, {})
            while len(flight) < AHEAD:
                order = again.popleft() if again else next(left, None)
                if order is None:
                    drained = True
                    break
                flight[order.part] = order
                crew.team.send(hand.number, order)
        if drained and not again and not any(flights.values()):
            return
        for hand, reply in crew.next():
            flight = flights.setdefault(hand.number, {})
            if isinstance(reply, Failed):
                raise reply.error()
            if isinstance(reply, Ended):
                for number, order in enumerate(flight.values()):
                    deaths[order.part] = deaths.get(order.part, 0) + (number == 0)
                    if deaths[order.part] >= DEATHS:
                        raise RunError(
                            f"{DEATHS} workers ended when they were to embed the items {order.ids[0]}..{order.ids[-1]} ({reply.why})"
                        )
                again.extend(flights.pop(hand.number).values())
            if isinstance(reply, Embedded) and flight.pop(reply.part, None) is not None:
                yield reply
