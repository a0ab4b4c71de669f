"""Devices to test with. One that cannot be made here is skipped, or fails with `--require-devices`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from targets.channels import open_device
from targets.channels.base import Device
from targets.channels.remote import RemoteDevice
from tests.devices import made
from tests.devices.fake import FakeChannel
from tests.devices.servers import Adbd, Sshd, free_port


@pytest.fixture(scope="session")
def lacking(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Called with the reason where a device cannot be made."""

    def say(why: str) -> None:
        if request.config.getoption("--require-devices"):
            pytest.fail(f"--require-devices: {why}")
        pytest.skip(why)

    return say


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory, lacking: Callable[[str], None]) -> Iterator[Sshd]:
    """A real sshd on loopback that leads to this machine."""
    if not (Path("/usr/sbin/sshd").is_file() and shutil.which("ssh")):
        lacking("no OpenSSH server and client here: make test-devices brings them")
    server = Sshd(tmp_path_factory.mktemp("sshd"))
    yield server
    server.kill()


@pytest.fixture(scope="session")
def adb_server() -> Iterator[None]:
    """An adb server of these tests' own."""
    os.environ["ANDROID_ADB_SERVER_PORT"] = str(free_port())
    yield
    subprocess.run(["adb", "kill-server"], capture_output=True, check=False)
    del os.environ["ANDROID_ADB_SERVER_PORT"]


@pytest.fixture(scope="session")
def adbd(tmp_path_factory: pytest.TempPathFactory, lacking: Callable[[str], None], adb_server: None) -> Iterator[Adbd]:
    """AOSP's adbd on loopback; it leads to this machine."""
    if why := made.adbd_lacks():
        lacking(why)
    server = Adbd(made.made("adbd", made.ADBD) / "adbd", tmp_path_factory.mktemp("adbd"))
    yield server
    server.kill()


@pytest.fixture(scope="session")
def arm64(tmp_path_factory: pytest.TempPathFactory, lacking: Callable[[str], None]) -> Path:
    """An own copy of a Debian arm64 root whose programs run here."""
    if why := made.arm64_lacks():
        lacking(why)
    root = tmp_path_factory.mktemp("board") / "root"
    subprocess.run(["cp", "-a", made.made("arm64", made.ARM64), root], check=True)
    return root


@dataclass
class Bench:
    """A device under test: `folder` is ours on it, seen from here; `work` holds the requests."""

    device: Device
    folder: Path
    work: Path

    @property
    def remote(self) -> RemoteDevice:
        assert isinstance(self.device, RemoteDevice)
        return self.device

    def runs(self) -> list[Any]:
        """Requests that left something there."""
        return list((self.folder / "runs").iterdir())


def make_bench(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Bench:
    there, work = tmp_path / "the device's", tmp_path / "work"  # a blank and a quote want quoting
    work.mkdir()
    if kind == "local":
        return Bench(open_device("local://"), there, work)
    if kind == "fake":
        return Bench(RemoteDevice(FakeChannel(there, sys.executable)), there, work)
    server = request.getfixturevalue({"ssh": "sshd", "adb": "adbd"}[kind])
    if kind == "ssh":
        request.getfixturevalue("monkeypatch").setenv("DEPLOY_SSH_CONFIG", str(server.folder / "config"))
    return Bench(open_device(f"{server.uri}?python={sys.executable}&folder={quote(str(there))}"), there, work)


@pytest.fixture(params=["local", "fake", "ssh", "adb"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    """Every kind of device."""
    return make_bench(request.param, tmp_path, request)


@pytest.fixture(params=["fake", "ssh", "adb"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    """Every kind at the end of a channel."""
    return make_bench(request.param, tmp_path, request)


@pytest.fixture
def fake(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    """The one that can be told to fail."""
    return make_bench("fake", tmp_path, request)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries without the waits."""
    monkeypatch.setattr("targets.channels.remote.time.sleep", lambda seconds: None)
