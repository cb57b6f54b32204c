"""Whether a run goes on with the code it was started with: the model's and the transform's, and what they refer to.

Editing a preprocessing function between two attempts at a run used to give half the scores of one and half of the other.
"""

from __future__ import annotations

import dataclasses
import datetime
import warnings
from collections.abc import Mapping

from ...errors import RunError
from ...own_scores import OF_SCORE
from ...store.files import AnyPath
from ..schema import Edit, Model, RunHeader

_NAMED = 6
_KINDS = ("source", "value", "attribute")


def code_of(path: AnyPath, header: RunHeader, now: Model, accept: bool) -> int:
    """Find the code of ``now`` in a run: 0 for that of the start, i for the i-th edit, one more than there are for a new one.

    Raises:
        RunError: it is none of them, and ``accept`` is False. The message names what differs from the latest.
    """
    started = header.settings.model
    if now.code is None:
        return len(header.edited)
    if started.code is None:
        warnings.warn(
            f"{path} was started by an mcscore that did not record the model's code: whether it was edited since is not known",
            stacklevel=2,
        )
        return 0
    known = [started.code, *(edit.code for edit in header.edited)]
    passed = {*started.changing, *now.changing}
    for index, code in enumerate(known):
        if not differences(code, now.code, passed):
            return index
    if accept:
        return len(known)
    raise RunError(
        f"{path} was scored with other code: {told(differences(known[-1], now.code, passed))}. Undo the edit, score into "
        "another directory, or go on with it: accept_edited_code=True (--accept-edited-code); run.json then says so, and the "
        "record of each span which code scored it"
    )


def accepted(path: AnyPath, header: RunHeader, now: Model, accept: bool) -> list[str]:
    """What of ``now`` differs from the start of a run that is only read, if ``accept`` allows it. Raises what ``code_of`` does.

    Registered scores may differ: those that are read were computed by the run.
    """
    codes = (header.settings.model.code, now.code, *(edit.code for edit in header.edited))
    of_scores = [name for code in codes for name in code or () if name.startswith(OF_SCORE.partition("{")[0])]
    now = dataclasses.replace(now, changing=(*now.changing, *of_scores))
    if code_of(path, header, now, accept) <= len(header.edited):
        return []
    return list(edit_of(header, now).changed)


def edit_of(header: RunHeader, now: Model) -> Edit:
    """What run.json says of code that joins a run."""
    assert now.code is not None
    passed = {*header.settings.model.changing, *now.changing}
    return Edit(
        code=now.code,
        at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        changed=tuple(differences(header.settings.model.code or {}, now.code, passed)),
    )


def differences(then: Mapping[str, str], now: Mapping[str, str], passed: set[str]) -> list[str]:
    """Name what differs, with the file it is from: "source of Net.forward (net.py)"."""
    found = []
    for name in sorted(then.keys() | now.keys(), key=_rank):
        before, after = then.get(name, "").partition(" "), now.get(name, "").partition(" ")
        if name in passed or before[0] == after[0]:
            continue
        file = f" ({after[2] or before[2]})" if after[2] or before[2] else ""
        found.append(name + file + (", which is new" if not before[0] else ", which is gone" if not after[0] else ""))
    return found


def _rank(name: str) -> tuple[int, str]:
    """The most telling kinds first: an edit of a function shows in what holds it, too."""
    kind = name.partition(" ")[0]
    return (_KINDS.index(kind) if kind in _KINDS else len(_KINDS)), name


def told(names: list[str]) -> str:
    """The first few, and how many more there are."""
    return "; ".join(names[:_NAMED]) + (f"; and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def warn_of_unseen(path: AnyPath, model: Model) -> None:
    """Say what of the code cannot be compared when the run goes on."""
    if model.unseen:
        warnings.warn(
            f"{path}: not compared when this run is resumed or selected from: {told(list(model.unseen))}", stacklevel=2
        )
