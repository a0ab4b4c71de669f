"""Ways to a device, by URI: `local://`, `ssh://user@host:port`, `adb://SERIAL`, and what other packages publish.

A scheme is a row below, or an entry point of the group `edge_deploy.channels`: "module:function" that makes a Device of
a URI. Its module is imported when a URI asks for it.
"""

from __future__ import annotations

import difflib
import importlib
from functools import cache
from importlib import metadata
from urllib.parse import urlsplit

from targets.base import TargetError
from targets.channels.base import ChannelError, Device, Listen

__all__ = ["GROUP", "LOCAL", "SCHEMES", "ChannelError", "Device", "Listen", "open_device"]

GROUP = "edge_deploy.channels"
LOCAL = "local://"

SCHEMES: dict[str, str] = {
    "local": "targets.channels.local:open_uri",
    "ssh": "targets.channels.ssh:open_uri",
    "adb": "targets.channels.adb:open_uri",
}


@cache
def open_device(uri: str) -> Device:
    """The device behind a URI, one object a process; nothing is connected yet.

    Raises TargetError "unsupported" for an unknown scheme or a malformed URI.
    """
    scheme = urlsplit(uri).scheme
    known = SCHEMES | {point.name: point.value for point in metadata.entry_points(group=GROUP)}
    if scheme not in known or "://" not in uri:
        near = difflib.get_close_matches(scheme, known, n=1)
        hint = f"did you mean '{near[0]}://'?" if near else f"a device is one of {', '.join(f'{s}://' for s in known)}"
        raise TargetError(f"device '{uri}': no such channel: {hint}", "unsupported")
    module, _, function = known[scheme].partition(":")
    device: Device = getattr(importlib.import_module(module), function)(uri)
    return device
