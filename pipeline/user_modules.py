"""Where the user's modules come from: the recipe's folder, first for what the recipe reaches, last for all else.

So a stray `queue.py` or `onnx.py` in that folder never stands in for Python's own or a library's, and neither does a
module of the same name in the current folder stand in for the recipe's.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

from pipeline import ours, source
from pipeline.errors import UsageError

LIBRARIES = {  # what we import ourselves
    "numpy", "scipy", "torch", "torch_pruning", "safetensors", "pydantic", "rich", "typer", "click", "jinja2",
    "markupsafe", "filelock", "zstandard", "onnx", "onnxscript", "onnxruntime", "openvino", "nncf", "litert_torch",
    "ai_edge_quantizer", "ai_edge_litert", "tflite_runtime", "serial", "PIL",
}  # fmt: skip


class _Folder:
    """Finds the top-level modules `names` in the folder `path`."""

    def __init__(self) -> None:
        self.path, self.names, self.added = "", set[str](), False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """As importlib asks; None leaves it to the others."""
        return PathFinder.find_spec(name, [self.path]) if path is None and name in self.names else None

    def move(self, folder: str) -> None:
        """To the folder of another recipe."""
        if folder == self.path:
            return
        if self.added and self.path in sys.path:
            sys.path.remove(self.path)
        self.path, self.names, self.added = folder, set(), folder not in sys.path
        if self.added:
            sys.path.append(folder)


FOLDER = _Folder()


def own(reference: str, folder: Path) -> dict[str, Path]:
    """Top-level name -> file of the modules in the folder that "module:function" reaches by import statements.

    Raises UsageError for a file whose name is taken: by Python, by us, by a library that we import.
    """
    module = reference.partition(":")[0]
    found: dict[str, Path] = {}
    for name, file in source.reachable(module, [folder]).items():
        top = name.partition(".")[0]
        if top in ours.PACKAGES and file.resolve().is_relative_to(ours.ROOT):
            continue  # a recipe in our own checkout
        if taken := _owner(top):
            raise UsageError(
                f"{reference}: {file} has the name of {taken}, '{top}': rename it, and where it is imported"
            )
        found.setdefault(top, file)
    return found


def _owner(top: str) -> str:
    if top in ours.PACKAGES:
        return "a package of edge-deploy"
    if top in sys.stdlib_module_names:
        return "a module of Python's own"
    return "a library that is used here" if top in LIBRARIES else ""


def prepare(reference: str, folder: Path) -> None:
    """Make the module of "module:function" and what it reaches importable from `folder`, whatever was loaded before.

    Raises UsageError as `own` does.
    """
    folder = folder.resolve()
    if FOLDER not in sys.meta_path:
        sys.meta_path.insert(0, FOLDER)
    if FOLDER.path == str(folder) and reference.partition(":")[0].partition(".")[0] in FOLDER.names:
        return  # a loss is asked for at every step
    names = own(reference, folder)
    FOLDER.move(str(folder))
    FOLDER.names.update(names)
    for top in names:
        _forget_foreign(top, folder)


def _forget_foreign(top: str, folder: Path) -> None:
    """A module of the same name from elsewhere must not answer for this one."""
    loaded = sys.modules.get(top)
    if loaded is None:
        return
    places = [getattr(loaded, "__file__", None), *getattr(loaded, "__path__", ())]
    if any(place and Path(place).resolve().is_relative_to(folder) for place in places):
        return
    for name in [name for name in sys.modules if name == top or name.startswith(f"{top}.")]:
        del sys.modules[name]
