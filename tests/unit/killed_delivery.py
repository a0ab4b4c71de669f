"""Run as a program: a delivery killed at each of its file operations in turn, and what the next one finds."""

import os
import shutil
import signal
import sys
from pathlib import Path

from pipeline import delivery

OPERATIONS = ("open", "os.", "ctypes.dlsym", "fcntl.", "shutil.")
PLACE = "run"


def write(new: Path, version: str) -> None:
    """A delivery of several files: its own folders, one that only version A has, and a report."""
    for name in ("tflite/model.tflite", "tflite/evidence/samples-1.npz", "samples/a.npz", "report.json", "report.md"):
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        (new / name).write_text(version)
    if version == "A":
        (new / "pytorch").mkdir()
        (new / "pytorch" / "weights.safetensors").write_text(version)


def deliver(out: Path, version: str) -> None:
    with delivery.delivering(delivery.Place(out, PLACE)) as parcel:
        write(parcel.new, version)
        parcel.drop(["pytorch"])


def content(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != delivery.LISTING)
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def expected(home: Path, version: str) -> dict[str, str]:
    whole = home / f"whole-{version}"
    if not whole.exists():
        whole.mkdir()
        write(whole, version)
    return content(whole) | {"notes.txt": "mine", "mine/x": "mine"}


def dies_at(number: int, out: Path) -> bool:
    """Deliver B in a child that is killed at its operation of that number; False where it has no so many."""
    child = os.fork()
    if child == 0:
        left = [number]

        def count(event: str, _: object) -> None:
            if event.startswith(OPERATIONS):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        deliver(out, "B")
        os._exit(0)
    return os.waitpid(child, 0)[1] != 0


def main(home: Path) -> None:
    first = home / "first"
    (first / "mine").mkdir(parents=True)
    for name in ("notes.txt", "mine/x"):
        (first / name).write_text("mine")
    deliver(first, "A")
    seen, number = set(), 0
    going_on = True
    while going_on:
        number += 1
        out = home / str(number)
        shutil.copytree(first, out)
        going_on = dies_at(number, out)
        with delivery.settled(out):
            found = content(out)
        found.pop(delivery.LOCK, None)
        versions = [version for version in "AB" if found == expected(home, version)]
        assert versions, (number, found)
        seen |= {*versions}
        deliver(out, "C")
        assert content(out) == expected(home, "C"), number
        assert not [path for path in out.glob(".*") if path.name != delivery.LISTING], number
        shutil.rmtree(out)
    assert seen == {"A", "B"}
    print(number)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
