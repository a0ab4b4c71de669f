"""FORMS.md: each row of the capability tables, how many forms of it the sweep writes, and how they ended."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from targets import registry

FILE = Path(__file__).with_name("FORMS.md")
_WORDS = {"right": "right", "refused": "refused", "runtime": "refused by the runtime", "fault": "wrong"}
_HEAD = """# Forms

Made by `make test-sweep`. For each op of the capability tables: in how many forms PyTorch accepts it (`nn`, `F.` and
method spellings, arguments left out and given; tests/sweep/values.py has the ranges), and of those that were run, how
many ended right (float within 60 dB of PyTorch), refused before any work, or refused by the runtime by name, as each
was last seen.

"""


def rows(forms: Mapping[str, int], ended: Iterable[Mapping[str, Any]], targets: Sequence[str]) -> list[str]:
    """The table's lines. `forms`: row -> number of its forms; `ended`: how those that were run did."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for row in ended:
        counts.setdefault((row["op"], row["target"]), Counter())[row["end"]] += 1
    lines = [f"| Op | Forms | {' | '.join(targets)} |", f"|---|---|{'---|' * len(targets)}"]
    for op, number in forms.items():
        cells = [
            ", ".join(f"{n} {_WORDS[end]}" for end, n in counts.get((op, target), Counter()).most_common()) or "not run"
            for target in targets
        ]
        lines.append(f"| {op} | {number} | {' | '.join(cells)} |")
    return lines


def refused() -> list[str]:
    """What each target refuses of an op that it takes in other forms."""
    lines = []
    for name in registry.names():
        for form in registry.load(name).capabilities.forms:
            lines.append(f"- {name}, {'any op' if form.op == '*' else form.op}: {form.reason}")
    return lines


def write(forms: Mapping[str, int], ended: Sequence[Mapping[str, Any]], targets: Sequence[str]) -> str:
    """The document."""
    table = "\n".join(rows(forms, ended, targets))
    return f"{_HEAD}{table}\n\n## Forms that are refused before any work\n\n" + "\n".join([*refused(), ""])


def listed(text: str) -> dict[str, int]:
    """Row -> number of forms, as the document says."""
    found = re.findall(r"^\| (\w+) \| (\d+) \|", text, re.MULTILINE)
    return {op: int(number) for op, number in found}
