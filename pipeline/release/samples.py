"""Per-sample evidence: what the float model and the deployed one made of each sample of the gate split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.release.evidence import samples_file as file_name
from pipeline.release.scores import Pair

__all__ = ["Answers", "Samples", "file_name", "from_logits", "kinds", "load", "slices"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Answers:
    """Of a classification, every array [n]; `names` [classes]. Ranks are those of the true label, 0 = top."""

    labels: Array
    float_class: Array
    deployed_class: Array
    float_rank: Array
    deployed_rank: Array
    names: Array

    @property
    def classes(self) -> int:
        """How many there are."""
        return len(self.names)


@dataclass(frozen=True)
class Samples:
    """Evidence of one run on n samples. `answers` is None where the task is no classification; `scores`: what other
    metrics are had from, by name; `groups` [n]: who or what samples belong to; `tags`: name -> [n]; `judged`: the
    output that metrics without "@OUTPUT" are of.
    """

    n: int
    answers: Answers | None
    scores: Mapping[str, Pair] = field(default_factory=dict)
    groups: Array | None = None
    tags: Mapping[str, Array] = field(default_factory=dict)
    judged: str = ""

    def save(self, file: Path) -> None:
        """Write an .npz; equal evidence gives equal bytes."""
        arrays: dict[str, Any] = {"n": self.n} | ({"judged": self.judged} if self.judged else {})
        if self.answers is not None:
            arrays |= vars(self.answers)
        if self.groups is not None:
            arrays["groups"] = self.groups
        for name, pair in self.scores.items():
            arrays |= {f"before {name}": pair.before, f"after {name}": pair.after}
        arrays |= {f"tag {name}": values for name, values in self.tags.items()}
        np.savez(file, **arrays)

    def part(self, name: str) -> Samples | None:
        """The samples of a slice ("group:ann", "tag:light=dark", "class:up"); None where there is none."""
        prefix, values = next(((k, v) for k, v in kinds(self).items() if name.startswith(k)), ("", None))
        if values is None or not (at := values == name.removeprefix(prefix)).any():
            return None
        answers = None
        if self.answers is not None:
            arrays = {key: value[at] for key, value in vars(self.answers).items() if key != "names"}
            answers = Answers(**arrays, names=self.answers.names)
        return Samples(
            int(at.sum()),
            answers,
            {key: Pair(pair.before[at], pair.after[at]) for key, pair in self.scores.items()},
            None if self.groups is None else self.groups[at],
            {key: tags[at] for key, tags in self.tags.items()},
            self.judged,
        )


def from_logits(labels: Array, original: Array, deployed: Array, names: Sequence[str] = ()) -> Answers:
    """Evidence from integer labels [n] and two logits [n, classes]; ties go to the first class, as argmax does.

    Classes without `names` are called by their numbers.
    """
    return Answers(
        labels=np.asarray(labels, np.int64),
        float_class=original.argmax(axis=1),
        deployed_class=deployed.argmax(axis=1),
        float_rank=_rank(labels, original),
        deployed_rank=_rank(labels, deployed),
        names=np.array([*names, *map(str, range(len(names), original.shape[1]))]),
    )


def load(file: Path) -> Samples:
    """What `Samples.save` wrote. Raises OSError, ValueError or KeyError for anything else."""
    with file.open("rb") as stream, np.load(stream) as arrays:
        named = {name: arrays[name] for name in arrays.files}
    answers = None
    if "labels" in named:
        answers = Answers(**{name: named[name] for name in Answers.__dataclass_fields__})
    before = {name.removeprefix("before "): array for name, array in named.items() if name.startswith("before ")}
    scores = {name: Pair(array, named[f"after {name}"]) for name, array in before.items()}
    tags = {name.removeprefix("tag "): array for name, array in named.items() if name.startswith("tag ")}
    return Samples(int(named["n"]), answers, scores, named.get("groups"), tags, str(named.get("judged", "")))


def kinds(samples: Samples) -> dict[str, Array]:
    """Ways to slice: what names of slices begin with ("class:", "group:", "tag:NAME=") -> each sample's value [n]."""
    found: dict[str, Array] = {}
    if samples.answers is not None:
        found["class:"] = samples.answers.names[samples.answers.labels]
    if samples.groups is not None:
        found["group:"] = samples.groups
    for name, values in samples.tags.items():
        found[f"tag:{name}="] = values
    return found


def slices(samples: Samples) -> dict[str, dict[str, int]]:
    """Counts of each slice of a classification: "class:NAME", "group:NAME", "tag:NAME=VALUE"."""
    answers = samples.answers
    if answers is None:
        return {}
    before, after = answers.float_class == answers.labels, answers.deployed_class == answers.labels
    rows = {}
    for prefix, values in kinds(samples).items():
        for value in np.unique(values):
            at = values == value
            rows[f"{prefix}{value}"] = {
                "n": int(at.sum()),
                "lost": int((before & ~after & at).sum()),
                "gained": int((after & ~before & at).sum()),
                "float_right": int((before & at).sum()),
            }
    return rows


def _rank(labels: Array, logits: Array) -> Array:
    own = logits[np.arange(len(labels)), labels][:, None]
    before = np.arange(logits.shape[1]) < np.asarray(labels)[:, None]
    return np.asarray(((logits > own) | ((logits == own) & before)).sum(axis=1), np.int64)
