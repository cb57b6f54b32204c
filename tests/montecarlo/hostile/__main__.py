"""``python -m tests.montecarlo.hostile NAME``: one case in a process of its own; exit status 1 and the fault on stderr."""

from __future__ import annotations

import sys

from . import check_all

sys.exit(check_all.main(sys.argv[1:]))
