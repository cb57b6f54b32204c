"""A fence around the user's code: a model file, ``build``, a transform, a forward pass.

A training script that ends in ``sys.exit(main())`` would end a run with exit code 0 and nothing said, and a model that changes the
working directory would have later files read and written elsewhere.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from .errors import ModelError


@contextlib.contextmanager
def user_code(what: str) -> Iterator[None]:
    """Run code of the user's: it cannot end the program, and leaves the working directory as it was.

    Args:
        what: names the code, as the subject of a sentence: "net.py", "the forward pass of Net".

    Raises:
        ModelError: it called sys.exit or raised SystemExit itself, whatever the code. Everything else, also a KeyboardInterrupt,
            passes.
    """
    before = _directory()
    try:
        yield
    except SystemExit as error:
        given = "" if error.code is None else repr(error.code)
        raise ModelError(
            f"{what} ended the program: sys.exit({given}). Nothing is scored by code that exits: take the call out, or put it under "
            "`if __name__ == '__main__':`"
        ) from error
    finally:
        if before is not None and _directory() != before:
            os.chdir(before)


def _directory() -> str | None:
    """The working directory; None if it was removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None
