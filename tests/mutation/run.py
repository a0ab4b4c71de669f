"""Which mutants no test catches: `make test-mutation [FILES=calibration/qparams.py] [EACH=12] [SEED=0]`.

Works in a copy below build/mutation, with the fast tests that import a file, each mutant only with those that call the
function in question. What was tried is kept there and not tried again while neither the file nor its tests change.
Survivors that cannot change an answer are listed, with the reason, in explained.json.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import itertools
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline import source
from tests.mutation import mutants
from tests.mutation.mutants import Mutant

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
WORK = ROOT / "build" / "mutation"
COPY, RESULTS = WORK / "copy", WORK / "results.jsonl"
FOLDERS = ("calibration", "pipeline/release", "pipeline/compression")
PACKAGES = ("calibration", "pipeline", "targets", "tests")
CAUGHT = (1, 2, 4, -1)  # pytest's exit codes: a test failed; a module did not load; a test was not found so; too long
AT_MOST_S = 45.0  # of tests for one mutant
ARGUMENTS = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow"]
ARGUMENTS += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of libraries that are loaded before


def main() -> int:
    """Exit code 1 where a survivor is not explained."""
    options = _options()
    _prepare()
    files = options.files or [str(path.relative_to(ROOT)) for path in _files()]
    known = {row["key"]: row for row in _read(RESULTS)}
    rows = []
    for file in files:
        try:
            rows += _file(file, options.each, options.seed, known)
        finally:
            _write(file, (ROOT / file).read_text())
    return _told(rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", help="paths from the root; default: all that are looked at")
    parser.add_argument("--each", type=int, default=12, help="mutants of each file, drawn by the seed; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _files() -> list[Path]:
    folders = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.py"))]
    return [path for path in (*folders, ROOT / "targets" / "onnx_placement.py") if path.name != "__init__.py"]


def _prepare() -> None:
    """A fresh copy of the packages, without compiled files."""
    shutil.rmtree(COPY, ignore_errors=True)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, COPY / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "CHANGELOG.md", "constraints.txt"):
        shutil.copy(ROOT / name, COPY / name)
    os.environ.update(PYTHONPATH=str(COPY), OMP_NUM_THREADS="1")


def _file(file: str, each: int, seed: int, known: dict[str, Any]) -> list[dict[str, Any]]:
    tests = _tests(file)
    seen = _seen(tests)
    state = hashlib.sha256("".join((ROOT / name).read_text() for name in tests).encode()).hexdigest()[:16]
    found = mutants.of((ROOT / file).read_text())
    drawn = found if not each else random.Random(f"{seed} {file}").sample(found, min(each, len(found)))
    rows = []
    for mutant in sorted(drawn, key=lambda one: one.line):
        key = f"{file} {mutant.key} {state}"
        if key not in known:
            known[key] = _tried(file, mutant, seen) | {
                "key": key,
                "file": file,
                "line": mutant.line,
                "diff": mutant.diff,
            }
            with RESULTS.open("a") as stream:
                stream.write(json.dumps(known[key]) + "\n")
            print(f"{known[key]['verdict']:>9}  {file}:{mutant.line}  {mutant.kind}", flush=True)
        rows.append(known[key])
    return rows


def _tests(file: str) -> list[str]:
    """Test files that import a module; where none does, those that import what imports it."""
    module = file.removesuffix(".py").replace("/", ".")
    direct = _importing({module})
    if direct:
        return direct
    ours = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for package in PACKAGES[:-1]
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    }
    return _importing({module, *(name for name, path in ours.items() if module in source.imports(path, name))})


def _importing(modules: set[str]) -> list[str]:
    found = []
    for path in sorted(
        path for folder in ("unit", "properties") for path in (ROOT / "tests" / folder).glob("test_*.py")
    ):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        reached = source.reachable(name, [ROOT], ("tests",))  # a test may begin from another one's networks
        if any(modules & set(source.imports(one, test)) for test, one in reached.items()):
            found.append(str(path.relative_to(ROOT)))
    return found


def _seen(tests: list[str]) -> dict[str, Any]:
    """Which test calls which function, found by one run of the tests as they are, which is kept."""
    ours = "".join(path.read_text() for path in _files())
    state = hashlib.sha256("".join([ours, *((ROOT / name).read_text() for name in tests)]).encode()).hexdigest()[:16]
    folder = WORK / f"seen-{hashlib.sha256(ours.encode()).hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    kept = {name: folder / f"{hashlib.sha256((ROOT / name).read_bytes()).hexdigest()[:16]}.json" for name in tests}
    if missing := [name for name in tests if not kept[name].exists()]:
        (told := WORK / f"told-{state}").mkdir(exist_ok=True)
        os.environ["MUTATION_SEEN"] = str(told)
        code = _pytest([arg for arg in ARGUMENTS if arg != "-x"] + ["-p", "tests.mutation.seen", *missing], 3600.0)
        if code not in (0, 1, 5):  # 5: none of them is quick
            raise RuntimeError(f"pytest ended with {code} for {', '.join(missing)}: see {WORK / 'pytest.log'}")
        for name in missing:
            made = told / name.replace("/", "-")
            if not made.exists():  # nothing in it is quick
                made.write_text(json.dumps({"lines": {}, "seconds": {}}))
            made.rename(kept[name])
    seen: dict[str, Any] = {"lines": {}, "seconds": {}}
    for path in kept.values():
        for part, found in json.loads(path.read_text()).items():
            seen[part] |= found
    return seen


def _chosen(file: str, mutant: Mutant, seen: dict[str, Any]) -> list[str]:
    """Tests that call the mutant's function, the quickest first, as far as time allows; outside of any, the file's."""
    place = f"{file}:{mutant.function}" if mutant.function else f"{file}:"
    hit = {name for name, lines in seen["lines"].items() if any(_is(line, place) for line in lines)}
    tests = [name for name in seen["seconds"] if name in hit or name.partition("::")[0] in hit]
    chosen, left = [], AT_MOST_S
    for name in sorted(tests, key=seen["seconds"].__getitem__):
        left -= seen["seconds"][name]
        if chosen and left < 0:
            break
        chosen.append(name)
    return chosen


def _is(line: str, place: str) -> bool:
    return line.startswith(place) if place.endswith(":") else line == place


def _tried(file: str, mutant: Mutant, seen: dict[str, Any]) -> dict[str, Any]:
    tests = _chosen(file, mutant, seen)
    if not tests:
        return {"verdict": "survived", "tests": 0}
    _write(file, mutant.text)
    needed = sum(seen["seconds"][name] for name in tests)
    code = _pytest([*ARGUMENTS, *tests], 60.0 + 5 * needed)
    if code not in (0, *CAUGHT):
        raise RuntimeError(f"pytest ended with {code} for {file}:{mutant.line}: see {WORK / 'pytest.log'}")
    return {"verdict": "survived" if code == 0 else "caught", "tests": len(tests)}


_TICKS = itertools.count(1_000_000_000)


def _write(file: str, text: str) -> None:
    """Into the copy, at a time of its own: what Python compiled is another's where time or size differ."""
    (COPY / file).write_text(text)
    moment = next(_TICKS)
    os.utime(COPY / file, (moment, moment))


def _pytest(arguments: list[str], limit_s: float) -> int:
    """Exit code of pytest in a child that has the libraries loaded; -1 beyond the limit, which a mutant may cause."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(_in_child(arguments))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(99)  # whatever it was, this copy of the process ends here
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -1


def _in_child(arguments: list[str]) -> int:
    os.setpgid(0, 0)
    os.chdir(COPY)
    sys.path[:] = [str(COPY), *(path for path in sys.path if Path(path or ".").resolve() != ROOT)]
    sys.meta_path[:] = [
        finder for finder in sys.meta_path if "frozen" in repr(finder)
    ]  # not what finds our own packages
    for name in [name for name in sys.modules if name.partition(".")[0] in PACKAGES]:
        del sys.modules[name]
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or not str(spec.origin).startswith(str(COPY)):
            raise RuntimeError(f"'{package}' is not the copy's, but {spec and spec.origin}")
    log = os.open(WORK / "pytest.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    import pytest

    return int(pytest.main(arguments))


def _told(rows: Iterable[dict[str, Any]]) -> int:
    """Print the survivors and the figure."""
    rows = list(rows)
    explained = json.loads((HERE / "explained.json").read_text())
    open_ones, known = [], 0
    for row in rows:
        if row["verdict"] != "survived":
            continue
        reason = next(
            (one["why"] for one in explained if one["file"] == row["file"] and one["change"] in row["diff"]), ""
        )
        known += bool(reason)
        if not reason:
            open_ones.append(row)
        print(f"\n{row['file']}:{row['line']}  {reason or 'SURVIVED'}, {row['tests']} tests\n{row['diff']}")
    caught = len(rows) - known - len(open_ones)
    share = 100 * caught / max(1, len(rows) - known)
    print(f"{len(rows)} mutants: {caught} caught, {known} explained, {len(open_ones)} survived: {share:.1f} % caught")
    return 1 if open_ones else 0


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


if __name__ == "__main__":
    for library in ("numpy", "scipy.stats", "torch", "torch_pruning", "onnx", "onnxruntime", "pydantic", "hypothesis"):
        __import__(library)  # once, in place of once for each mutant
    sys.exit(main())
