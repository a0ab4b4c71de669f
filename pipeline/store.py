"""Content-addressed results. Written aside, synced, renamed: an entry is whole or absent. Damaged means absent.

Layout below the root: `entries/KEY/` holds `entry.json` and `files/`; `building/` holds what is being written;
`scratch/` what a killed training goes on from; `locks/` one lock a key, so that two runs at once make a result once.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from pipeline.artifact import Artifact, sha256_file, sha256_json
from pipeline.errors import StageError, UsageError

ENTRY = "entry.json"
NEARLY_NOTHING = 64 * 1024  # bytes


@dataclass(frozen=True)
class Store:
    """A folder of results by key."""

    root: Path

    def get(self, key: str) -> Artifact | None:
        """The entry, every byte checked against its digest; a damaged one is removed and None returned."""
        folder = self.root / "entries" / key
        if not folder.is_dir():
            return None
        artifact = _read(folder)
        if artifact is None:
            shutil.rmtree(folder, ignore_errors=True)
        return artifact

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Held while a key is looked up and made; a second run waits here and then finds the entry."""
        folder = self.root / "locks"
        self._make(folder)
        with FileLock(folder / f"{key}.lock"):
            yield

    def put(self, stage: str, key: str, make: Callable[[Path], Mapping[str, Any]]) -> Artifact:
        """Call `make(folder)` and keep what it wrote and returned. The caller holds `lock(key)`.

        Raises StageError when the disk is full; the store is as it was before.
        """
        building = self.root / "building"
        self._make(building)
        for stale in building.glob(f"{key}-*"):  # left by a killed run: we hold its lock, so nobody writes there
            shutil.rmtree(stale, ignore_errors=True)
        aside = building / f"{key}-{uuid.uuid4().hex[:8]}"
        files = aside / "files"
        try:
            files.mkdir(parents=True)
            began = time.perf_counter()
            metadata = dict(make(files))
            seconds = round(time.perf_counter() - began, 3)
            listing = _listing(files)
            record = {"stage": stage, "key": key, "seconds": seconds, "metadata": metadata, "files": listing}
            record["check"] = sha256_json(record)
            (aside / ENTRY).write_text(json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n")
            _sync(aside)
            final = self.root / "entries" / key
            final.parent.mkdir(exist_ok=True)
            shutil.rmtree(final, ignore_errors=True)
            aside.rename(final)
            _sync_folder(final.parent)
        except BaseException as error:
            full = self._full(error)
            shutil.rmtree(aside, ignore_errors=True)
            if full:
                raise StageError(
                    f"{stage}: no space left for results in {self.root}: free some, or run 'deploy store --prune'; "
                    "what was stored before is intact"
                ) from error
            raise
        shutil.rmtree(self.scratch(key), ignore_errors=True)
        return Artifact(stage, key, final / "files", sha256_json(listing), metadata, seconds)

    def scratch(self, key: str) -> Path:
        """Where the making of a result may keep what a killed run goes on from; gone once the result is there."""
        return self.root / "scratch" / key

    def entries(self) -> list[dict[str, Any]]:
        """Every readable entry: stage, key, size_bytes, last_used (seconds since the epoch)."""
        rows = []
        for folder in sorted((self.root / "entries").glob("*")):
            try:
                record = json.loads((folder / ENTRY).read_text())
                size = sum(row["size_bytes"] for row in record["files"].values())
                rows.append(
                    {
                        "stage": record["stage"],
                        "key": record["key"],
                        "size_bytes": size,
                        "last_used": (folder / ENTRY).stat().st_mtime,
                    }
                )
            except (OSError, ValueError, KeyError, TypeError):
                rows.append({"stage": "damaged", "key": folder.name, "size_bytes": 0, "last_used": 0.0})
        return rows

    def remove(self, key: str) -> None:
        """Forget one result; waits for a run that is making it."""
        with self.lock(key):
            shutil.rmtree(self.root / "entries" / key, ignore_errors=True)

    def _full(self, error: BaseException) -> bool:
        """Libraries spell a full disk in many ways (NumPy: "307200 requested and 153568 written"): look at the disk."""
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        return isinstance(error, OSError | StageError) and shutil.disk_usage(self.root).free < NEARLY_NOTHING

    def _make(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"cannot write to the store {self.root}: {error.strerror}; set DEPLOY_STORE to another folder"
            ) from error


def _read(folder: Path) -> Artifact | None:
    try:
        record = json.loads((folder / ENTRY).read_text())
        check = record.pop("check")
        if check != sha256_json(record) or _listing(folder / "files") != record["files"]:
            return None
        os.utime(folder / ENTRY)  # last used, for pruning
        return Artifact(
            record["stage"],
            record["key"],
            folder / "files",
            sha256_json(record["files"]),
            record["metadata"],
            record["seconds"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _listing(files: Path) -> dict[str, dict[str, Any]]:
    return {
        path.relative_to(files).as_posix(): {"sha256": sha256_file(path), "size_bytes": path.stat().st_size}
        for path in sorted(files.rglob("*"))
        if path.is_file()
    }


def _sync(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        _sync_folder(path)


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
