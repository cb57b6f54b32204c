"""Which items a screened run does not score in full, told by the committed scores of its first stage."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..skipped import Skips
from .cut import Wanted


class Dropped:
    """What the second stage skips: besides what the first one did, the items that neither survived nor are audited."""

    def __init__(self, skipped: Skips, wanted: Wanted) -> None:
        self._skipped, self._wanted = skipped, wanted

    def __getitem__(self, part: slice) -> npt.NDArray[np.bool_]:
        return self._skipped[part] | ~self._wanted[part]

    def first_kept(self) -> int | None:
        """The first item of the first stage: what is planned with need not survive."""
        return self._skipped.first_kept()
