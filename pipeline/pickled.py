"""What a pickle holds beside tensors, read without running anything of it."""

from __future__ import annotations

import contextlib
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

DEEP, PARTS = 3, 4  # levels of dicts that are looked into; pickles in a row in a file of old (torch 1.5)


class _Stand(dict[Any, Any]):
    """Stands in for an object of a class that the file names: takes whatever is done to it, and does nothing."""

    what = ""

    def __new__(cls, *_: object, **__: object) -> _Stand:
        """As a class that is called, and as a function's result."""
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()

    def __setstate__(self, _: object) -> None: ...

    def __call__(self, *_: object, **__: object) -> _Stand:
        return self

    def append(self, _: object) -> None:
        """As a list."""

    extend = add = append


class _Reader(pickle._Unpickler):  # type: ignore[name-defined,misc,unused-ignore]
    """Finds no class but stand-ins, so that nothing can be called.

    The unpickler in Python: the one in C makes a table as long as the largest number that a file gives an object.
    """

    def find_class(self, module: str, name: str) -> Any:
        """See Unpickler."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        plain = module.partition(".")[0] == "torch"  # how tensors are rebuilt
        return type(name, (_Stand,), {"what": "" if plain else f"{module}.{name}"})

    def persistent_load(self, _: object) -> Any:
        """A tensor's storage."""
        return _Stand()


def objects(path: Path) -> dict[str, str]:
    """Dotted key -> "module.Class" of what a checkpoint holds beside tensors and plain values; "" is the whole file.

    Empty where it cannot be read.
    """
    try:
        return {key: what for value in _values(path) for key, what in _objects(value, "", DEEP)}
    except Exception:  # a damaged file: who asks has seen an error already
        return {}


def _values(path: Path) -> Iterator[Any]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(name) as stream:
                yield _Reader(stream).load()
    else:
        with path.open("rb") as stream, contextlib.suppress(EOFError):  # of a pickle alone, no part follows
            for _ in range(PARTS):
                yield _Reader(stream).load()


def _objects(value: Any, key: str, deep: int) -> Iterator[tuple[str, str]]:
    if isinstance(value, _Stand):
        if value.what:
            yield key, value.what
    elif isinstance(value, Mapping) and deep:
        for name, inner in value.items():
            yield from _objects(inner, f"{key}.{name}" if key else str(name), deep - 1)
