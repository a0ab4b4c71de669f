"""`ssh://user@host:port?python=PATH&folder=PATH` through the OpenSSH client, with the user's own configuration.

Host keys are checked as that configuration says, and never less. `$DEPLOY_SSH_CONFIG` names another configuration file.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import subprocess
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from targets.base import TargetError
from targets.channels import bounded
from targets.channels.base import ChannelError, flood
from targets.channels.remote import RemoteDevice, quote

OPTIONS = (
    "BatchMode=yes",
    "ConnectTimeout=10",
    "ServerAliveInterval=2",
    "ServerAliveCountMax=2",
    "ClearAllForwardings=yes",
    "RequestTTY=no",
    "LogLevel=ERROR",
)
NAME = re.compile(r"[A-Za-z0-9_.:%-]+")


def open_uri(uri: str) -> RemoteDevice:
    """The device. Raises TargetError for a URI that is none."""
    return RemoteDevice(Ssh(uri))


class Ssh:
    """A Channel."""

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        try:
            host, port, user = parts.hostname or "", parts.port, parts.username
        except ValueError as error:
            raise TargetError(f"device '{uri}': {error}", "unsupported") from error
        words = [host, *([user] if user else [])]
        good = all(NAME.fullmatch(word) and not word.startswith("-") for word in words)
        if not good or parts.path.strip("/") or parts.password or set(query) - {"python", "folder"}:
            form = "ssh://user@host:port, with ?python=PATH&folder=PATH where needed"
            raise TargetError(f"device '{uri}': expected {form}", "unsupported")
        self.uri = uri
        self.python, self.folder = query.get("python", "python3"), query.get("folder", ".edge-deploy")
        self._host = host
        config = os.environ.get("DEPLOY_SSH_CONFIG")
        self._options = [*(["-F", config] if config else []), *(["-p", str(port)] if port else [])]
        self._options += [*(["-l", user] if user else [])]
        for option in OPTIONS:
            self._options += ["-o", option]

    @cached_property
    def _client(self) -> list[str]:
        """The command. All share one connection, made here: a handshake for each would take most of the time."""
        folder = Path(tempfile.mkdtemp(prefix="deploy-ssh-"))
        shared = ["-o", f"ControlPath={folder}/shared"]
        connect = ["ssh", *self._options, *shared, "-M", "-N", "-f", "-o", f"ControlPersist={IDLE_S}", "--", self._host]
        try:
            with (folder / "errors").open("w+") as errors:  # the connection keeps it open: a pipe would never end
                code = subprocess.run(
                    connect, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, check=False
                ).returncode
                errors.seek(0)
                if code:
                    raise self.fault(errors.read())
        except FileNotFoundError:
            raise ChannelError(self.uri, "no 'ssh' here", "install the OpenSSH client") from None
        finally:
            (folder / "errors").unlink(missing_ok=True)
        leave = ["ssh", *self._options, *shared, "-O", "exit", "--", self._host]
        if not CONNECTED:
            atexit.register(close)
        CONNECTED.append((leave, folder))
        return ["ssh", *self._options, *shared, "--", self._host]

    def start(self, script: str) -> subprocess.Popen[bytes]:
        """See Commands. The login shell there may be any: it is asked for `sh` only."""
        command = [*self._client, f"exec /bin/sh -c {quote(script)}"]
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )

    def fault(self, errors: str) -> ChannelError:
        """See Commands. A connection that broke is made anew for the next try."""
        self.__dict__.pop("_client", None)
        words = [line.strip() for line in errors.splitlines() if line.strip()]
        for sign, event, remedy, transient in FAULTS:
            if sign in errors:
                return ChannelError(self.uri, event or words[-1], remedy.format(host=self._host), transient)
        return ChannelError(self.uri, words[-1] if words else "the connection broke", TRY, True)

    def push(self, file: Path, to: str) -> None:
        """See Files."""
        command = [*self._client, f"exec /bin/sh -c {quote(f'cat > {quote(to)}')}"]
        with file.open("rb") as source:
            self._carry(command, None, 0, stdin=source, stdout=subprocess.PIPE)

    def pull(self, file: str, to: Path, most_bytes: int) -> None:
        """See Files."""
        command = [*self._client, f"exec /bin/sh -c {quote(f'cat {quote(file)}')}"]
        with to.open("wb") as target:
            self._carry(command, to, most_bytes, stdin=subprocess.DEVNULL, stdout=target)

    def _carry(self, command: list[str], growing: Path | None, most_bytes: int, **streams: Any) -> None:
        """A client that carries one file, to `growing` where it comes here."""
        try:
            with subprocess.Popen(command, stderr=subprocess.PIPE, **streams) as client:
                _, errors = bounded.communicate(client, growing=growing, most_bytes=most_bytes)
        except bounded.TooMuchError:
            raise flood(self.uri, most_bytes) from None
        if client.returncode:
            raise self.fault(errors.decode(errors="replace"))


CONNECTED: list[tuple[list[str], Path]] = []  # shared connections: the command that ends one, and its folder


def close() -> None:
    """Close the shared connections of this process; they may be gone already."""
    while CONNECTED:
        leave, folder = CONNECTED.pop()
        subprocess.run(leave, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        shutil.rmtree(folder, ignore_errors=True)


IDLE_S = 60  # how long an unused connection stays
TRY = "check its power, cable and network, and that 'ssh' to it works"
CHANGED = "was it reinstalled? then 'ssh-keygen -R' its old key and connect once by hand to check the new one"
FAULTS = (  # words of the client, what happened (None: its own last line), what to do, whether it may pass by itself
    ("No space left", "no space left there", "free some there, or name another folder with '?folder='", False),
    ("IDENTIFICATION HAS CHANGED", "its host key is not the known one", CHANGED, False),
    ("Host key verification failed", "its host key is unknown", "connect once by hand and check it: ssh {host}", False),
    ("Permission denied (", "it refuses our key", "bring it your public key: ssh-copy-id", False),
    ("Could not resolve", None, "check the name", False),
    ("Bad configuration", None, "correct your ssh configuration", False),
    ("Connection refused", None, TRY, True),
)
