"""Fashion-MNIST (Zalando Research, MIT), from the files of Debian's package `dataset-fashion-mnist`."""

import gzip
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

LABELS = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
# file -> (shape, SHA-256 of its values as uint8)
FILES = {
    "train-images-idx3-ubyte.gz": ((60000, 28, 28), "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012"),
    "train-labels-idx1-ubyte.gz": ((60000,), "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7"),
    "t10k-images-idx3-ubyte.gz": ((10000, 28, 28), "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a"),
    "t10k-labels-idx1-ubyte.gz": ((10000,), "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9"),
}
CALIBRATION, SELECTION = 500, 5000  # of the 60,000, from the end; the rest trains


def folder() -> Path:
    """Where `make demo-fashion` unpacks the files; the installed package's own folder where there is none."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    unpacked = home / "edge-deploy" / "fashion-mnist"
    return unpacked if unpacked.is_dir() else Path("/usr/share/datasets/fashion-mnist")


def splits() -> dict[str, Any]:
    """Split name -> (float32 [n, 1, 28, 28], int64 [n]). The published 10,000 test images are the gate's."""
    train = _read("train-images-idx3-ubyte.gz"), _read("train-labels-idx1-ubyte.gz").astype(np.int64)
    gate = _read("t10k-images-idx3-ubyte.gz"), _read("t10k-labels-idx1-ubyte.gz").astype(np.int64)
    images, labels = train
    parts = {
        "train": slice(0, -SELECTION - CALIBRATION),
        "calibration": slice(-SELECTION - CALIBRATION, -SELECTION),
        "selection": slice(-SELECTION, None),
    }
    seen = images[parts["train"]] / np.float32(255)
    mean, std = float(seen.mean(dtype=np.float64)), float(seen.std(dtype=np.float64))
    values = ((np.arange(256) / 255 - mean) / std).astype(np.float32)

    def scaled(pixels: Array) -> Array:
        return values[pixels[:, None]]

    return {
        **{name: (scaled(images[part]), labels[part]) for name, part in parts.items()},
        "gate": (scaled(gate[0]), gate[1]),
        "labels": LABELS,
        "preprocessing": {"layout": "HW -> CHW", "divide_by": 255, "mean": mean, "std": std},
        "raw": images[parts["calibration"]][:4],
    }


def _read(name: str) -> Array:
    """The values of one file, uint8: only those that were reviewed are taken."""
    path, (shape, digest) = folder() / name, FILES[name]
    if not path.is_file():
        raise FileNotFoundError(f"no {path}: 'make fashion-mnist' fetches it, or install dataset-fashion-mnist")
    values = gzip.decompress(path.read_bytes())[4 + 4 * len(shape) :]  # behind the magic number and the sizes
    if hashlib.sha256(values).hexdigest() != digest:
        raise ValueError(f"{path} is not the published file (SHA-256 differs): 'make fashion-mnist' fetches it")
    return np.frombuffer(values, np.uint8).reshape(shape)
