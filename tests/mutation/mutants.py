"""Every small change of a file that this knows: operators, comparisons, constants, conditions, statements left out."""

from __future__ import annotations

import ast
import copy
import difflib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitOr,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip
CALLS = {"min": "max", "max": "min", "any": "all", "all": "any", "floor": "ceil", "ceil": "floor"}
CALLS |= {"minimum": "maximum", "maximum": "minimum", "argmin": "argmax", "argmax": "argmin"}


@dataclass(frozen=True)
class Mutant:
    """A file's text with one change. `function`: first line of the function that it is in, 0 outside of any."""

    kind: str
    line: int
    function: int
    text: str
    diff: str

    @property
    def key(self) -> str:
        """Equal for equal changes of equal text."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


def of(text: str) -> list[Mutant]:
    """All mutants of a module's text, in the order of its lines."""
    lines = text.splitlines(keepends=True)
    found: dict[str, Mutant] = {}
    for node, function in _places(ast.parse(text), 0):
        for kind, new in _changes(node):
            changed = _replaced(lines, node, new)
            if changed != text and _compiles(changed):
                diff = "".join(list(difflib.unified_diff(lines, changed.splitlines(keepends=True), n=0))[2:])
                found.setdefault(changed, Mutant(kind, node.lineno, function, changed, diff))
    return sorted(found.values(), key=lambda one: one.line)


def _places(node: ast.AST, function: int) -> Iterator[tuple[Any, int]]:
    """Every node whose change may be seen, with its function: no types, docstrings, decorators or text in messages."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.JoinedStr | ast.Import | ast.ImportFrom):
                continue
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
                continue
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            inner = function
            if isinstance(child, ast.FunctionDef):
                inner = min([child.lineno, *(one.lineno for one in child.decorator_list)])
            yield child, inner
            yield from _places(child, inner)


def _changes(node: Any) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(node, ast.Compare):
        for index, op in enumerate(node.ops):
            new = copy.deepcopy(node)
            new.ops[index] = SWAPS[type(op)]()  # type: ignore[call-overload]
            yield "comparison", new
    elif isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in SWAPS:
        new = copy.deepcopy(node)
        new.op = SWAPS[type(node.op)]()  # type: ignore[assignment]
        yield "boolean" if isinstance(node, ast.BoolOp) else "operator", new
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield "sign", node.operand
    elif isinstance(node, ast.Constant) and type(node.value) in (bool, int, float):
        other = not node.value if isinstance(node.value, bool) else node.value + 1 if node.value in (0, 1) else None
        yield "constant", ast.Constant(node.value * 2 if other is None else other)
    elif (
        isinstance(node, ast.Name | ast.Attribute) and (name := getattr(node, "attr", getattr(node, "id", ""))) in CALLS
    ):
        new = copy.deepcopy(node)
        setattr(new, "attr" if isinstance(node, ast.Attribute) else "id", CALLS[name])
        yield "call", new
    if isinstance(node, ast.If | ast.IfExp | ast.While) and not isinstance(node.test, ast.Compare | ast.BoolOp):
        new = copy.deepcopy(node.test)
        yield "condition", _At(node.test, ast.UnaryOp(ast.Not(), new))
    stores = isinstance(node, ast.Assign) and not isinstance(node.targets[0], ast.Name | ast.Tuple)
    if isinstance(node, ast.Expr | ast.AugAssign | ast.Raise | ast.Delete) or stores:
        yield "left out", ast.Pass()


class _At(ast.AST):
    """A change of another node than the one that was looked at."""

    def __init__(self, place: ast.AST, new: ast.AST) -> None:
        super().__init__()
        self.place, self.new = place, new


def _replaced(lines: list[str], node: Any, new: ast.AST) -> str:
    if isinstance(new, _At):
        node, new = new.place, new.new
    said = ast.unparse(ast.fix_missing_locations(new))
    if isinstance(new, ast.expr):
        said = f"({said})"
    start, end = node.lineno - 1, node.end_lineno - 1  # columns count bytes
    before = lines[start].encode()[: node.col_offset].decode()
    after = lines[end].encode()[node.end_col_offset :].decode()
    return "".join([*lines[:start], before + said + after, *lines[end + 1 :]])


def _compiles(text: str) -> bool:
    try:
        compile(text, "mutant", "exec")
    except SyntaxError:
        return False
    return True
