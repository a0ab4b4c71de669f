"""Mutated inputs, each given to the command line in a process of its own: `python -m tests.fuzz.run --cases 2000`.

A case is its number and the seed: the same on every machine. What it ended with goes to build/fuzz/results.jsonl, from
which a run that was stopped goes on. At the end: how many of each kind, and every case that ended wrongly, with the
command that makes it again.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.fuzz import corpus, kinds

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("FUZZ_BUILD") or ROOT / "build" / "fuzz")
LIMIT_S, LIMIT_BYTES, LONGEST_LINE = 120, 2 << 30, 1000
MADE = ".made"
FRESH = 25  # each so many cases run in a Python of their own, the others in a fork of one that has imported much
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Case:
    """One mutated input and the command that reads it."""

    number: int
    kind: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Ended:
    """What became of it. `problems` is empty where all is well."""

    number: int
    kind: str
    code: int
    seconds: float
    peak_bytes: int
    problems: list[str]


def case(number: int, seed: int, here: Path, keys: list[str]) -> Case:
    """The case of that number, laid out in `here`, a copy of the corpus."""
    rng = random.Random(f"{seed}-{number}")
    names = [name for name, kind in kinds.KINDS.items() for _ in range(kind.weight)]
    name = names[number % len(names)]
    kind = kinds.KINDS[name]
    arguments = [part.format(here=here) for part in rng.choice(kind.commands)]
    if name == "set":
        arguments += ["--set", kinds.setting(keys, rng)]
    else:
        file = here / kind.file
        file.write_bytes(rng.choice(kind.mutate)(file.read_bytes(), rng))
    recipe = here / "deploy.toml"
    for old, new in (("all.npz", kind.data), ("float.safetensors", kind.checkpoint)):
        if new:
            recipe.write_text(recipe.read_text().replace(old, new))
    return Case(number, name, tuple(arguments))


def run(one: Case, here: Path, store: Path, fresh: bool) -> Ended:
    """The command in `here`, ended after LIMIT_S with all that it started."""
    began = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        pid = _start(one, here, store, out.fileno(), errors.fileno(), fresh)
        status, usage, late = _wait(pid, began)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        said = []
        for stream in (out, errors):
            stream.seek(0)
            said.append(stream.read(1 << 20).decode(errors="replace"))
    code, peak_bytes = os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024
    problems = list(_problems(one, code, said[0], said[1], peak_bytes, late))
    return Ended(one.number, one.kind, code, round(time.monotonic() - began, 2), peak_bytes, problems)


def _start(one: Case, here: Path, store: Path, out: int, errors: int, fresh: bool) -> int:
    """The process that runs the command, leader of a group of its own."""
    words = ["deploy", *one.arguments]
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        os.chdir(here)
        os.environ.update(DEPLOY_STORE=str(store), PYTHONPATH=str(ROOT), COLUMNS="100")
        for number, to in ((0, os.open(os.devnull, os.O_RDONLY)), (1, out), (2, errors)):
            os.dup2(to, number)
        if fresh:
            script = f"import sys; sys.argv = {words!r}; from pipeline.cli import main; main()"
            os.execv(sys.executable, [sys.executable, "-c", script])
        sys.argv = words
        sys.path.insert(0, "")
        from pipeline.cli import main

        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _wait(pid: int, began: float) -> tuple[int, resource.struct_rusage, bool]:
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            return status, usage, False
        if time.monotonic() - began > LIMIT_S:
            os.killpg(pid, signal.SIGKILL)
            _, status, usage = os.wait4(pid, 0)
            return status, usage, True
        time.sleep(0.005)


def _problems(one: Case, code: int, out: str, errors: str, peak_bytes: int, late: bool) -> Iterator[str]:
    right = kinds.KINDS[one.kind].codes
    if late:
        yield f"did not end in {LIMIT_S} s"
        return
    if code not in right:
        yield f"exit code {code}, right are {sorted(right)}"
    if "Traceback (most recent call last)" in out + errors:
        yield "a traceback"
    if (
        code and code not in (1, 3) and not re.search(r"^deploy: .", errors, re.M) and one.kind != "device"
    ):  # its row does
        yield "no line that says why"
    if CONTROL.search(out + errors):
        yield "control characters on the terminal"
    if any(len(line) > LONGEST_LINE for line in errors.splitlines()):
        yield "a message of more than a line"
    if peak_bytes > LIMIT_BYTES:
        yield f"{peak_bytes >> 20} MiB of memory"


def recipe_keys() -> list[str]:
    """Every key of a recipe, as --set names it."""
    from pipeline import recipe as recipes

    schema = recipes.Recipe.model_json_schema()
    found: list[str] = []

    def walk(table: dict[str, object], prefix: str) -> None:
        for name, row in table.get("properties", {}).items():  # type: ignore[attr-defined]
            reference = row.get("$ref") or next(
                (part.get("$ref") for part in row.get("anyOf", ()) if "$ref" in part), None
            )
            if reference:
                walk(schema["$defs"][reference.rpartition("/")[2]], f"{prefix}{name}.")
            else:
                found.append(prefix + name)

    walk(schema, "")
    return found


def warm() -> None:
    """Import what most commands need, so that a fork has it."""
    import numpy  # noqa: F401
    import onnx  # noqa: F401
    import safetensors.torch  # noqa: F401
    import torch

    from pipeline import api, cli, console, inspection  # noqa: F401

    torch.set_num_threads(1)


def work(numbers: Sequence[int], seed: int, sound: Path, results: Path) -> None:
    """Run these cases one after the other; a line for each to `results`."""
    warm()
    keys = recipe_keys()
    with results.open("a", buffering=1) as stream:
        for number in numbers:
            with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
                here = Path(folder) / "user"
                shutil.copytree(sound, here, ignore=shutil.ignore_patterns(".deploy", "__pycache__"))
                ended = run(case(number, seed, here, keys), here, sound / ".deploy", number % FRESH == 0)
            stream.write(json.dumps(asdict(ended)) + "\n")


def sound_inputs() -> Path:
    """The corpus, made once for the product's code as it is."""
    from pipeline import source

    digest = source.digest("tests.fuzz.corpus", [ROOT])[:8]
    folder = BUILD / f"corpus-{digest}"
    if not (folder / MADE).is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        corpus.make(folder)  # where it stays: its report names the place
        (folder / MADE).touch()
    return folder


def read(results: Path) -> dict[int, Ended]:
    """Of the cases that have ended, by number."""
    if not results.is_file():
        return {}
    rows = (Ended(**json.loads(line)) for line in results.read_text().splitlines() if line.endswith("}"))
    return {row.number: row for row in rows}


def report(ended: dict[int, Ended], seed: int) -> int:
    """Print what was covered and what is wrong; the number of cases that are."""
    rows = list(ended.values())
    print(f"{len(rows):,} mutated inputs, seed {seed}")
    for kind in kinds.KINDS:
        of_kind = [row for row in rows if row.kind == kind]
        codes = collections.Counter(row.code for row in of_kind)
        print(f"  {kind:12} {len(of_kind):5}  exit codes {dict(sorted(codes.items()))}")
    wrong = [row for row in rows if row.problems]
    for row in wrong:
        again = f"python -m tests.fuzz.run --only {row.number} --seed {seed}"
        print(f"  wrong: {row.kind}: {'; '.join(row.problems)}: {again}")
    most = max((row.peak_bytes for row in rows), default=0) >> 20
    print(f"{len(wrong)} wrong; slowest {max((row.seconds for row in rows), default=0):.0f} s, largest {most} MiB")
    return len(wrong)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", type=int, help="run this case alone and show what it says, in a folder that is kept")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    sound = sound_inputs()
    if asked.only is not None:
        return _show(asked.only, asked.seed, sound)
    results = BUILD / f"results-{asked.seed}-{sound.name.rpartition('-')[2]}"
    parts = [results.with_name(f"{results.name}-{index}.jsonl") for index in range(asked.workers)]
    if asked.part is not None:
        index = int(asked.part)
        done = read(parts[index])
        work([n for n in range(index, asked.cases, asked.workers) if n not in done], asked.seed, sound, parts[index])
        return 0
    own = [sys.executable, "-m", "tests.fuzz.run", *sys.argv[1:], "--part"]
    single = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    workers = [subprocess.Popen([*own, str(index)], cwd=ROOT, env=single) for index in range(asked.workers)]
    failed = [worker.wait() for worker in workers]
    ended = {number: row for part in parts for number, row in read(part).items()}
    return 1 if report(ended, asked.seed) or any(failed) else 0


def _show(number: int, seed: int, sound: Path) -> int:
    here = Path(tempfile.mkdtemp(prefix=f"fuzz-{number}-")) / "user"
    shutil.copytree(sound, here, ignore=shutil.ignore_patterns(".deploy", "__pycache__"))
    one = case(number, seed, here, recipe_keys())
    print(f"cd {here} && DEPLOY_STORE={sound / '.deploy'} deploy {' '.join(one.arguments)!r}")
    done = subprocess.run(
        [sys.executable, "-c", "from pipeline.cli import main; main()", *one.arguments, "-v"][: 3 + len(one.arguments)],
        cwd=here,
        env=os.environ | {"DEPLOY_STORE": str(sound / ".deploy"), "PYTHONPATH": str(ROOT)},
        check=False,
    )
    print(f"exit code {done.returncode}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
