"""The four named splits, as arrays on disk, and the check that they share no sample.

A data factory returns a mapping: the split names to `(inputs, labels)`, `(inputs, labels, groups)` or `(inputs, labels,
groups, tags)` (groups [n] or None; tags: name -> [n], whatever slices samples), and optionally "labels" (class names),
"preprocessing", "postprocessing", "raw" (pipeline/declared.py) and "lengths" (pipeline/lengths.py). `inputs` is one
array or a dict of arrays, first axis = sample; `labels` are the targets: class numbers [n], or numbers of any shape
[n, ...].
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import declared, lengths
from pipeline.errors import UsageError
from targets.agent import save_npz

SPLITS = ("train", "calibration", "selection", "gate")
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Split:
    """`inputs`: name -> [n, ...] in the model's (PyTorch) layout and the model's order; `labels`: the targets, int64 or
    float32 [n, ...]; `groups`: [n] str or None; `tags`: name -> [n] str."""

    inputs: dict[str, Array]
    labels: Array
    groups: Array | None = None
    tags: Mapping[str, Array] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Data:
    """All splits with what travels with the artifact.

    `preprocessing`: input name -> rules (declared.Input) from raw samples; `activation`: what makes probabilities of
    the first output, None where the task decides; `labels`: class names. `raw_checked`: raw samples that the rules were
    seen to turn into the first ones of the calibration split. `lengths`: of inputs with an axis that varies.
    """

    splits: dict[str, Split]
    preprocessing: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    activation: str | None = None
    raw_checked: int = 0
    lengths: lengths.Lengths | None = None


def from_factory(returned: object, where: str) -> Data:
    """Check and normalise what a data factory returned. Raises UsageError naming split, problem and remedy."""
    if not isinstance(returned, Mapping):
        raise UsageError(
            f"{where} returned {type(returned).__name__}, expected a mapping with the splits {list(SPLITS)}"
        )
    missing = [name for name in SPLITS if name not in returned]
    if missing:
        raise UsageError(f"{where} lacks the splits {missing}: return all of {list(SPLITS)}")
    varying = lengths.of(returned, where)
    splits = {name: _split(returned[name], f"{where}, split '{name}'", varying) for name in SPLITS}
    labels = tuple(str(label) for label in returned.get("labels", ()))
    inputs = splits["calibration"].inputs
    rules = declared.of(returned, inputs, where)
    data = Data(splits, rules, labels, declared.activation(returned, where), lengths=varying)
    _check(data, where)
    looked = declared.check_raw(returned["raw"], rules, inputs, where) if "raw" in returned else 0
    return replace(data, raw_checked=looked)


def _split(value: object, where: str, varying: lengths.Lengths | None) -> Split:
    if isinstance(value, Split):
        value = (value.inputs, value.labels, value.groups, value.tags)
    if not isinstance(value, tuple) or len(value) not in (2, 3, 4):
        raise UsageError(
            f"{where} is {type(value).__name__}, expected (inputs, labels), (inputs, labels, groups) or "
            "(inputs, labels, groups, tags)"
        )
    inputs, labels, groups, tagged = (*value, None, None)[:4]
    if varying is not None:
        inputs = lengths.padded(inputs, varying, where)
    try:
        named = (
            {str(k): np.asarray(v) for k, v in inputs.items()}
            if isinstance(inputs, Mapping)
            else {"input": np.asarray(inputs)}
        )
        target = np.asarray(labels)
        people = None if groups is None else np.asarray(groups).astype(str)
        tags = {str(name): np.asarray(values).astype(str) for name, values in (tagged or {}).items()}
    except Exception as error:
        raise UsageError(f"{where} cannot be read as arrays: {error}") from error
    for name, array in named.items():
        if array.dtype == np.float64:
            named[name] = array.astype(np.float32)
        elif array.dtype.kind not in "fiub":
            raise UsageError(f"{where}: input '{name}' has dtype {array.dtype}, expected numbers")
    if unnamed := [name for name in named if not name.isidentifier()]:
        raise UsageError(f"{where}: input '{unnamed[0]}': name inputs as parameters of forward are, letters and digits")
    if isinstance(labels, Mapping):
        raise UsageError(
            f"{where}: targets are a dict with {list(labels)[:5]}: return one array, which the metric takes; several "
            "belong stacked into one, taken apart by a loss and a metric of your own"
        )
    if target.ndim < 1 or target.dtype.kind not in "fiub":
        raise UsageError(
            f"{where}: labels have dtype {target.dtype} and shape {list(target.shape)}, expected class numbers [n] or "
            "targets [n, ...]"
        )
    counts = {name: len(array) for name, array in named.items()} | {"labels": len(target)}
    if people is not None:
        counts["groups"] = len(people)
    counts |= {f"tag {name}": len(values) for name, values in tags.items()}
    if odd := [name for name in tags if not name.isidentifier()]:
        raise UsageError(f"{where}: tag '{odd[0]}': name tags with letters, digits and _, as tag:NAME=VALUE needs it")
    if len(set(counts.values())) != 1:
        raise UsageError(f"{where}: lengths differ: {counts}")
    if len(target) == 0:
        raise UsageError(f"{where} is empty")
    for name, array in named.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            bad = int((~np.isfinite(array)).reshape(len(array), -1).any(axis=1).sum())
            raise UsageError(
                f"{where}: input '{name}' has NaN or infinity in {bad} of {len(array)} samples: clean the data"
            )
    if target.dtype.kind == "f" and not np.isfinite(target).all():
        raise UsageError(f"{where}: labels have NaN or infinity: clean the data")
    return Split(named, target.astype(np.float32 if target.dtype.kind == "f" else np.int64), people, tags)


def _check(data: Data, where: str) -> None:
    shapes = {
        name: {k: (v.shape[1:], str(v.dtype)) for k, v in split.inputs.items()} for name, split in data.splits.items()
    }
    for name in SPLITS[1:]:
        if shapes[name] != shapes["train"]:
            raise UsageError(f"{where}: split '{name}' has inputs {shapes[name]}, 'train' has {shapes['train']}")
    kinds = {name: (split.labels.shape[1:], str(split.labels.dtype)) for name, split in data.splits.items()}
    for name in SPLITS[1:]:
        if kinds[name] != kinds["train"]:
            raise UsageError(f"{where}: split '{name}' has labels {kinds[name]}, 'train' has {kinds['train']}")
    for name, split in data.splits.items():
        if split.labels.dtype.kind == "f":
            continue
        low, high = int(split.labels.min()), int(split.labels.max())
        if low < 0 or (data.labels and high >= len(data.labels)):
            raise UsageError(f"{where}: split '{name}' has labels {low}..{high}, but {len(data.labels)} class names")
    overlap(data, where)


def classes(folder: Path) -> tuple[int, bool]:
    """How many classes the data in a data stage's folder has, and whether they have names; 0 for other targets."""
    names = json.loads((folder / "declared.json").read_text())["labels"]
    if names:
        return len(names), True
    splits = [np.load(folder / name / "labels.npy", mmap_mode="r") for name in SPLITS if (folder / name).is_dir()]
    return max((0 if one.dtype.kind == "f" else int(one.max()) + 1 for one in splits), default=0), False


def sample_hashes(split: Split) -> list[bytes]:
    """A content hash for each sample, over all its inputs."""
    names = sorted(split.inputs)
    arrays = [np.ascontiguousarray(split.inputs[name]) for name in names]
    return [
        hashlib.blake2b(b"".join(array[i].tobytes() for array in arrays), digest_size=16).digest()
        for i in range(len(split))
    ]


def overlap(data: Data, where: str) -> None:
    """Raise UsageError with counts and examples when two splits share a sample."""
    seen: dict[bytes, tuple[str, int]] = {}
    shared: Counter[tuple[str, str]] = Counter()
    example: dict[tuple[str, str], tuple[int, int]] = {}
    for name, split in data.splits.items():
        for index, digest in enumerate(sample_hashes(split)):
            first = seen.setdefault(digest, (name, index))
            if first[0] != name:
                pair = (first[0], name)
                shared[pair] += 1
                example.setdefault(pair, (first[1], index))
    if shared:
        text = "; ".join(
            f"{count} in '{a}' and '{b}' (for example {a}[{example[a, b][0]}] = {b}[{example[a, b][1]}])"
            for (a, b), count in shared.items()
        )
        raise UsageError(
            f"{where}: splits share samples: {text}. Results on a leaked split mean nothing: remove the copies"
        )


def save(data: Data, folder: Path) -> None:
    """One .npy an array, so that a reader maps only what it needs."""
    for name, split in data.splits.items():
        (folder / name / "inputs").mkdir(parents=True)
        for key, array in split.inputs.items():
            np.save(folder / name / "inputs" / f"{key}.npy", array)
        np.save(folder / name / "labels.npy", split.labels)
        if split.groups is not None:
            np.save(folder / name / "groups.npy", split.groups)
        for tag, values in split.tags.items():
            np.save(folder / name / f"tag-{tag}.npy", values)
    record = {
        "preprocessing": data.preprocessing,
        "activation": data.activation,
        "labels": list(data.labels),
        "inputs": _order(data),
        "lengths": data.lengths and data.lengths.record(),
    }
    (folder / "declared.json").write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


def _order(data: Data) -> list[str]:
    return list(next(iter(data.splits.values())).inputs)


def input_names(folder: Path) -> list[str]:
    """Names of the inputs in the order in which the model takes them."""
    names: list[str] = json.loads((folder / "declared.json").read_text())["inputs"]
    return names


def load_split(folder: Path, name: str) -> Split:
    """One split of what `save` wrote, memory-mapped."""
    base = folder / name
    groups = base / "groups.npy"
    return Split(
        {key: np.load(base / "inputs" / f"{key}.npy", mmap_mode="r") for key in input_names(folder)},
        np.load(base / "labels.npy"),
        np.load(groups) if groups.exists() else None,
        {file.stem.removeprefix("tag-"): np.load(file) for file in sorted(base.glob("tag-*.npy"))},
    )


def save_named(path: Path, arrays: Mapping[str, Array]) -> None:
    """Arrays by name in one .npz; equal arrays give equal bytes."""
    save_npz(path, dict(arrays))


def load_named(path: Path) -> dict[str, Array]:
    """What `save_named` wrote, in its order."""
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}
