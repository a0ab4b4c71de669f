"""What is attached, and what each device has: the facts behind `deploy devices` and `deploy provision`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.errors import DeviceError, UsageError
from targets import registry
from targets.base import TargetError
from targets.channels import LOCAL, ChannelError, adb, open_device, provision
from targets.channels.local import LocalDevice
from targets.channels.remote import RemoteDevice

RUNTIMES = {  # target's adapter -> the distributions of which any will do
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
    "tflite": ("ai-edge-litert", "tflite-runtime"),
}


def examine(uris: Sequence[str]) -> list[dict[str, Any]]:
    """A row a device: its facts, and what each target lacks there with the command that brings it.

    Without URIs: this machine and what adb knows. A device that does not answer has an "error" instead.
    """
    return [_row(uri) for uri in uris or [LOCAL, *adb.attached()]]


def bring(uri: str, target: str, packages: Sequence[str]) -> dict[str, Any]:
    """`deploy provision`. Raises UsageError, DeviceError."""
    device = _remote(uri)
    try:
        runtime = registry.load(target).runtime
        if runtime not in provision.PACKAGES and not packages:
            raise UsageError(f"{target} needs no runtime on a device, or its own: name packages with --package")
        provision.provision(device, runtime, list(packages) or provision.requirements(runtime))
    except TargetError as error:
        raise UsageError(str(error)) from error
    except ChannelError as error:
        raise DeviceError(str(error)) from error
    return _row(uri)


def take_away(uri: str) -> None:
    """`deploy provision --remove`: everything of ours on the device."""
    try:
        provision.remove(_remote(uri))
    except ChannelError as error:
        raise DeviceError(str(error)) from error


def _remote(uri: str) -> RemoteDevice:
    try:
        device = open_device(uri)
    except TargetError as error:
        raise UsageError(str(error)) from error
    if not isinstance(device, RemoteDevice):
        raise UsageError(f"{uri} is this machine: use pip of that Python")
    return device


def _row(uri: str) -> dict[str, Any]:
    try:
        device = open_device(uri)
        assert isinstance(device, RemoteDevice | LocalDevice)
        facts = device.facts()
    except TargetError as error:
        raise UsageError(str(error)) from error
    except ChannelError as error:
        return {"uri": uri, "error": str(error)}
    here = isinstance(device, LocalDevice)
    lacking = {}
    for target, names in RUNTIMES.items():
        if any(facts["runtimes"].get(name) for name in names) and facts["runtimes"].get("numpy"):
            continue
        bring = f"{device.python} -m pip install numpy {names[0]}" if here else f"deploy provision '{uri}' -t {target}"
        lacking[target] = bring
    return {"uri": uri, "error": None, **{name: facts[name] for name in SHOWN}, "lacking": lacking}


SHOWN = (
    "system", "os", "machine", "cpu", "cores", "memory_bytes", "python", "libc", "governor", "serial", "runtimes"
)  # fmt: skip
