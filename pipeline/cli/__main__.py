"""`python -m pipeline.cli`."""

import sys

if not sys.flags.safe_path:
    del sys.path[0]  # the current folder, from which `-m` would take a user's queue.py for Python's own

from pipeline.cli import main

main()
