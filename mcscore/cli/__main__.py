"""``python -m mcscore.cli``."""

from . import main

main()
