"""Seven shoulder exercises from a smartwatch (PyPI `seglearn` 1.2.5), as windows split by subject."""

import hashlib
import importlib.metadata
import io
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

VERSION, FILE = "1.2.5", "seglearn/data/watch_dataset.npy"
SHA256 = "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"
RATE_HZ, WINDOW = 50, 100
AXES = ("ax", "ay", "az", "wx", "wy", "wz")
LABELS = ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")

# By number, fixed before anything was trained: nobody is in two of the three.
TRAIN_SUBJECTS, SELECTION_SUBJECTS, GATE_SUBJECTS = (1, 2, 3, 4, 5), (6, 7), (8, 9, 10)
CALIBRATION_EVERY = 6  # of the training subjects' windows every sixth is kept out of training, to calibrate with


def splits() -> dict[str, Any]:
    """Split name -> (float32 [n, 6, 100], int64 [n], subject of each window), standardised by the training windows."""
    windows, labels, subjects = _windows(_recordings())
    ours = np.isin(subjects, TRAIN_SUBJECTS)
    calibration = np.zeros(len(windows), bool)
    calibration[np.flatnonzero(ours)[::CALIBRATION_EVERY]] = True
    chosen = {
        "train": ours & ~calibration,
        "calibration": calibration,
        "selection": np.isin(subjects, SELECTION_SUBJECTS),
        "gate": np.isin(subjects, GATE_SUBJECTS),
    }
    train = windows[chosen["train"]].astype(np.float64)
    mean, std = train.mean(axis=(0, 2)), train.std(axis=(0, 2))
    scaled = ((windows - mean[:, None]) / std[:, None]).astype(np.float32)
    return {
        **{name: (scaled[mask], labels[mask], subjects[mask]) for name, mask in chosen.items()},
        "labels": LABELS,
        "preprocessing": {
            "layout": "TC -> CT",
            "mean": mean.tolist(),
            "std": std.tolist(),
            "notes": {
                "sampling_rate_hz": RATE_HZ,
                "window_samples": WINDOW,
                "hop_samples": WINDOW,
                "axes": list(AXES),
                "units": ["g", "g", "g", "rad/s", "rad/s", "rad/s"],
            },
        },
        "raw": windows[chosen["calibration"]][:4].transpose(0, 2, 1),
    }


def _windows(data: Mapping[str, Array]) -> tuple[Array, Array, Array]:
    """Whole windows that do not overlap, from each recording's start: [n, 6, 100], exercise [n], subject [n]."""
    ends = np.cumsum(data["lengths"])
    windows, owner = [], []
    for index, (end, length) in enumerate(zip(ends, data["lengths"], strict=True)):
        count = int(length) // WINDOW
        signal = data["samples"][end - length : end - length + count * WINDOW]
        windows.append(signal.reshape(count, WINDOW, len(AXES)).transpose(0, 2, 1))
        owner += [index] * count
    return np.concatenate(windows), data["exercise"][owner].astype(np.int64), data["subject"][owner].astype(np.int64)


def _recordings() -> Mapping[str, Array]:
    """All 140 recordings, from a cache that holds no pickle: samples [total, 6], lengths, exercise, subject [140]."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = home / "edge-deploy" / f"watch-{SHA256[:16]}.npz"
    try:
        with cache.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return dict(stored)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):  # absent or damaged: made again
        pass
    arrays = _convert(_original())
    cache.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=cache.parent, suffix=".tmp", delete=False) as aside:
        np.savez_compressed(aside, **arrays)  # type: ignore[arg-type]
    Path(aside.name).replace(cache)
    return arrays


def _original() -> bytes:
    """The data file of the installed package, which is not imported; only the bytes that were reviewed are taken."""
    try:
        found = importlib.metadata.distribution("seglearn")
    except importlib.metadata.PackageNotFoundError:
        raise ModuleNotFoundError(_install("the package 'seglearn' is not installed")) from None
    file = Path(str(found.locate_file(FILE)))
    if not file.is_file():
        raise FileNotFoundError(_install(f"{file} is missing (seglearn {found.version})"))
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise ValueError(_install(f"{file} is not the file of seglearn {VERSION} (SHA-256 differs)"))
    return content


def _install(problem: str) -> str:
    requirements = Path(__file__).with_name("requirements.txt")
    return f"{problem}: pip install --no-deps --require-hashes -r {requirements}"


def _convert(content: bytes) -> dict[str, Array]:
    """The pickled file as plain arrays. Unpickling can run code: the hash above is what makes it safe."""
    data = np.load(io.BytesIO(content), allow_pickle=True).item()
    return {
        "samples": np.concatenate(data["X"]).astype(np.float32),
        "lengths": np.array([len(recording) for recording in data["X"]]),
        "exercise": np.asarray(data["y"]),
        "subject": np.asarray(data["subject"]),
    }
