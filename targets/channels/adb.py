"""`adb://SERIAL` and `adb://host:port` (`?python=PATH&folder=PATH`) through the adb client.

The user's own `adb` is preferred; without one, the adb that the package `adbutils` carries. A device over the network
that does not answer is connected anew: a dead one can say "already connected".
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from functools import cached_property
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from targets.base import TargetError
from targets.channels import bounded
from targets.channels.base import ChannelError, flood
from targets.channels.remote import RemoteDevice, quote

FOLDER = "/data/local/tmp/edge-deploy"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:\-]*")
CARRY_S = 900.0
GET_ADB = "install Android's platform-tools, or: pip install adbutils"


def attached() -> list[str]:
    """URIs of what the adb client knows; empty without one."""
    adb = client()
    if adb is None:
        return []
    listed = subprocess.run([adb, "devices"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    rows = [line.split() for line in listed.stdout.splitlines()[1:] if line.strip()]
    return [f"adb://{row[0]}" for row in rows]


def client() -> str | None:
    """The adb program: the user's own, else that of `adbutils`."""
    found = shutil.which("adb")
    if found is None:
        spec = importlib.util.find_spec("adbutils")
        inside = Path(spec.origin).parent / "binaries" / "adb" if spec and spec.origin else None
        found = str(inside) if inside and inside.is_file() else None
    return found


def open_uri(uri: str) -> RemoteDevice:
    """The device. Raises TargetError for a URI that is none."""
    return RemoteDevice(Adb(uri))


class Adb:
    """A Channel."""

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        serial = parts.netloc
        if not NAME.fullmatch(serial) or parts.path.strip("/") or set(query) - {"python", "folder"}:
            form = "adb://SERIAL or adb://host:port, with ?python=PATH&folder=PATH where needed"
            raise TargetError(f"device '{uri}': expected {form}", "unsupported")
        self.uri, self.serial = uri, serial
        self.python, self.folder = query.get("python", "python3"), query.get("folder", FOLDER)

    @cached_property
    def _adb(self) -> str:
        found = client()
        if found is None:
            raise ChannelError(self.uri, "no 'adb' here", GET_ADB)
        return found

    @cached_property
    def _client(self) -> list[str]:
        """The command; connects a network device when first asked for."""
        if ":" in self.serial:
            self._connect()
        return [self._adb, "-s", self.serial]

    def _connect(self) -> None:
        """Anew only where it does not answer: that would break another run's connection."""
        said = self._call([self._adb, "connect", self.serial], 20)
        if not self._answers():
            self._call([self._adb, "disconnect", self.serial], 20)
            said = self._call([self._adb, "connect", self.serial], 20)
        if "connected to" not in said:
            raise self.fault(said)

    def _answers(self) -> bool:
        try:
            return "alive" in self._call([self._adb, "-s", self.serial, "shell", "echo alive"], 10)
        except ChannelError:
            return False

    def _call(self, command: list[str], timeout_s: float) -> str:
        """Both streams of a client's command, whatever its code."""
        try:
            ended = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired:
            raise ChannelError(self.uri, f"adb gave no answer within {timeout_s:g} s", TRY, True) from None
        return (ended.stdout + ended.stderr).decode(errors="replace")

    def start(self, script: str) -> subprocess.Popen[bytes]:
        """See Commands."""
        command = [*self._client, "shell", "-T", f"exec sh -c {quote(script)}"]
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )

    def fault(self, errors: str) -> ChannelError:
        """See Commands. A connection that broke is made anew for the next try."""
        self.__dict__.pop("_client", None)
        words = [line.strip() for line in errors.splitlines() if line.strip()]
        for sign, event, remedy, transient in FAULTS:
            if sign in errors:
                return ChannelError(self.uri, event or words[-1], remedy, transient)
        return ChannelError(self.uri, words[-1] if words else "the connection broke", TRY, True)

    def push(self, file: Path, to: str) -> None:
        """See Files."""
        self._carry(["push", str(file), to])

    def pull(self, file: str, to: Path, most_bytes: int) -> None:
        """See Files."""
        self._carry(["pull", file, str(to)], to, most_bytes)

    def _carry(self, arguments: list[str], growing: Path | None = None, most_bytes: int = 0) -> None:
        """A client that carries one file, to `growing` where it comes here."""
        pipe, command = subprocess.PIPE, [*self._client, *arguments]
        try:
            with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe) as client:
                output, errors = bounded.communicate(client, b"", CARRY_S, growing, most_bytes)
        except subprocess.TimeoutExpired:
            raise ChannelError(self.uri, f"adb {arguments[0]} did not end in {CARRY_S:g} s", TRY, True) from None
        except bounded.TooMuchError:
            raise flood(self.uri, most_bytes or bounded.MOST_WORDS_BYTES) from None
        if client.returncode:
            raise self.fault((errors + output).decode(errors="replace"))


TRY = "check its cable or network, and 'adb devices'"
FAULTS = (  # words of the client, what happened (None: its own last line), what to do, whether it may pass by itself
    ("No space left", "no space left there", "free some there, or name another folder with '?folder='", False),
    ("unauthorized", "it does not trust this computer", "accept the question on its screen, then try again", False),
    ("more than one device", None, "name its serial: adb://SERIAL ('adb devices' lists them)", False),
    ("offline", "it is offline", TRY, True),
    ("not found", "adb does not know it", TRY, True),
    ("failed to connect", None, TRY, True),
)
