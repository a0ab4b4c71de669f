"""Start a worker: `python -P pipeline/boot.py`. Nothing is taken from the current folder, and our package from here."""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path


def main() -> int:
    """Import our package from beside this file, then serve the job on stdin."""
    spec = PathFinder.find_spec("pipeline", [str(Path(__file__).resolve().parent.parent)])
    assert spec is not None
    assert spec.loader is not None
    package = sys.modules["pipeline"] = module_from_spec(spec)
    spec.loader.exec_module(package)
    from pipeline import worker

    return worker.main()


if __name__ == "__main__":
    sys.exit(main())
