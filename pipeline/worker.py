"""One stage in a fresh process: a job comes in on stdin, events and the result go out on stdout, one JSON a line.

The process ends when its parent does: the parent holds stdin open, and end of file there means that it is gone.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

from pipeline import boundary, bounds
from pipeline.boundary import one_line
from pipeline.errors import DeployError, DeviceError, StageError, UsageError
from pipeline.stages import Job, silent

BOOT = str(Path(__file__).with_name("boot.py"))
RUNNING: set[int] = set()  # leaders of the workers that this process waits for


def run_isolated(function: str, job: Job, limits: bounds.Limits | None = None) -> dict[str, Any]:
    """Run a stage function ("module:function") in a fresh Python. Raises the stage's own DeployError, UsageError where
    it reads a foreign file and goes beyond the `limits` for that.
    """
    message = {
        "function": function,
        "limits": asdict(limits) if limits else None,
        "job": {
            "stage": job.stage,
            "settings": job.settings,
            "inputs": {role: str(path) for role, path in job.inputs.items()},
            "out": str(job.out),
            "seed": job.seed,
            "user": job.user,
        },
    }
    environment = {**os.environ, "PYTHONHASHSEED": "0"}  # sets iterate in one order: equal inputs, equal bytes
    with (
        tempfile.TemporaryFile("w+", errors="replace") as log,
        subprocess.Popen(
            [sys.executable, "-P", BOOT],  # -P: nothing is imported from the current folder
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
            start_new_session=True,  # so that the processes it starts can be ended with it
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        RUNNING.add(process.pid)
        try:
            with contextlib.suppress(BrokenPipeError):  # it has ended already: its code says how
                process.stdin.write(json.dumps(message) + "\n")
                process.stdin.flush()
            answer: dict[str, Any] = {}
            for line in process.stdout:
                if not line.endswith("\n"):
                    break  # it was killed in the middle of a word
                answer = json.loads(line)
                if answer["event"] in ("result", "error"):
                    break  # not the end of the pipe: a library's helper process may hold that open for ever
                job.emit(answer)
            process.wait()
        finally:
            RUNNING.discard(process.pid)
            _end_group(process.pid)
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        log.seek(0)
        if limits and -process.returncode in (signal.SIGXCPU, signal.SIGABRT):
            raise UsageError(f"{job.stage}: {limits.broken(-process.returncode)}")
        return _outcome(job.stage, answer, process.returncode, log)


def end_all() -> None:
    """End every worker: who waits for one gets a StageError."""
    for leader in tuple(RUNNING):
        _end_group(leader)


def _end_group(leader: int) -> None:
    """End a worker and whatever it started; it may all be gone already."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _outcome(stage: str, answer: Mapping[str, Any], code: int, log: IO[str]) -> dict[str, Any]:
    if answer.get("event") == "result":
        metadata: dict[str, Any] = answer["metadata"]
        return metadata
    if answer.get("event") == "error":
        kinds = {kind.exit_code: kind for kind in (UsageError, DeviceError)}
        error = kinds.get(answer["exit_code"], StageError)(answer["message"])
        error.add_note(answer["traceback"])
        raise error
    tail = log.read()[-2000:]
    cause = f"killed by signal {-code}{' (out of memory?)' if code == -9 else ''}" if code < 0 else f"exit code {code}"
    error = StageError(f"{stage}: its process ended without a result: {cause}")
    error.add_note(tail)
    raise error


def invoke(function: str, job: Job) -> dict[str, Any]:
    """Call a stage function by name in this process. Every error becomes a DeployError of one line."""
    from calibration.errors import CalibrationError
    from targets.base import TargetError  # numpy comes with it: not at the top, where `--help` would pay
    from targets.channels import ChannelError

    module, _, name = function.partition(":")
    try:
        result: dict[str, Any] = getattr(importlib.import_module(module), name)(job)
        return result
    except (TargetError, CalibrationError, ChannelError, MemoryError) as error:
        known = boundary.deploy_error(error)
        raise type(known)(f"{job.stage}: {known}") from error
    except DeployError:
        raise
    except OSError as error:
        if error.errno is not None:
            raise  # the store knows what a full disk means
        raise StageError(f"{job.stage}: {one_line(error)}") from error
    except (Exception, SystemExit) as error:
        raise _unforeseen(error, job) from error


def _unforeseen(error: BaseException, job: Job) -> DeployError:
    """In the user's own code it is theirs to mend; below it, by a library that it called, only the place is named."""
    from pipeline import user

    folder = job.user.get("folder", "")
    frame = user.frame_of(error, folder) if folder else None
    if isinstance(error, SystemExit) or (frame and frame == traceback.extract_tb(error.__traceback__)[-1]):
        return UsageError(f"{job.stage}: the recipe's code: {user.blame(error, folder)}")
    place = (
        f" ({Path(frame.filename).name}:{frame.lineno})"
        if frame and Path(folder) in Path(frame.filename).parents
        else ""
    )
    return StageError(f"{job.stage}: {one_line(error)}{place}")


def main() -> int:
    """Serve one job."""
    protocol = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries that print to stdout must not break the protocol

    def say(event: Mapping[str, Any]) -> None:
        protocol.write(json.dumps(event) + "\n")

    message = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    limits = bounds.Limits(**message["limits"]) if message["limits"] else None
    if limits:
        bounds.hold(limits)
    fields = message["job"]
    job = Job(
        **{**fields, "inputs": {k: Path(v) for k, v in fields["inputs"].items()}, "out": Path(fields["out"])},
        emit=silent,
    )
    try:
        metadata = invoke(message["function"], replace(job, emit=say))
        say({"event": "result", "metadata": metadata})
    except (DeployError, OSError) as error:
        code = error.exit_code if isinstance(error, DeployError) else StageError.exit_code
        message = str(error) if isinstance(error, DeployError) else f"{job.stage}: {one_line(error)}"
        if limits and isinstance(error.__cause__, MemoryError):
            code, message = UsageError.exit_code, f"{job.stage}: {limits.broken()}"
        say({"event": "error", "exit_code": code, "message": message, "traceback": traceback.format_exc()})
    protocol.flush()
    os._exit(0)  # runtimes' own threads and destructors have nothing more to do


def _end_with_parent() -> None:
    sys.stdin.read()
    _end_group(os.getpgrp())
