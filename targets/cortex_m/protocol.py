"""The firmware's serial protocol: frames a5 5a, kind (1 byte), bytes (u32, little endian), payload, CRC-32.

The CRC covers kind to payload. Requests: I (info), R (inputs -> run), Q (quit). Replies: i, r, n (refused, with a
reason). A reader skips what is no frame, so it finds its way back after noise.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

from targets.base import TargetError

MAGIC = b"\xa5\x5a"
LONGEST = 1 << 22  # bytes of a payload; more is noise
NOISE = 1 << 16  # bytes without a frame, after which there is none
_REASONS = {
    b"s": "the payload's size is not the model's",
    b"c": "the request arrived damaged",
    b"k": "it does not know the request",
    b"f": "it crashed",
}


def frame(kind: bytes, payload: bytes = b"") -> bytes:
    """The bytes of one frame."""
    body = kind + struct.pack("<I", len(payload)) + payload
    return MAGIC + body + struct.pack("<I", zlib.crc32(body))


def read_frame(read: Callable[[int], bytes]) -> tuple[bytes, bytes]:
    """(kind, payload) of the next whole frame; `read(n)` gives up to n bytes, none when time is up.

    Raises TargetError when the bytes end or are only noise, and where the board refused.
    """
    window = b""
    for _ in range(NOISE):
        window = (window + _exactly(read, 1))[-2:]
        if window != MAGIC:
            continue
        head = _exactly(read, 5)
        (size,) = struct.unpack("<I", head[1:])
        if size > LONGEST:
            continue
        payload = _exactly(read, size)
        (crc,) = struct.unpack("<I", _exactly(read, 4))
        if crc != zlib.crc32(head + payload):
            continue
        if head[:1] == b"n":
            raise TargetError(f"the board refused: {_REASONS.get(payload, 'for a reason that is not known here')}")
        return head[:1], payload
    raise TargetError("the port sends only noise: check its baud rate (?baud=115200), and that our firmware runs there")


def _exactly(read: Callable[[int], bytes], size: int) -> bytes:
    found = b""
    while len(found) < size:
        piece = read(size - len(found))
        if not piece:
            raise TargetError("the board does not answer: check the port, and that the firmware runs")
        found += piece
    return found
