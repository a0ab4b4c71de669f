"""This machine as a device: the agent in a process of its own, under any Python that has the runtime.

`local://` is this Python, `local:///path/to/python` another environment's.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from targets import agent as agent_file  # imported for its path, and so that its code is part of stage keys
from targets.base import TargetError
from targets.channels import answer, stream
from targets.channels.base import Interrupted, Listen, raise_error

AGENT = Path(agent_file.__file__)
BRINGS = {"tflite": ("ai-edge-litert",)}  # runtime -> its distributions, where the name is another


def open_uri(uri: str) -> LocalDevice:
    """`local://` or `local:///absolute/path/to/python`. Raises TargetError for another host or no such file."""
    parts = urlsplit(uri)
    python = unquote(parts.path) or sys.executable
    if parts.netloc or parts.query:
        raise TargetError(f"device '{uri}': expected local:// or local:///path/to/python", "unsupported")
    if not os.access(python, os.X_OK) or not Path(python).is_file():
        raise TargetError(f"device '{uri}': there is no program {python}: name a Python that is there", "unsupported")
    return LocalDevice(uri, python)


class LocalDevice:
    """The agent below `python`, on this machine."""

    def __init__(self, uri: str, python: str) -> None:
        self.uri, self.python = uri, python

    def run(
        self, request: Mapping[str, Any], folder: Path, timeout_s: float | None = None, listen: Listen | None = None
    ) -> dict[str, Any]:
        """See Device."""
        return run_agent(dict(request), folder, self.python, timeout_s, self.uri, listen)

    @cached_property
    def _facts(self) -> dict[str, Any]:
        survey = {"protocol": agent_file.PROTOCOL, "models": [], "tasks": [{"do": "survey"}], "result": "result.json"}
        with tempfile.TemporaryDirectory(prefix="deploy-") as folder:
            result = self.run(survey, Path(folder), timeout_s=120)
        return {**result["device"], **result["tasks"][0]}

    def identity(self) -> Mapping[str, Any]:
        """See Device."""
        return stream.identity(self._facts)

    def facts(self) -> dict[str, Any]:
        """What the agent says of this machine and of the runtimes below this Python."""
        return self._facts


def run_agent(
    request: dict[str, Any],
    folder: Path,
    python: str = sys.executable,
    timeout_s: float | None = None,
    uri: str = "local://",
    listen: Listen | None = None,
) -> dict[str, Any]:
    """Run the agent on `request` in `folder` (its paths are relative to that) and return its result.

    Raises TargetError with the agent's own line (model and the runtime's words), ChannelError where this Python lacks
    the runtime or this machine the room. A result counts only with its digest: an exit code alone proves nothing.
    """
    result, message = folder / request["result"], folder / "request.json"
    result.unlink(missing_ok=True)
    message.write_text(json.dumps(request, indent=1) + "\n")
    # The open pipe on stdin tells the agent that this process lives.
    agent = subprocess.Popen(
        [python, "-X", "utf8", str(AGENT), str(message)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    late = threading.Event()

    def expire() -> None:
        late.set()
        agent.kill()

    timer = threading.Timer(timeout_s or threading.TIMEOUT_MAX, expire)
    timer.daemon = True
    timer.start()
    try:
        said = stream.follow(agent, listen, on_interrupt=lambda: agent.send_signal(signal.SIGINT))
    finally:
        timer.cancel()
        stream.end(agent)
    if late.is_set():
        raise TargetError(f"{_models(request)}: the agent did not finish in {timeout_s:g} s and was ended")
    if said.interrupted and said.done is None:
        raise KeyboardInterrupt
    if said.done is None or not result.is_file():
        raise TargetError(f"{_models(request)}: the agent ended with code {said.code}: {said.last_words}")
    body = answer.content(result, uri)
    if hashlib.sha256(body).hexdigest() != said.done:
        raise TargetError(f"{_models(request)}: the agent's result {result} is not the one it wrote")
    record = answer.read(body, request, uri)
    if record["error"] is not None:
        raise_error(record["error"], uri, str(folder), _bring(python, request))
    answer.check_files(record, request, folder, uri)
    if said.interrupted:
        raise Interrupted(record)
    return record


def _models(request: Mapping[str, Any]) -> str:
    names = ", ".join(f"'{row['id']}' on {row['runtime']}" for row in request["models"])
    return f"model {names}" if names else "request without models"


def _bring(python: str, request: Mapping[str, Any]) -> str:
    """The command that brings what the request's models run on."""
    brought = {name for row in request["models"] for name in BRINGS.get(row["runtime"], (row["runtime"],))}
    return f"{shlex.quote(python)} -m pip install {' '.join(['numpy', *sorted(brought)])}"
