"""Folders of the user's into which we deliver. What is ours there is listed, and nothing else is touched.

A delivery is prepared aside, in the folder itself, and swapped in under the folder's lock. From the journal on it is
decided: a swap that was killed is finished by whoever takes the lock next, one that was killed before is undone. What
is ours and what comes in its place change names one by one, each at once (RENAME_EXCHANGE): readers that take the lock
(`settled`) see one delivery, others may see the names change within a few milliseconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline import earlier, files, locks
from pipeline.artifact import sha256_file
from pipeline.errors import UsageError

LISTING, LOCK, JOURNAL = ".delivered.json", ".delivered.lock", "journal.json"
NEW, OLD = "new", "old"
ASIDE = re.compile(r"\.delivery-[0-9a-f]{12}")
DERIVED = ("__pycache__", ".DS_Store", "Thumbs.db")  # written by who looks at a folder or imports the loader
Listed = Mapping[str, Mapping[str, Any]]  # path below the folder -> what was written there


@dataclass(frozen=True)
class Place:
    """A folder and what is delivered to it: a "run", a "baseline" or "firmware". `option` names it on the command
    line.
    """

    out: Path
    kind: str
    option: str = "--out"

    def check(self, names: Iterable[str]) -> None:
        """Raise UsageError where one of these names is there and is not an earlier delivery of this kind, unchanged;
        and where nothing can be written. While somebody delivers there, `delivering` has to see.
        """
        with _errors(self):
            self.out.mkdir(parents=True, exist_ok=True)
            with locks.unless_busy(self.out / LOCK) as free:
                if free:
                    _settle(self.out)
                    _refuse(self, names, _listed(self))


@dataclass
class Parcel:
    """A delivery that is being prepared: `new` holds what will lie in the folder, `dropped` names what will not."""

    new: Path
    listed: Listed
    dropped: set[str] = field(default_factory=set)

    def drop(self, names: Iterable[str]) -> None:
        """These are not to stay."""
        self.dropped |= set(names)

    def keep_only_new(self) -> None:
        """Nothing of earlier deliveries is to stay."""
        self.drop({path.partition("/")[0] for path in self.listed})


@contextlib.contextmanager
def delivering(place: Place, what: str = "", waiting: locks.Waiting | None = None) -> Iterator[Parcel]:
    """Alone in the folder: the caller fills `parcel.new`, then it is swapped in. An error leaves all as it was.

    Raises UsageError for what is there and not ours, a full disk, and a folder that cannot be written.
    """
    out = place.out
    with _errors(place), _made(out), locks.held(out / LOCK, what, waiting):
        _settle(out)
        aside = out / f".delivery-{uuid.uuid4().hex[:12]}"
        try:
            (aside / NEW).mkdir(parents=True)
            (aside / OLD).mkdir()
            parcel = Parcel(aside / NEW, _listed(place))
            yield parcel
            _decide(place, aside, parcel)
            _finish(out, aside)
        except BaseException as error:
            full = files.is_full(error, out)  # while what filled it is there
            if (aside / JOURNAL).exists():
                _finish(out, aside)  # an interruption must not leave it half
            else:
                shutil.rmtree(aside, ignore_errors=True)
            if full:
                raise UsageError(_no_room(place)) from error
            raise


@contextlib.contextmanager
def _made(out: Path) -> Iterator[None]:
    """The folder is there; one that was made for nothing goes again."""
    there = out.is_dir()
    out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if not there:
            with contextlib.suppress(OSError):
                out.rmdir()
        raise


@contextlib.contextmanager
def settled(out: Path) -> Iterator[None]:
    """While the caller reads nobody delivers, and a swap that was killed is finished. As it is where nobody can write,
    or there is no such folder.
    """
    with contextlib.ExitStack() as stack:
        if out.is_dir():
            with contextlib.suppress(OSError):
                stack.enter_context(locks.held(out / LOCK))
                _settle(out)
        yield


def _decide(place: Place, aside: Path, parcel: Parcel) -> None:
    """Write the journal: what was prepared takes effect from here on."""
    out, new = place.out, aside / NEW
    paths = sorted(new.iterdir(), key=lambda path: (not path.is_dir(), path.name == "report.json", path.name))
    names = [path.name for path in paths]
    dropped = parcel.dropped - {*names}
    _refuse(place, (*names, *dropped), parcel.listed)
    kept = {path: row for path, row in parcel.listed.items() if path.partition("/")[0] not in {*names, *dropped}}
    listing = {"version": 1, "kind": place.kind, "files": kept | _list(new)}
    (new / LISTING).write_text(json.dumps(listing, indent=1, sort_keys=True) + "\n")
    files.sync(new)
    plan = {
        "put": {name: _inode(new / name) for name in (*names, LISTING)},
        "was": {name: _inode(out / name) for name in (*names, LISTING)},
        "drop": {name: _inode(out / name) for name in dropped},
    }
    files.write_whole(aside / JOURNAL, json.dumps(plan))


def _settle(out: Path) -> None:
    """Finish or undo what killed processes left. The caller holds the folder's lock, so nobody is at work there."""
    for aside in _unfinished(out):
        if (aside / JOURNAL).exists():
            _finish(out, aside)
        else:
            shutil.rmtree(aside, ignore_errors=True)


def _unfinished(out: Path) -> list[Path]:
    """What was prepared there and not put in place, or is being so now."""
    ours = {NEW, OLD, JOURNAL, f".{JOURNAL}.deploy-part"}
    found = [path for path in out.glob(".delivery-*") if ASIDE.fullmatch(path.name) and path.is_dir()]
    return [path for path in found if {entry.name for entry in path.iterdir()} <= ours]


def _finish(out: Path, aside: Path) -> None:
    """Do what the journal says, as far as it is not done. A name is done when it leads to what was prepared."""
    plan = json.loads((aside / JOURNAL).read_text())
    for name, made in plan["put"].items():
        there = _inode(out / name)
        if there == made:
            continue
        if there not in (None, plan["was"][name]):  # somebody put something there since
            (out / name).rename(_free(out / name))
        _swap(aside / NEW / name, out / name, aside / OLD / name)
    for name, was in plan["drop"].items():
        if was is not None and _inode(out / name) == was:
            (out / name).rename(aside / OLD / name)
    shutil.rmtree(aside, ignore_errors=True)


def _swap(new: Path, there: Path, old: Path) -> None:
    """`new` takes the name of `there`; what had it is out of the way then."""
    if _inode(there) is None or (_is_file(new) and _is_file(there)):
        new.replace(there)
    elif not _exchange(new, there):
        there.rename(old)
        new.rename(there)


def _exchange(one: Path, other: Path) -> bool:
    """Let two paths change names at once: renameat2(2) of Linux. False where there is no such thing."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


def _free(path: Path) -> Path:
    """A name beside a path that nothing has."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    names = (path.with_name(f"{path.name}.{stamp}{more}") for more in ("", *(f"-{n}" for n in range(1, 1000))))
    return next(name for name in names if _inode(name) is None)


def _listed(place: Place) -> Listed:
    """What is ours there; what versions before this listing delivered is recognised by what it is."""
    try:
        record = json.loads((place.out / LISTING).read_text())
        files_of: Listed = record["files"]
        return files_of if record["kind"] == place.kind else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {path: _row(place.out / path) for path in earlier.ours(place.out, place.kind)}


def _refuse(place: Place, names: Iterable[str], listed: Listed) -> None:
    for name in names:
        found = next(_foreign(place.out / name, place.out, listed), None)
        if found is not None:
            known = found.relative_to(place.out).as_posix() in listed
            why = "was changed since it was delivered" if known else f"is not of an earlier {place.kind} of ours"
            raise UsageError(f"{found} {why}: move it away, or name another folder with {place.option}")


def _foreign(path: Path, out: Path, listed: Listed) -> Iterator[Path]:
    """What is not ours at or below a path."""
    if path.is_dir() and not path.is_symlink():
        for entry in sorted(path.iterdir()):
            if entry.name not in DERIVED:
                yield from _foreign(entry, out, listed)
    elif _inode(path) is not None:
        row = listed.get(path.relative_to(out).as_posix())
        if row is None or path.is_symlink() or not path.is_file() or not _same(path, row):
            yield path


def _same(path: Path, row: Mapping[str, Any]) -> bool:
    """Arrays are measured, and nobody edits them: damaged ones are to be replaced. Of all else the content counts."""
    if path.suffix == ".npz":
        return True
    found = path.stat()
    if found.st_size != row.get("size_bytes"):
        return False
    return found.st_mtime_ns == row.get("mtime_ns") or sha256_file(path) == row.get("sha256")


def _row(path: Path) -> dict[str, Any]:
    found = path.stat()
    return {"size_bytes": found.st_size, "mtime_ns": found.st_mtime_ns, "sha256": sha256_file(path)}


def _list(folder: Path) -> dict[str, dict[str, Any]]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): _row(path) for path in found}


def _inode(path: Path) -> int | None:
    try:
        return path.lstat().st_ino
    except OSError:
        return None


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


@contextlib.contextmanager
def _errors(place: Place) -> Iterator[None]:
    """What the system says of the folder as one line; what it says of other places passes through."""
    try:
        yield
    except OSError as error:
        if files.is_full(error, place.out):
            raise UsageError(_no_room(place)) from error
        out = place.out.resolve()
        at = Path(error.filename).resolve() if isinstance(error.filename, str) else out
        if not (at.is_relative_to(out) or out.is_relative_to(at)):
            raise
        why = error.strerror or " ".join(str(error).split())[:200]
        raise UsageError(
            f"cannot write to {error.filename or place.out}: {why}; name another folder with {place.option}"
        ) from error


def _no_room(place: Place) -> str:
    return (
        f"no space left in {place.out}: free some, or name another folder with {place.option}; what was delivered "
        "before is intact"
    )
