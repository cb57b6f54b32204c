"""Every error that mcscore raises about models, pools and runs, under one base; each is importable from the package itself."""

from __future__ import annotations

import textwrap


def first_line(error: BaseException, limit: int = 160) -> str:
    """The kind of an error and the first line of its message, cut at a word."""
    lines = str(error).strip().splitlines() or ["no message"]
    return textwrap.shorten(f"{type(error).__name__}: {lines[0]}", limit, placeholder=" ...")


class Error(Exception):
    """The base of all errors of mcscore. The message names the thing (item id, chunk, site, file) and says what to do.

    Attributes:
        exit_code: with which the command line ends: 1 failed, 3 stopped, but the same command resumes.
    """

    exit_code = 1


class ModelError(Error, ValueError):
    """The model cannot be built as asked, or its weights do not fit it."""


class SiteError(Error, ValueError):
    """A model's dropout is missing, cannot be driven, or did not fire. The message names the sites."""


class RowsError(SiteError):
    """A tensor at a site does not hold the items as it did when the site was found."""


class PassError(SiteError):
    """A model cannot run a forward pass in the configuration that is tried."""


class DrawError(SiteError):
    """A model draws random numbers in evaluation mode, and which constants stand for them is not known yet."""


class OutputError(Error, ValueError):
    """What a model returns is not logits for every item."""


class PrecisionError(Error, RuntimeError):
    """A model cannot run in the precision asked for."""


class CheckError(Error, ValueError):
    """A model and its input do not look right together, and that was to be an error: the message has every finding."""


class PoolError(Error, ValueError):
    """Something is wrong with a pool on disk or with what should become one; the message says what, where, what to do."""


class ChunkError(PoolError):
    """Items start..stop-1 cannot be read: their chunk is missing, torn or changed."""

    def __init__(self, message: str, start: int, stop: int, why: str = "") -> None:
        super().__init__(message)
        self.start, self.stop, self.why = start, stop, why


class ImageError(Error, ValueError):
    """Bytes that cannot become an item; the message says why."""


class DecoderError(ImageError):
    """An image needs a decoder that is not installed; the message says how to install it."""


class SampleError(Error, ValueError):
    """A sample of a dataset has no item that can be told, or a label of no known kind; the message says how to name it."""


class RunError(Error, ValueError):
    """A run cannot be made, continued, read or selected from; the message says why and what to do."""


class RunInUseError(RunError):
    """Another process scores into the run: it is named. When it has ended, the same command goes on."""

    exit_code = 3


class RunMadeError(RunError):
    """Another process has made the run that this one was to make; starting again takes it up."""


class PoolNotFoundError(RunError):
    """The pool of a run is not at the place the run recorded; pass it as pool= (--pool)."""


class Stopped(KeyboardInterrupt):
    """SIGINT, SIGTERM or SIGHUP arrived: what was committed is kept, and scoring into the same directory continues from there.

    A KeyboardInterrupt and no ``Error``, so that ``except Exception`` around a long loop does not swallow it.
    """

    exit_code = 3

    def __init__(self, path: object, done: int, total: int, how: str = "done") -> None:
        super().__init__(f"stopped; resumable: {done:,} of {total:,} items {how} in {path}")
        self.path, self.done, self.total = path, done, total
