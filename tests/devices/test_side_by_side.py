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
def pair(sshd: Sshd, adbd: Adbd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """URIs of two devices."""
    monkeypatch.setenv("DEPLOY_SSH_CONFIG", str(sshd.folder / "config"))
    (tmp_path / "meet").mkdir()
    return device(sshd, "1", "2", tmp_path), device(adbd, "2", "1", tmp_path)


def device(server: Sshd | Adbd, own: str, other: str, folder: Path) -> str:
    """Its URI. It has a runtime of its own, by which its results are told from another's: both are this machine."""
    metadata = folder / own / "runtime" / "own" / f"tflite_runtime-{own}.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True, exist_ok=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: tflite-runtime\nVersion: {own}\n")
    python = folder / f"python-{own}"
    python.write_text(PYTHON.format(meet=folder / "meet", own=own, other=other, python=sys.executable))
    python.chmod(0o755)
    return f"{server.uri}?python={python}&folder={quote(str(folder / own))}"


def command(uris: tuple[str, str]) -> list[str]:
    return ["--target", "onnxruntime", "--device", "local://", "--device", uris[0], "--device", uris[1]]


@pytest.fixture
def user(tmp_path: Path) -> Folder:
    return brief_folder(tmp_path / "bars")


def test_two_devices_are_measured_at_the_same_time(pair: tuple[str, str], user: Folder) -> None:
    done = user.deploy(*command(pair))
    assert done.returncode == 0, done.stderr
    report = user.report()
    runs = report["targets"]["onnxruntime"]["runs"]
    assert {run["attached"] for run in runs} == {None, *pair}
    assert all(run["latency_ms"]["n"] >= 1000 for run in runs if run["batch"] == 1)
    named = [row["name"] for row in report["stages"] if "://" in row["name"]]
    first, second = (uri.partition("?")[0] for uri in pair)
    stages = ("verify", "profile")
    assert named == [f"{stage} onnxruntime {uri}" for uri in (first, second) for stage in stages]


def test_ctrl_c_ends_what_runs_on_all_of_them(
    pair: tuple[str, str], sshd: Sshd, adbd: Adbd, user: Folder, tmp_path: Path
) -> None:
    for server, own in ((sshd, "1"), (adbd, "2")):
        device(server, own, "who never comes", tmp_path)
    words = [sys.executable, "-m", "pipeline.cli", *command(pair)]
    environment = {name: value for name, value in os.environ.items() if name != "DEPLOY_STORE"}
    host = subprocess.Popen(words, cwd=user.path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not all((tmp_path / "meet" / own).exists() for own in ("1", "2")):
        assert host.poll() is None, host.communicate()
        time.sleep(0.2)
    host.send_signal(signal.SIGINT)
    _, errors = host.communicate(timeout=120)
    assert host.returncode == 130, errors
    for own in ("1", "2"):
        wait_until_gone(tmp_path / own)
