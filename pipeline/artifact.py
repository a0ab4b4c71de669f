"""A stored result: a folder of files, its digest, and what its stage said about it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Artifact:
    """`digest` covers the files' names and contents only, so equal results are equal inputs for what follows."""

    stage: str
    key: str
    path: Path
    digest: str
    metadata: Mapping[str, Any]
    seconds: float


def canonical_json(value: object) -> str:
    """One spelling for one value; NaN is refused, since it never equals itself."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256_json(value: object) -> str:
    """Digest of a JSON-able value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """Digest of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
