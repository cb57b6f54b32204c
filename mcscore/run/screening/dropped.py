"""Which items a screened run does not score in full, told by the committed scores of its first stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..skipped import Skipped
from .cut import Wanted

if TYPE_CHECKING:
    from ...pool import Pool


class Dropped(Skipped):
    """What a screened run skips: besides what every run does, the items that neither survived nor are audited."""

    def __init__(self, pool: Pool, labeled: bool, wanted: Wanted) -> None:
        super().__init__(pool, labeled)
        self._wanted = wanted

    def __getitem__(self, part: slice) -> npt.NDArray[np.bool_]:
        return super().__getitem__(part) | ~self._wanted[part]
