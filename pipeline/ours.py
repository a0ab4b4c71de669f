"""Our packages come from beside this file, whatever else on the import path has their names."""

from __future__ import annotations

import os.path
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120  (pathlib costs --help)
PACKAGES = ("pipeline", "targets", "calibration")


class _Siblings:
    """Finds `targets` and `calibration` before the current folder is asked, which may have a targets.py."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """As importlib asks; None leaves it to the others."""
        return PathFinder.find_spec(name, [ROOT]) if path is None and name in PACKAGES else None


def claim() -> None:
    """Take our names. Raises ImportError in one line where another module has one already."""
    for name in PACKAGES[1:]:
        file = getattr(sys.modules.get(name), "__file__", None)
        if name in sys.modules and not str(file).startswith(os.path.join(ROOT, name)):  # noqa: PTH118
            raise ImportError(f"the module '{name}' at {file} has the name of a package of edge-deploy: rename it")
    if _Siblings not in sys.meta_path:
        sys.meta_path.insert(0, _Siblings)
