"""A runtime for a device that has no network or no pip: wheels for its processor, fetched here, unpacked there.

They go into `runtime/ADAPTER/` in our folder on the device, where the agent's Python looks first, and nowhere else.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from targets import agent
from targets.channels.base import ChannelError
from targets.channels.remote import RemoteDevice, quote

PACKAGES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "tflite": "ai-edge-litert"}  # adapter -> distribution
OLDEST_GLIBC = 17  # manylinux2014


def requirements(runtime: str) -> list[str]:
    """What an adapter of the agent needs, in the versions of here: parity is then of one runtime, not of two."""
    return [_as_here("numpy"), _as_here(PACKAGES[runtime])]


def provision(device: RemoteDevice, runtime: str, wanted: Sequence[str]) -> dict[str, Any]:
    """Bring distributions (pip's requirement specifiers) there for an adapter of the agent, in place of what it had.

    Returns the device's facts after it. Raises ChannelError: no wheels for this device, no room, the way there.
    """
    with tempfile.TemporaryDirectory(prefix="deploy-wheels-") as name:
        folder = Path(name)
        _fetch(device, wanted, folder / "runtime")
        archive = folder / "runtime.tar.gz"
        with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
            tar.add(folder / "runtime", arcname="runtime")
        unpacked = sum(file.stat().st_size for file in (folder / "runtime").rglob("*") if file.is_file())
        device.room_for(unpacked + archive.stat().st_size)
        aside = quote(f"{device.home}/provision")
        device.checked(f"rm -rf {aside} && mkdir {aside}")
        try:
            device.push(archive, f"{device.home}/provision/runtime.tar.gz", agent.file_sha256(archive))
            unpack = (
                f"cd {aside} && {{ tar xzf runtime.tar.gz || {quote(device.python)} -m tarfile -e runtime.tar.gz; }}"
            )
            device.checked(unpack, timeout_s=900)
            device.checked(
                f"cd {quote(device.home)} && mkdir -p runtime && rm -rf runtime/{runtime}"
                f" && mv provision/runtime runtime/{runtime}",
                timeout_s=300,
            )
        finally:
            device.forget(f"{device.home}/provision")
    return device.look_again()


def remove(device: RemoteDevice) -> None:
    """Everything of ours there."""
    device.checked(f"rm -rf {quote(device.home)}", timeout_s=300)
    device.look_anew()


def _fetch(device: RemoteDevice, wanted: Sequence[str], to: Path) -> None:
    facts = device.facts()
    command = [
        sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-cache-dir",
        "--only-binary=:all:", "--implementation", "cp", "--target", str(to), *_tags(device, facts), *wanted,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        why = lines[0] if lines else (done.stderr.strip().splitlines() or ["pip failed"])[-1]
        what = f"no wheels of {', '.join(wanted)} for Python {facts['python']} on {facts['machine']} ({why})"
        raise ChannelError(device.uri, what, "name others with --package, or another Python with '?python='")


def _tags(device: RemoteDevice, facts: dict[str, Any]) -> list[str]:
    """pip's options for the device's Python, processor and C library."""
    found = re.fullmatch(r"glibc 2\.(\d+)", facts["libc"] or "")
    if facts["system"] != "Linux" or found is None:
        what = f"wheels are for Linux with glibc, it is {facts['system']} with {facts['libc'] or 'an unknown libc'}"
        raise ChannelError(device.uri, what, "name a Python with '?python=' that has the runtime, or use --runner")
    machine, python = facts["machine"], "".join(facts["python"].split(".")[:2])
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(int(found[1]), OLDEST_GLIBC - 1, -1)]
    platforms += [f"manylinux2014_{machine}", "any"]
    tags = ["--python-version", ".".join(facts["python"].split(".")[:2])]
    for abi in (f"cp{python}", "abi3", "none"):
        tags += ["--abi", abi]
    for platform in platforms:
        tags += ["--platform", platform]
    return tags


def _as_here(distribution: str) -> str:
    try:
        return f"{distribution}=={metadata.version(distribution)}"
    except metadata.PackageNotFoundError:
        return distribution
