"""Content-addressed results. Written aside, synced, renamed: an entry is whole or absent. Damaged means absent.

Layout below the root: `entries/KEY/` holds `entry.json` and `files/`; `building/` holds what is being written;
`scratch/` what a killed training goes on from; `locks/` one lock a key while it is held, so that two runs at once make
a result once, and one a run; `looks/` which artifacts were judged on which gate split. The store is its user's alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import files as whole
from pipeline import locks
from pipeline.artifact import Artifact, sha256_file, sha256_json
from pipeline.errors import StageError, UsageError

ENTRY = "entry.json"
ENTRIES, BUILDING, SCRATCH, LOCKS, LOOKS = LAYOUT = ("entries", "building", "scratch", "locks", "looks")
KEY = 64  # characters


@dataclass(frozen=True)
class Store:
    """A folder of results by key."""

    root: Path

    def get(self, key: str) -> Artifact | None:
        """The entry, every byte checked against its digest; a damaged one is removed and None returned.

        Raises UsageError for one of another user's.
        """
        folder = self.root / ENTRIES / key
        if not folder.is_dir():
            return None
        for path in (self.root, folder, folder / ENTRY):
            _own(path)
        artifact = _read(folder)
        if artifact is None:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            shutil.rmtree(self.scratch(key), ignore_errors=True)  # of a run that was killed when it had all
        return artifact

    @contextmanager
    def lock(self, key: str, what: str = "", waiting: locks.Waiting | None = None) -> Iterator[None]:
        """Held while a key is looked up and made; a second run waits here and then finds the entry.

        `what` is told to who waits; `waiting` is called with who holds it where it is not free at once.
        """
        with locks.held(self._folder(LOCKS) / f"{key}.lock", what, waiting):
            yield

    @contextmanager
    def used(self, what: str = "") -> Iterator[None]:
        """While a run uses results: what it has read or made since it began is not pruned. What killed runs left half
        made is removed first.
        """
        self._clear_building()
        with locks.held(self._folder(LOCKS) / f"run-{os.getpid()}-{uuid.uuid4().hex[:8]}.lock", what):
            yield

    def put(
        self,
        stage: str,
        key: str,
        make: Callable[[Path], Mapping[str, Any]],
        of: Mapping[str, str] | None = None,
    ) -> Artifact:
        """Call `make(folder)` and keep what it wrote and returned. The caller holds `lock(key)`. `of`: for people, the
        "recipe" and the "title" of the stage.

        Raises StageError when the disk is full; the store is as it was before.
        """
        building = self._folder(BUILDING)
        self._folder(SCRATCH)
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
            record |= {"of": dict(of or {})}
            record["check"] = sha256_json(record)
            (aside / ENTRY).write_text(json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n")
            whole.sync(aside)
            final = self._folder(ENTRIES) / key
            shutil.rmtree(final, ignore_errors=True)
            aside.rename(final)
            whole.sync_one(final.parent)
        except BaseException as error:
            full = whole.is_full(error, self.root)
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
        return self.root / SCRATCH / key

    def entries(self) -> list[dict[str, Any]]:
        """Every entry, damaged ones too: recipe, stage, title, key, size_bytes, last_used (seconds since the epoch)."""
        if self.root.exists():
            _own(self.root)
        return [_entry(folder) for folder in sorted((self.root / ENTRIES).glob("*"))]

    def leftovers(self) -> list[dict[str, Any]]:
        """What lies beside the entries: kind ("scratch", "building", "locks"), key, size_bytes, last_used, in_use."""
        rows = []
        for kind in (SCRATCH, BUILDING, LOCKS):
            for path in sorted((self.root / kind).glob("*")):
                key, files = path.stem if path.stem.startswith("run-") else path.name[:KEY], list(_below(path))
                rows.append(
                    {
                        "kind": kind,
                        "key": key,
                        "size_bytes": sum(map(_size, files)),
                        "last_used": max(map(_changed, files)),
                        "in_use": locks.busy(self.root / LOCKS / f"{key}.lock"),
                    }
                )
        return rows

    def prune(self, before: float) -> list[dict[str, Any]]:
        """Remove what was not used since `before` (seconds since the epoch), half-made results and free locks of any
        age; nothing that a run uses. Returns the rows of what went, as `entries` and `leftovers` give them.
        """
        began = self._oldest_run()
        limit = min(before, began - 1e-6) if began is not None else before
        gone = [row for row in self.entries() if row["last_used"] <= limit and self._remove(row["key"], limit)]
        for row in self.leftovers():
            old = row["last_used"] <= before or row["kind"] != SCRATCH
            if old and not row["in_use"] and self._remove_leftover(row):
                gone.append(row)
        return gone

    def _remove(self, key: str, limit: float) -> bool:
        """Forget one result, unless somebody is making or has just used it."""
        with locks.unless_busy(self._folder(LOCKS) / f"{key}.lock") as free:
            folder = self.root / ENTRIES / key
            if not free or _entry(folder)["last_used"] > limit:
                return False
            shutil.rmtree(folder, ignore_errors=True)
        return True

    def _remove_leftover(self, row: Mapping[str, Any]) -> bool:
        with locks.unless_busy(self._folder(LOCKS) / f"{row['key']}.lock") as free:  # a free lock goes by this alone
            for path in (self.root / row["kind"]).glob(f"{row['key']}*") if free and row["kind"] != LOCKS else ():
                shutil.rmtree(path, ignore_errors=True)
        return free

    def _clear_building(self) -> None:
        """Remove half-made results and locks of runs that were killed."""
        for row in self.leftovers():
            if row["kind"] != SCRATCH and not row["in_use"]:
                self._remove_leftover(row)

    def _oldest_run(self) -> float | None:
        """When the first of the runs began that use the store now."""
        files = [file for file in (self.root / LOCKS).glob("run-*.lock") if locks.busy(file)]
        return min((_changed(file) for file in files), default=None)

    def _folder(self, name: str) -> Path:
        """A folder of the store, made where it is not there, for its user alone. Raises UsageError."""
        try:
            if not self.root.exists():
                self.root.parent.mkdir(parents=True, exist_ok=True)
                self.root.mkdir(mode=0o700, exist_ok=True)
            _own(self.root)
            wide = stat.S_IMODE(self.root.stat().st_mode) & 0o077
            if wide and {path.name for path in self.root.iterdir()} <= {*LAYOUT}:
                self.root.chmod(0o700)  # of an earlier version; a folder that holds other things keeps its mode
            folder = self.root / name
            folder.mkdir(mode=0o700, exist_ok=True)
            _own(folder)
        except OSError as error:
            raise UsageError(
                f"cannot write to the store {self.root}: {error.strerror}; set DEPLOY_STORE to another folder"
            ) from error
        return folder


def _own(path: Path) -> None:
    """Raise UsageError for what is another user's: what it holds would be run."""
    with contextlib.suppress(FileNotFoundError):
        owner = path.stat().st_uid
        if owner != os.geteuid():
            raise UsageError(
                f"{path} belongs to another user (number {owner}): set DEPLOY_STORE to a folder of your own"
            )


def _entry(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / ENTRY).read_text())
        of = record.get("of", {})
        return {
            "recipe": of.get("recipe", ""),
            "stage": record["stage"],
            "title": of.get("title", record["stage"]),
            "key": record["key"],
            "size_bytes": sum(row["size_bytes"] for row in record["files"].values()),
            "last_used": _changed(folder / ENTRY),
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        row = {"recipe": "", "stage": "damaged", "title": "damaged", "key": folder.name}
        return {**row, "size_bytes": 0, "last_used": 0.0}


def _below(path: Path) -> Iterator[Path]:
    """A path and all files and folders below it. Other runs may remove them meanwhile: Path.rglob breaks then."""
    yield path
    for folder, folders, files in os.walk(path):
        yield from (Path(folder, name) for name in (*folders, *files))


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size if path.is_file() else 0
    except OSError:
        return 0


def _changed(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0


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
