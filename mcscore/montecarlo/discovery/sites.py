"""Sites, the places in a model where randomness acts, and the result of discovery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from ...errors import SiteError
from ...masks import rate
from ..ops.dropout import ConstantSource


@dataclass(frozen=True)
class Site:
    """One place in the model where dropout acts."""

    index: int  # order of first execution; part of the mask's definition
    name: str
    kind: str
    p: float | None  # of dropping, in scoring (masks realize it to within 2^-17); None: a draw that has no such number
    model_p: float | None  # as the call has it: of dropping, or with which a Bernoulli draw is 1
    shape: tuple[int, ...]  # of the masked tensor for one item, the item's own axis left out
    # The dimension of the masked tensor that runs over items; None: no item axis, one mask per pass for all items.
    axis: int | None
    rows: int  # rows of that axis that belong to one item (heads, patches), item after item
    mask_rank: int  # leading dimensions of the tensor with mask elements of their own
    active: bool = True
    draws: bool = False  # random numbers that the model draws itself, not a mask

    def __str__(self) -> str:
        return f"site {self.index} ({self.name}: {self.kind}{'' if self.p is None else f', p={self.p:g}'})"

    @property
    def drop_p(self) -> float:
        """The drop probability of a site that masks."""
        assert self.p is not None
        return self.p

    @property
    def item_shape(self) -> tuple[int, ...]:
        """Of the tensor at this site, without the dimension that runs over the items."""
        return self.shape[1:] if self.rows > 1 else self.shape


def part_name(call: str, part: int) -> str:
    """Several sites of one call are numbered behind a slash: rnn, rnn/1, rnn/2."""
    return f"{call}/{part}" if part else call


def call_name(site: str) -> str:
    """The call that a site belongs to."""
    return site.partition("/")[0]


@dataclass(frozen=True)
class Discovery:
    """The sites of a model, and what else scoring must know about the model."""

    sites: tuple[Site, ...]
    idle: tuple[str, ...]  # stochastic calls that do nothing even in training (p = 0, training=False)
    training: tuple[str, ...]  # modules that must be in training mode for their sites to be reached
    weight_p: float | None = None  # weights of Linear and convolution are dropped with this probability
    chosen: tuple[str | int, ...] | None = None  # the sites that the user asked for
    constants: ConstantSource = field(default_factory=ConstantSource)  # what stands in for draws that are off
    written: tuple[str, ...] = ()  # buffers and attributes into which a forward pass writes
    reseeded: tuple[str, ...] = ()  # draws from a generator that the model seeds anew in every pass: no randomness
    batched: tuple[bool, ...] | None = None  # which leaves of the inputs hold the items in their first dimension

    def wants(self, name: str) -> bool:
        """Return whether the user's choice of sites covers a call of this name."""
        return self.chosen is None or any(isinstance(c, str) and fnmatchcase(name, c) for c in self.chosen)


def with_p(sites: Sequence[Site], p: float | Mapping[str | int, float] | None) -> list[Site]:
    """Return the sites with the probabilities asked for. SiteError for one that the random bits cannot realize."""
    wanted: Mapping[str | int, float] = {} if p is None else p if isinstance(p, Mapping) else {"*": p}
    chosen: dict[int, float | None] = {site.index: site.p for site in sites}
    for pattern, value in wanted.items():
        for index in _matching(sites, pattern):
            if sites[index].draws:
                raise SiteError(
                    f"{sites[index]} is drawn by the model, with a probability of its own; set it in the model instead"
                )
            chosen[index] = float(value)
    for index, realized in chosen.items():
        if realized is not None and realized != 1.0 and not sites[index].draws:
            try:
                bits = rate(realized).bits
            except ValueError as error:
                raise SiteError(f"site {index} ({sites[index].name}): {error}") from None
            if not bits:
                raise SiteError(
                    f"site {index} ({sites[index].name}): drop probability 0.0 drops nothing; "
                    "to leave a site off name the others in Dropout(sites=[...])"
                )
    return [replace(site, p=chosen[site.index]) for site in sites]


def _matching(sites: Sequence[Site], pattern: str | int) -> set[int]:
    hits = {
        s.index for s in sites if (s.index == pattern if isinstance(pattern, int) else fnmatchcase(s.name, pattern))
    }
    if not hits:
        raise SiteError(f"sites: {pattern!r} matches none of {', '.join(f'{s.index} {s.name}' for s in sites)}")
    return hits


def choose(sites: Sequence[Site], chosen: Sequence[str | int] | None) -> tuple[Site, ...]:
    """Return the sites, with those that ``chosen`` does not name switched off. SiteError for a name that matches none."""
    if chosen is None:
        return tuple(sites)
    wanted = set[int]().union(*(_matching(sites, pattern) for pattern in chosen))
    return tuple(replace(s, active=s.index in wanted) for s in sites)
