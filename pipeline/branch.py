"""What one target's part of the road came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.artifact import Artifact
from pipeline.errors import DeployError
from pipeline.release import choose

FIXED = ""  # of Network.exports, where no length varies


@dataclass
class Exported:
    """A network as a program; `stepped`: target -> it after the weight step, empty where there is none; `original`: the
    float model as it came, where the profile asks for it.
    """

    program: Artifact
    stepped: Mapping[str, Artifact]
    original: Artifact | None = None


@dataclass
class Network:
    """What the stages of PyTorch came to; branches share one while their keys are equal.

    `model`: what pruning and recovery made of the float model. `exports`: that as a program, by how a target has
    lengths that vary.
    """

    model: Artifact | None = None
    exports: dict[str, Exported] = field(default_factory=dict)


@dataclass
class Branch:
    """What one target's part of the road came to."""

    name: str
    network: Network = field(default_factory=Network)
    lowered: Artifact | None = None
    stepped: Artifact | None = None  # the float graph after the weight step; `lowered` itself where there is none
    observed: Artifact | None = None  # statistics of it
    candidates: dict[str, Artifact] = field(default_factory=dict)
    made: dict[str, tuple[Mapping[str, Artifact], dict[str, Any]]] = field(default_factory=dict)  # id -> of what, how
    failed: dict[str, str] = field(default_factory=dict)  # candidate id -> why its quantizer gave nothing
    screened: Artifact | None = None  # answers of every candidate on the selection split
    untimed: dict[str, str] = field(default_factory=dict)  # candidate -> why the race does not time it
    race: Artifact | None = None
    choice: choose.Choice | None = None
    batches: list[int] = field(default_factory=list)  # planned for verify, the deployment batch first
    verify: Artifact | None = None
    older_cpus: Artifact | None = None
    profile: Artifact | None = None
    also: list[tuple[Artifact, Artifact]] = field(default_factory=list)  # verify and profile on each further device
    error: DeployError | None = None


def rows_of(branch: Branch) -> list[dict[str, Any]]:
    """What is known of every candidate so far, a row each: how it was made, its answers, its times."""
    timed = {row["id"]: row for row in branch.race.metadata["candidates"]} if branch.race else {}
    said = {row["id"]: row for row in branch.screened.metadata["candidates"]} if branch.screened else {}
    return [
        {
            "id": name,
            "latency_ms": None,
            "speedup": None,
            "board": None,
            "left": branch.untimed.get(name),
            **artifact.metadata,
            **said.get(name, {}),
            **timed.get(name, {}),
        }
        for name, artifact in branch.candidates.items()
    ]


def model_of(candidate: Artifact, lowered: Artifact) -> Artifact:
    """The artifact that holds a candidate's file: the lowered one for candidates that run in float."""
    return lowered if candidate.metadata["quantizer"] == "none" else candidate


def shipped_artifact(branch: Branch) -> Artifact:
    """The folder of what ships."""
    assert branch.choice is not None
    assert branch.lowered is not None
    return model_of(branch.candidates[branch.choice.shipped], branch.lowered)


def model_folder(branch: Branch, candidate: str) -> Path:
    """Where a candidate's model lies in the store."""
    assert branch.lowered is not None
    return model_of(branch.candidates[candidate], branch.lowered).path
