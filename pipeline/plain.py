"""Text from outside (names, paths, errors, a report of somebody else's) on its way to a terminal or into Markdown."""

from __future__ import annotations

import html
import re
import unicodedata

LONGEST = 900  # characters of a line; nothing of ours is that long
UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # control, format (bidirectional marks among them), line separators
MARKED = re.compile(r"([\\`*_\[\]!~|$])")  # what Markdown reads as its own
LINKED = re.compile(r"(@|://|www\.|#(?=\d))")  # what it makes mentions and links of, unasked


def line(text: str) -> str:
    """One line that a terminal shows as it stands: what is not seen is spelled, `\\x1b`, a long middle left out."""
    if len(text) > 2 * LONGEST:  # before any work on it
        text = f"{text[:LONGEST]}{text[-LONGEST:]}"
    words = " ".join(text.splitlines()) if len(text.splitlines()) > 1 else text.rstrip("\r\n")
    words = "".join(_spelled(sign) if unicodedata.category(sign) in UNSEEN else sign for sign in words)
    tail = LONGEST // 3  # where a message says what to do
    return words if len(words) <= LONGEST else f"{words[: LONGEST - tail]} ... {words[-tail:]}"


def _spelled(sign: str) -> str:
    return sign.encode("unicode_escape", "surrogatepass").decode()


def markdown(text: str) -> str:
    """One line in which Markdown finds no image, link, mention, HTML, code or table of its own."""
    words = html.escape(" ".join(line(text).split()), quote=False)
    return LINKED.sub(r"\1<!-- -->", MARKED.sub(r"\\\1", words))
