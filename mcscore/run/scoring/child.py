"""python -m mcscore.run.scoring.child FD: a worker of the process that holds the other end of the socket FD."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    from mcscore.run.scoring.processes import main

    main(int(sys.argv[1]))
