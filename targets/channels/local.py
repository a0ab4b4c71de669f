"""This machine as a device: the agent in a process of its own, under any Python that has the runtime."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from targets import agent as agent_file  # imported for its path, and so that its code is part of stage keys
from targets.base import TargetError

AGENT = Path(agent_file.__file__)


def run_agent(
    request: dict[str, Any], folder: Path, python: str = sys.executable, timeout_s: float | None = None
) -> dict[str, Any]:
    """Run the agent on `request` in `folder` (its paths are relative to that) and return its result.

    Raises TargetError with the agent's own line (model and the runtime's words); "unsupported" when the runtime cannot
    do what was asked. A result counts only with its digest: an exit code alone proves nothing.
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
        encoding="utf-8",
        errors="replace",
    )
    try:
        output, errors = _communicate(agent, timeout_s)
    except subprocess.TimeoutExpired as error:
        raise TargetError(f"{_models(request)}: the agent did not finish in {timeout_s:g} s and was ended") from error
    finally:
        if agent.poll() is None:
            agent.kill()
            agent.communicate()
    said = next((line for line in reversed(output.splitlines()) if line.strip()), "")
    if not said.startswith("DONE ") or not result.is_file():
        last = next((line.strip() for line in reversed(errors.splitlines()) if line.strip()), "it said nothing")
        raise TargetError(f"{_models(request)}: the agent ended with code {agent.returncode}: {last}")
    body = result.read_bytes()
    if hashlib.sha256(body).hexdigest() != said.removeprefix("DONE ").strip():
        raise TargetError(f"{_models(request)}: the agent's result {result} is not the one it wrote")
    record: dict[str, Any] = json.loads(body)
    if record["error"] is not None:
        raise TargetError(record["error"]["message"])
    return record


def _communicate(agent: subprocess.Popen[str], timeout_s: float | None) -> tuple[str, str]:
    """Like Popen.communicate, which closes stdin at once, but stdin stays open as long as the agent lives."""
    stdin, agent.stdin = agent.stdin, None
    try:
        return agent.communicate(timeout=timeout_s)
    finally:
        if stdin is not None:
            stdin.close()


def _models(request: dict[str, Any]) -> str:
    names = ", ".join(f"'{row['id']}' on {row['runtime']}" for row in request["models"])
    return f"model {names}" if names else "request without models"
