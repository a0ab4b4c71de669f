"""What `make test-mutation` changes: each change compiles and is one place, none of types, docstrings or messages."""

import ast

import pytest

from tests.mutation import mutants

CODE = '''"""Text, 1 < 2."""
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os


class A:
    """Text."""

    size: "int | None" = 3

    @property
    def b(self, x: int | str = -1) -> int | None:
        """Text."""
        if not x or x < 2 and self.size:
            raise ValueError(f"{x + 1} is too small")
        self.c = min(x, 4)
        return "é" if x & 1 else x // 2
'''
CHANGED = {
    "constant": ["(6)", "-(2)", "(4)", "(8)", "(2)", "(4)"],
    "sign": ["(1)", "(x)"],
    "boolean": ["(not x and (x < 2 and self.size))", "(x < 2 or self.size)"],
    "comparison": ["(x <= 2)"],
    "left out": ["pass", "pass"],
    "call": ["(max)"],
    "operator": ["(x | 1)", "(x * 2)"],
    "condition": ["(not x & 1)"],
}


def test_each_change_is_one_and_all_are_found() -> None:
    found = mutants.of(CODE)
    seen: dict[str, list[str]] = {}
    for one in found:
        new = next(line[1:] for line in one.diff.splitlines() if line.startswith("+"))
        seen.setdefault(one.kind, []).append(new)
        ast.parse(one.text)
        assert one.text.splitlines()[: one.line - 1] == CODE.splitlines()[: one.line - 1]
    assert {kind: len(lines) for kind, lines in seen.items()} == {kind: len(parts) for kind, parts in CHANGED.items()}
    for kind, parts in CHANGED.items():
        assert all(any(part in line for line in seen[kind]) for part in parts)
    assert len({one.key for one in found}) == len(found)


def test_functions_are_known_by_the_line_that_python_gives_them() -> None:
    lines = CODE.splitlines()
    for one in mutants.of(CODE):
        assert one.function == (lines.index("    @property") + 1 if one.line > lines.index("    @property") + 1 else 0)


@pytest.mark.parametrize("text", ["", "x: int = y\n", '"""Text."""\n', "@f(1)\ndef g(): ...\n"])
def test_what_says_nothing_is_not_changed(text: str) -> None:
    assert mutants.of(text) == []
