"""What a device is, and what a way to it must be able to do. Each protocol is what one caller needs, no more."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from targets.base import TargetError
from targets.channels import bounded

Listen = Callable[[Mapping[str, Any]], None]  # progress of a timing task: {"rounds", "total", "median_ms", "left_s"}


class ChannelError(Exception):
    """A device or the way to it failed: the device, what happened, what to do, on one line.

    `transient`: the same request may work when it is sent again.
    """

    def __init__(self, device: str, event: str, remedy: str, transient: bool = False) -> None:
        super().__init__(f"{device}: {' '.join(event.split())}: {remedy}")
        self.device, self.event, self.remedy, self.transient = device, event, remedy, transient


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while a device was timing: the job there has ended, and `result` is what it had measured."""

    def __init__(self, result: dict[str, Any]) -> None:
        super().__init__("interrupted")
        self.result = result


class Device(Protocol):
    """Where a model runs. `uri` is the way to it, `identity` what its results hold for (part of a stage's key)."""

    uri: str

    def run(
        self, request: Mapping[str, Any], folder: Path, timeout_s: float | None = None, listen: Listen | None = None
    ) -> dict[str, Any]:
        """The agent's result for `request` (see targets/agent.py), whose relative paths lie in `folder`.

        Raises ChannelError for the device and the way to it, TargetError for the model: the runtime's own words.
        """
        ...

    def identity(self) -> Mapping[str, Any]:
        """What does not change while results of this device stay valid: machine, CPU, serial, versions."""
        ...


@dataclass(frozen=True)
class Completed:
    """A finished command there."""

    code: int
    output: str
    errors: str


class Commands(Protocol):
    """Starts POSIX shell scripts on the device."""

    uri: str

    def start(self, script: str) -> subprocess.Popen[bytes]:
        """The client process, its three streams as pipes; closing stdin tells the device that the host is gone."""
        ...

    def fault(self, errors: str) -> ChannelError:
        """What the client's own words mean when a command did not come to its end."""
        ...


class Files(Protocol):
    """Carries files. Neither direction proves anything: callers compare digests."""

    def push(self, file: Path, to: str) -> None:
        """Raises ChannelError."""
        ...

    def pull(self, file: str, to: Path, most_bytes: int) -> None:
        """Raises ChannelError, also for a file of more bytes."""
        ...


class Channel(Commands, Files, Protocol):
    """Both, and where they lead. `folder` is ours on the device: absolute, or below its home."""

    folder: str
    python: str


def run(channel: Commands, script: str, timeout_s: float = 60, stdin: bytes = b"") -> Completed:
    """A script that ran to its end. Raises ChannelError when it did not.

    The script's code comes back as a last line of its output: a client's own exit code says 0 for a dead device.
    """
    mark = secrets.token_hex(8)
    process = channel.start(f"( {script}\n); printf '\\n%s %s\\n' {mark} $?")
    try:
        with process:
            output, errors = bounded.communicate(process, stdin, timeout_s)
    except subprocess.TimeoutExpired:
        raise ChannelError(
            channel.uri, f"no answer within {timeout_s:g} s", "check the device and its cable or network", True
        ) from None
    except bounded.TooMuchError:
        raise flood(channel.uri, bounded.MOST_WORDS_BYTES) from None
    text, said = output.decode(errors="replace"), errors.decode(errors="replace")
    body, _, code = text.rpartition(f"\n{mark} ")
    if not code.strip().isdigit():
        raise channel.fault(said)
    return Completed(int(code), body.removesuffix("\n"), said)


def flood(device: str, most_bytes: int) -> ChannelError:
    """It sends more than anything of ours would."""
    return ChannelError(device, f"it sent more than {most_bytes:,} bytes", "is it the device that you mean?")


def folder_full(device: str, folder: str) -> ChannelError:
    """No room on the device."""
    return ChannelError(
        device, f"no space left below {folder}", "free some there, or name another folder with '?folder='"
    )


def raise_error(error: Mapping[str, Any], device: str, folder: str, brings: str) -> None:
    """The agent's own error as an exception: the device's fault, or the model's. `brings`: a runtime that it lacks."""
    if error["kind"] == "space":
        raise folder_full(device, folder)
    if error["kind"] == "missing":
        raise ChannelError(device, error["message"], brings)
    if error["kind"] == "memory":
        raise ChannelError(device, error["message"], "out of memory there: a smaller batch, or a smaller model")
    raise TargetError(error["message"])
