"""Data without code: an .npz file or a folder of images, and torch Datasets that a factory returns.

All of these become the mapping of splits that pipeline/data.py checks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import bounds, user
from pipeline.data import SPLITS, Array
from pipeline.errors import UsageError
from pipeline.loader import loader

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
MOST_PIXELS = 2**26  # of one image
LOOKED_AT = 4  # raw samples that go with the splits
SHARES = {"train": 60, "calibration": 5, "selection": 10, "gate": 25}  # percent, where a folder names no splits


def read(reference: str, folder: Path) -> Mapping[str, Any]:
    """The splits that a recipe's `data` names: "module:function", a .npz file, or a folder of images.

    Raises UsageError naming what is wrong with which file.
    """
    if ":" in reference:
        returned = user.call(reference, folder)
        if not isinstance(returned, Mapping):
            return returned  # type: ignore[no-any-return]  # pipeline/data.py says what is wrong with it
        return {key: _stacked(value, f"{reference}, split '{key}'") for key, value in returned.items()}
    path = folder / reference
    if path.is_dir():
        return _images(path)
    if path.suffix == ".npz" and path.exists():
        return _npz(path)
    raise UsageError(f"data: nothing at {path}: name a .npz file, a folder of images, or 'module:function'")


def _npz(path: Path) -> dict[str, Any]:
    """`SPLIT_x` or `SPLIT_x_NAME` for inputs, `SPLIT_y`, optionally `SPLIT_groups` and `labels`."""
    named = bounds.arrays(path)
    splits: dict[str, Any] = {}
    for split in SPLITS:
        inputs = {name.removeprefix(f"{split}_x_"): array for name, array in named.items() if f"{split}_x_" in name}
        x = inputs or named.get(f"{split}_x")
        if x is None or f"{split}_y" not in named:
            raise UsageError(f"{path} lacks '{split}_x' or '{split}_y': it has {sorted(named)}")
        groups = named.get(f"{split}_groups")
        splits[split] = (x, named[f"{split}_y"]) if groups is None else (x, named[f"{split}_y"], groups)
    return splits | ({"labels": named["labels"].tolist()} if "labels" in named else {})


def _images(path: Path) -> dict[str, Any]:
    """`SPLIT/CLASS/*.png`, or `CLASS/*.png` split by content; float32 [n, channels, height, width] from 0 to 1."""
    named = all((path / split).is_dir() for split in SPLITS)
    roots = {split: path / split for split in SPLITS} if named else {"": path}
    classes = sorted({folder.name for root in roots.values() for folder in root.iterdir() if folder.is_dir()})
    rows: dict[str, list[tuple[Array, int]]] = {split: [] for split in SPLITS}  # bytes as the files hold them
    shapes: dict[tuple[int, ...], Path] = {}
    for split, root in roots.items():
        for label, name in enumerate(classes):
            for file in sorted(f for f in (root / name).glob("*") if f.suffix.lower() in PICTURES):
                pixels = _picture(file)
                shapes.setdefault(pixels.shape, file)
                rows[split or _split_of(pixels)].append((pixels, label))
    if len(shapes) > 1:
        (first, one), (second, other) = list(shapes.items())[:2]
        raise UsageError(f"data: {one} is {list(first)}, {other} is {list(second)}: bring all images to one size")
    if empty := [split for split, found in rows.items() if not found]:
        raise UsageError(f"data: {path} has no images for {empty}: expected SPLIT/CLASS/*.png or CLASS/*.png")
    layout = "HW -> CHW" if len(next(iter(shapes))) == 2 else "HWC -> CHW"
    rules = {"layout": layout, "divide_by": 255}
    taken = {
        name: (np.stack([loader.prepare(x, rules) for x, _ in one]), np.array([y for _, y in one]))
        for name, one in rows.items()
    }
    raw = [x for x, _ in rows["calibration"][:LOOKED_AT]]
    return {**taken, "labels": classes, "preprocessing": rules, "raw": raw}


def _picture(file: Path) -> Array:
    """uint8 [height, width], or [height, width, 3] of a coloured one."""
    from PIL import Image

    bounds.regular(file, "data")
    try:
        with Image.open(file) as image:
            if image.width * image.height > MOST_PIXELS:
                raise UsageError(f"data: {file} is of {image.width} x {image.height} pixels: {MOST_PIXELS:,} at most")
            return np.asarray(image.convert("L" if image.mode in ("1", "L", "I", "F") else "RGB"))
    except UsageError:
        raise
    except Exception as error:  # a damaged file ends in whatever its decoder raises
        raise UsageError(f"data: {file} is no image that can be read: {' '.join(str(error).split())}") from error


def _split_of(pixels: Array) -> str:
    """By what is in it: the same picture is always in the same split, whatever else lies beside it."""
    place = int.from_bytes(hashlib.sha256(pixels.tobytes()).digest()[:4], "big") % 100
    for split, share in SHARES.items():
        if place < share:
            return split
        place -= share
    raise AssertionError("the shares are 100 percent")


def _stacked(value: Any, where: str) -> Any:
    """A map-style torch Dataset as (inputs, targets); everything else as it is."""
    if isinstance(value, tuple | list | Mapping | np.ndarray) or not (
        hasattr(value, "__getitem__") and hasattr(value, "__len__")
    ):
        return value
    try:
        items = [value[i] for i in range(len(value))]
        if any(not isinstance(item, tuple | list) or len(item) not in (2, 3) for item in items):
            raise TypeError("an item is no (input, target) or (input, target, group)")
        columns = [_column([item[i] for item in items]) for i in range(len(items[0]))]
    except Exception as error:
        raise UsageError(f"{where}: the dataset cannot be stacked: {user.blame(error)}") from error
    return tuple(columns)


def _column(values: list[Any]) -> Any:
    if isinstance(values[0], Mapping):
        return {key: _column([value[key] for value in values]) for key in values[0]}
    return np.stack([np.asarray(value) for value in values])
