"""What can be wrong with a file: bytes, numbers, names, and structure. Each takes and gives bytes, by a seeded draw."""

from __future__ import annotations

import copy
import io
import json
import random
import tomllib
import zipfile
from collections.abc import Callable
from typing import Any

Mutation = Callable[[bytes, random.Random], bytes]

ODD: tuple[Any, ...] = (
    None, True, 0, -1, 1e308, -1e308, 2**31, 2**63, -(2**63) - 1, 10**40, 0.1, float("nan"), float("inf"), "", " ",
    "x" * 5000, "../../../etc/passwd", "/dev/zero", "a\x00b", "\x1b[2J\x1b[31m", "\u202eevil", "%s%n{0}", "all", [], {},
    [[[[]]]], [None] * 50, {"a": {"b": {"c": 1}}}, "nan", "1e999", "[bold]x[/bold]", "<script>alert(1)</script>",
    "\ud800",
)  # fmt: skip


def flip(content: bytes, rng: random.Random) -> bytes:
    """Some bits fall over."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 4, 32))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def overwrite(content: bytes, rng: random.Random) -> bytes:
    """A word becomes a number at a limit."""
    data = bytearray(content)
    at = rng.randrange(max(1, len(data) - 8))
    word = rng.choice(
        (b"\xff" * 4, b"\x00" * 4, b"\xff\xff\xff\x7f", b"\xff" * 8, b"\x00\x00\x00\x80", b"\xff\xff\xff\xff\x0f")
    )
    data[at : at + len(word)] = word
    return bytes(data)


def truncate(content: bytes, rng: random.Random) -> bytes:
    """The end is lost."""
    return content[: rng.randrange(len(content))]


def insert(content: bytes, rng: random.Random) -> bytes:
    """Noise comes in between."""
    at = rng.randrange(len(content))
    return content[:at] + rng.randbytes(rng.choice((1, 7, 64, 4096))) + content[at:]


def repeat(content: bytes, rng: random.Random) -> bytes:
    """A piece comes twice."""
    at, size = rng.randrange(len(content)), rng.choice((1, 16, 256))
    return content[: at + size] + content[at:]


def zeros(content: bytes, rng: random.Random) -> bytes:
    """A piece is zero, as after a crash."""
    at, size = rng.randrange(len(content)), rng.choice((16, 256, 4096))
    return content[:at] + bytes(min(size, len(content) - at)) + content[at + size :]


def noise(content: bytes, rng: random.Random) -> bytes:
    """Nothing of it is left."""
    return rng.choice(
        (b"", b"\n", rng.randbytes(300), b"\xff\xfe" + rng.randbytes(50), b"PK\x03\x04" + rng.randbytes(80))
    )


BYTES: tuple[Mutation, ...] = (flip, overwrite, truncate, insert, repeat, zeros, noise)


def lines(content: bytes, rng: random.Random) -> bytes:
    """Lines of a text go, come twice, change places, or get a value from elsewhere."""
    text = content.decode(errors="replace").splitlines()
    at, other = rng.randrange(len(text)), rng.randrange(len(text))
    how = rng.randrange(4)
    if how == 0:
        del text[at]
    elif how == 1:
        text.insert(other, text[at])
    elif how == 2:
        text[at], text[other] = text[other], text[at]
    else:
        key = text[at].partition("=")[0]
        text[at] = f"{key}= {text[other].partition('=')[2] or rng.choice(('[', '1e999', '{{', 'true', '[[1], 2]'))}"
    return "\n".join(text).encode()


def in_toml(content: bytes, rng: random.Random) -> bytes:
    """A value of a recipe becomes an odd one, or a table gets another key."""
    return _toml(_odd(tomllib.loads(content.decode()), rng)).encode(errors="surrogatepass")


def in_json(content: bytes, rng: random.Random) -> bytes:
    """A value becomes an odd one, goes, or comes under another name."""
    tree = json.loads(content)
    for _ in range(rng.choice((1, 1, 3))):
        tree = _odd(tree, rng)
    return json.dumps(tree).encode()


def in_zip(content: bytes, rng: random.Random) -> bytes:
    """One member of an archive is damaged, goes, gets another name, or is squeezed; the archive itself stays sound."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    at, how = rng.randrange(len(members)), rng.randrange(5)
    name, body = members[at]
    if how == 0:
        del members[at]
    elif how == 1:
        members[at] = (rng.choice(("../../x", "/etc/x", name + "x", "a" * 300, name.upper())), body)
    elif body:
        members[at] = (name, rng.choice(BYTES)(body, rng))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for member, data in members:
            archive.writestr(member, data)
    return packed.getvalue()


def _odd(tree: Any, rng: random.Random) -> Any:
    """A copy of a tree of dictionaries and lists in which one place is odd."""
    if not isinstance(tree, dict | list):
        return rng.choice(ODD)
    tree = copy.deepcopy(tree)
    places: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                waiting.append(node[key])
    if not places:
        return rng.choice(ODD)
    node, key = rng.choice(places)
    how = rng.randrange(5)
    if how == 0:
        del node[key]
    elif how == 1 and isinstance(node, dict):
        node[rng.choice(("", "x", "__class__", str(key) + "s", "../x", "a.b"))] = node.pop(key)
    elif how == 2:
        other, name = rng.choice(places)
        with_ = (
            copy.deepcopy(other[name]) if (name in other if isinstance(other, dict) else name < len(other)) else None
        )
        node[key] = with_
    else:
        node[key] = rng.choice(ODD)
    return tree


def _toml(tree: dict[str, Any], prefix: str = "") -> str:
    """TOML of a tree; what TOML cannot say is written all the same, for that is a mistake too."""
    if not isinstance(tree, dict):
        return str(tree)
    own, tables = "", ""
    for key, value in tree.items():
        if isinstance(value, dict) and value and not prefix:
            tables += f"\n[{json.dumps(str(key))}]\n{_toml(value, str(key))}"
        else:
            own += f"{json.dumps(str(key))} = {_value(value)}\n"
    return own + tables


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(k))} = {_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return (
        {float("inf"): "inf"}.get(value, "nan" if value != value else json.dumps(value))
        if isinstance(value, float)
        else json.dumps(value)
    )
