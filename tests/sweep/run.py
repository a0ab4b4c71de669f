"""`make test-sweep`: every form on every target, and drawn networks; resumable. `--ops a,b --targets x,y --each N`.

What ended how lies in build/sweep/*.jsonl, a line each, keyed by the form, the packages' versions and our code's
digest: a second run does what is lacking. Prints what it covered, and each fault.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import random
import resource
import selectors
import subprocess
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "sweep"
TARGETS = ("openvino", "tflite", "onnxruntime")
SIZE = 24  # forms in one network
MEMORY = 16 * 2**30  # bytes of address space of a worker
PATIENCE = 900  # seconds without a word before a worker is ended
GOOD = ("right", "refused")
ROUND = 6  # forms of a row at a time
AGE = 30  # networks after which a worker is replaced: runtimes leak


SHARED = (
    "targets/base.py",
    "targets/session.py",
    "targets/agent.py",
    "pipeline/stages/export.py",
    "pipeline/op_table.py",
    "targets/program_forms.py",
)


@cache
def key(target: str) -> str:
    """The versions of what judges a form on a target: its packages, and a digest of its code and of what it shares."""
    from targets import registry

    made = registry.load(target)
    own = Path(sys.modules[type(made).__module__].__file__ or "")
    files = [ROOT / name for name in SHARED]
    files += own.parent.rglob("*.py") if own.name == "__init__.py" else [own]
    files += (ROOT / "targets").glob(f"{made.capabilities.program}*.py")
    files += (ROOT / "targets").glob(f"{target}*.py")
    found = hashlib.sha256(" ".join(f"{p} {version(p)}" for p in (*made.packages, "torch")).encode())
    return syntax(sorted(set(files)), found)


def syntax(files: Sequence[Path], found: Any) -> str:
    """A few letters for what these files do: no comment and no line break changes them."""
    for path in files:
        found.update(ast.dump(ast.parse(path.read_text())).encode())
    return str(found.hexdigest()[:12])


def cases_of(op: str) -> list[Any]:
    """A row's forms, kept in a file: PyTorch has to be asked for each."""
    import torch

    from .forms import Case, cases

    files = [Path(__file__).with_name(name) for name in ("forms.py", "values.py", "network.py")]
    state = syntax(files, hashlib.sha256(torch.__version__.encode()))
    path = BUILD / "forms" / state / f"{op}.json"
    if not path.exists():
        found = [asdict(case) for case in cases(op)]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".part").write_text(json.dumps(found, indent=1))
        path.with_suffix(".part").replace(path)
    return [Case(**row) for row in json.loads(path.read_text())]


def done(name: str = "forms") -> dict[tuple[str, str, str], dict[str, Any]]:
    """(target, form, key) -> how it ended, of all runs so far."""
    path = BUILD / f"{name}.jsonl"
    rows = (json.loads(line) for line in path.read_text().splitlines()) if path.exists() else ()
    return {(row["target"], row["form"], row["key"]): row for row in rows}


# ---------------------------------------------------------------------------------------------------------- workers


class Worker:
    """A process that judges networks of forms, with a limit on its memory."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.sweep.run", "--worker"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(BUILD / "worker.log").open("a"),
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"},
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
        )
        self.age = 0

    def ask(self, cases: Sequence[Any], targets: Sequence[str]) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps([[asdict(c) for c in cases], list(targets)]) + "\n")
        self.process.stdin.flush()
        self.age += 1

    def answer(self) -> list[dict[str, Any]] | None:
        """Its next line; None where the process died or says nothing."""
        assert self.process.stdout
        with selectors.DefaultSelector() as ready:
            ready.register(self.process.stdout, selectors.EVENT_READ)
            line = self.process.stdout.readline() if ready.select(PATIENCE) else ""
        return json.loads(line) if line.strip() else None

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def worker() -> None:
    """Judge what comes in, a line each, until there is no more."""
    from .forms import Case
    from .judge import Judge

    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        rows, targets = json.loads(line)
        with tempfile.TemporaryDirectory(prefix="sweep-") as folder:
            ends = Judge(Path(folder) / "net", targets).judge([Case(**row) for row in rows])
        told = [{"op": e.case.op, "form": e.case.shown, "target": e.target, "end": e.end, "why": e.why} for e in ends]
        answers.write(json.dumps(told) + "\n")


def judged(cases: Sequence[Any], targets: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Ends of these forms on these targets by one worker after the other; one that dies is halved down to the form."""
    waiting, running = deque(cases[i : i + SIZE] for i in range(0, len(cases), SIZE)), Worker()
    while waiting:
        part = waiting.popleft()
        running.ask(part, targets)
        found = running.answer()
        if found is not None:
            yield from found
        elif len(part) > 1:
            waiting.extendleft([part[len(part) // 2 :], part[: len(part) // 2]])
        else:
            why = "the process died, or said nothing for a quarter of an hour"
            yield from (
                {"op": part[0].op, "form": part[0].shown, "target": t, "end": "fault", "why": why} for t in targets
            )
        if found is None or running.age >= AGE:
            running.close()
            running = Worker()
    running.close()


# ------------------------------------------------------------------------------------------------------------ sweep


def in_rounds(ops: Sequence[str], each: int) -> list[Any]:
    """The rows' forms, a few of each row, then a few more: what was seen is even, whenever it is stopped.

    `each`: so many of each row at most, 0 for all. The first form of a row comes first, the others in a seeded order.
    """
    found: list[list[Any]] = []
    for op in ops:
        first, *others = cases_of(op) or [None]
        random.Random(op).shuffle(others)
        found.append([case for case in (first, *others) if case is not None][: each or None])
    longest = max(map(len, found), default=0)
    return [case for start in range(0, longest, ROUND) for forms in found for case in forms[start : start + ROUND]]


def sweep(forms: Sequence[Any], targets: Sequence[str], older: bool = False) -> list[dict[str, Any]]:
    """How these forms end; what was judged before with the same code and tools is taken from the file.

    `older`: what ended right, or refused, with other code is taken too: for work on what did not.
    """
    BUILD.mkdir(parents=True, exist_ok=True)
    known, keys, every = done(), {target: key(target) for target in targets}, []
    if older:
        known = {(t, form, keys.get(t, "")): row for (t, form, _), row in known.items() if row["end"] in GOOD} | known
    waiting: dict[tuple[str, ...], list[Any]] = {}
    for case in forms:
        every += [known[t, case.shown, keys[t]] for t in targets if (t, case.shown, keys[t]) in known]
        lacking = tuple(t for t in targets if (t, case.shown, keys[t]) not in known)
        if lacking:
            waiting.setdefault(lacking, []).append(case)
    print(f"{len(forms)} forms, {len(every)} cases known", flush=True)
    for lacking, cases in waiting.items():
        for row in judged(cases, lacking):
            row["key"] = keys[row["target"]]
            every.append(row)
            with (BUILD / "forms.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
            if len(every) % 100 == 0:
                print(
                    f"{len(every)} of {len(forms) * len(targets)} {dict(Counter(r['end'] for r in every))}", flush=True
                )
    return every


def covered(rows: Sequence[dict[str, Any]]) -> str:
    """What a run saw, in words, faults last."""
    lines = []
    for target in dict.fromkeys(row["target"] for row in rows):
        ends = Counter(row["end"] for row in rows if row["target"] == target)
        lines.append(f"{target}: {sum(ends.values())} cases, " + ", ".join(f"{n} {e}" for e, n in ends.most_common()))
    faults = [f"FAULT {r['target']} {r['form']}: {r['why']}" for r in rows if r["end"] == "fault"]
    return "\n".join([f"{len(rows)} cases of {len({r['op'] for r in rows})} ops", *lines, *faults])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", action="store_true")
    parser.add_argument("--ops", default="")
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--table", action="store_true", help="write FORMS.md from what was seen so far, and no more")
    parser.add_argument("--older", action="store_true", help="take good ends from before the last changes, too")
    parser.add_argument("--each", type=int, default=0, help="so many forms of each op at most; 0: all")
    told = parser.parse_args()
    if told.worker:
        worker()
        return 0
    from . import forms, table

    targets = told.targets.split(",")
    every = forms.rows()
    ops = told.ops.split(",") if told.ops else every
    found = [] if told.table else sweep(in_rounds(ops, told.each), targets, told.older)
    last = {(target, form): row for (target, form, _), row in done().items()}
    table.FILE.write_text(table.write({op: len(cases_of(op)) for op in every}, list(last.values()), TARGETS))
    print(covered(found or list(last.values())))
    return any(row["end"] == "fault" for row in found)


if __name__ == "__main__":
    sys.exit(main())
