"""Several devices of one command: real servers, whose agents wait for each other before they time anything."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.devices.brief import brief_folder
from tests.devices.servers import Adbd, Sshd
from tests.devices.test_faults import wait_until_gone
from tests.road.newcomer import Folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# A Python that begins to time once the other device's is about to: where that never comes, neither does it.
PYTHON = """#!/bin/sh
for request; do :; done
case "$request" in */request.json)
    if grep -q '"do": "time"' "$request"; then
        touch {meet}/{own}
        while [ ! -e "{meet}/{other}" ]; do sleep 0.1; done
    fi
esac
exec {python} "$@"
"""


@pytest.fixture
def servers(sshd: Sshd, adbd: Adbd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Sshd, Adbd]:
    monkeypatch.setenv("DEPLOY_SSH_CONFIG", str(sshd.folder / "config"))
    (tmp_path / "meet").mkdir()
    return sshd, adbd


def device(server: Sshd | Adbd, own: str, other: str, folder: Path) -> str:
    """Its URI. It has a runtime of its own, by which its results are told from another's: both are this machine."""
    metadata = folder / own / "runtime" / "own" / f"tflite_runtime-{own}.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True, exist_ok=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: tflite-runtime\nVersion: {own}\n")
    python = folder / f"python-{own}"
    python.write_text(PYTHON.format(meet=folder / "meet", own=own, other=other, python=sys.executable))
    python.chmod(0o755)
    return f"{server.uri}?python={python}&folder={quote(str(folder / own))}"


def command(*uris: str) -> list[str]:
    return ["--target", "onnxruntime", *(word for uri in ("local://", *uris) for word in ("--device", uri))]


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return brief_folder(tmp_path_factory.mktemp("user") / "bars")


def test_two_devices_are_measured_at_the_same_time(servers: tuple[Sshd, Adbd], user: Folder, tmp_path: Path) -> None:
    sshd, adbd = servers
    pair = device(sshd, "1", "2", tmp_path), device(adbd, "2", "1", tmp_path)
    done = user.deploy(*command(*pair))
    assert done.returncode == 0, done.stderr
    report = user.report()
    runs = report["targets"]["onnxruntime"]["runs"]
    assert {run["attached"] for run in runs} == {None, *pair}
    assert all(run["latency_ms"]["n"] >= 1000 for run in runs if run["batch"] == 1)
    named = [row["name"] for row in report["stages"] if "://" in row["name"]]
    stages = ("verify", "profile")
    assert named == [f"{stage} onnxruntime {uri.partition('?')[0]}" for uri in pair for stage in stages]


def test_ctrl_c_ends_what_runs_on_all_of_them(servers: tuple[Sshd, Adbd], user: Folder, tmp_path: Path) -> None:
    names = ("3", "4")
    uris = [device(server, own, "who never comes", tmp_path) for server, own in zip(servers, names, strict=True)]
    words = [sys.executable, "-m", "pipeline.cli", *command(*uris)]
    environment = {name: value for name, value in os.environ.items() if name != "DEPLOY_STORE"}
    host = subprocess.Popen(words, cwd=user.path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not all((tmp_path / "meet" / own).exists() for own in names):
        assert host.poll() is None, host.communicate()
        time.sleep(0.2)
    host.send_signal(signal.SIGINT)
    _, errors = host.communicate(timeout=120)
    assert host.returncode == 130, errors
    for own in names:
        wait_until_gone(tmp_path / own)
