"""The stages, one file each: plain functions from input folders and settings to a folder of files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Emit = Callable[[Mapping[str, Any]], None]


def silent(event: Mapping[str, Any]) -> None:
    """An `Emit` for callers who do not listen."""


@dataclass(frozen=True)
class Job:
    """What a stage gets. It reads `inputs` (role -> folder), writes below `out`, and returns its metadata.

    `settings` is JSON-able, part of the stage's key, and complete: defaults are already filled in. `user` names the
    user's code where a stage needs it: {"model": "net:build", "folder": "/abs/path/of/recipe"}; it is NOT part of the
    key by itself (the digest of the user's source is). `emit` takes progress events such as
    {"event": "progress", "done": 3, "total": 10, "loss": .., "metric": .., "left_s": ..}. `scratch` is a folder of its
    own that outlives a killed run until the stage is done; None where nothing outlives it.
    """

    stage: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, Path]
    out: Path
    seed: int
    user: Mapping[str, str] = field(default_factory=dict)
    emit: Emit = silent
    scratch: Path | None = None


Stage = Callable[[Job], dict[str, Any]]
