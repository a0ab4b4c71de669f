"""`python -m pipeline.cli`."""

import sys

sys.path[:1] = []  # the current folder, from which `-m` would take a user's queue.py for Python's own

from pipeline.cli import main  # noqa: E402

main()
