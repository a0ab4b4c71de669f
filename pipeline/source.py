"""Digest of the code that a module can reach, without importing it.

The import statements of a file are followed to the files that they name below the given roots, and so on; imports for
type checkers, which never run, are not. Imports of anything outside the roots (installed packages) do not count: their
versions are part of a key by name. Imports that are computed at run time are not seen: that is what a recipe's
`cache_key` is for.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pipeline.artifact import sha256_file, sha256_json
from pipeline.errors import UsageError

NATIVE = (".c", ".cpp", ".h", ".hpp", ".ld", ".s")  # what a package compiles lies beside its modules


@dataclass(frozen=True)
class _Read:
    """What a file says to Python. `imports`: the dotted names in it; `meaning`: hash of its tree, which has neither
    comments nor positions, without docstrings and without what only a type checker reads.
    """

    imports: tuple[str, ...]
    meaning: str


def locate(module: str, roots: Sequence[Path]) -> Path | None:
    """The file of a dotted module name below the first root that has it."""
    for root in roots:
        base = root.joinpath(*module.split("."))
        for candidate in (base.with_suffix(".py"), base / "__init__.py"):
            if candidate.is_file():
                return candidate
    return None


def reachable(module: str, roots: Sequence[Path], packages: Sequence[str] | None = None) -> dict[str, Path]:
    """Module name -> file, for the module and everything below the roots that it imports, directly or not.

    `packages` limits it to these top-level names (where a root holds other people's packages too).
    """
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found or (packages is not None and name.partition(".")[0] not in packages):
            continue
        file = locate(name, roots)
        if file is None:
            continue
        found[name] = file
        waiting += _parents(name)
        waiting += imports(file, name)
    return found


def imports(file: Path, module: str) -> tuple[str, ...]:
    """Dotted names that a module's file imports when it runs: modules, and what it takes from them."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    return _read(file, file.stat().st_mtime_ns, package).imports


def digest(module: str, roots: Sequence[Path], packages: Sequence[str] | None = None, meaning: bool = False) -> str:
    """One hash over the names and contents of `reachable(...)` and over the native sources of the packages in it.

    `meaning`: what a module says to Python counts, not its comments, docstrings and line numbers. That is enough for
    code which reads none of them; of other people's code nobody knows (torch.jit.script, inspect, places in messages).
    """
    files = reachable(module, roots, packages)
    contents = {}
    for name, file in files.items():
        contents[name] = _read(file, file.stat().st_mtime_ns, "").meaning if meaning else sha256_file(file)
        if file.name == "__init__.py":
            contents |= {f"{name}/{path.name}": sha256_file(path) for path in native(file.parent)}
    return sha256_json(contents)


def native(package: Path) -> list[Path]:
    """Native sources of a package: in its folder, and in those below it that are no packages themselves."""
    inner = [path for path in package.iterdir() if path.is_dir() and not (path / "__init__.py").exists()]
    return sorted(path for one in (package, *inner) for path in one.iterdir() if path.suffix.lower() in NATIVE)


def digest_files(patterns: Sequence[str], folder: Path) -> dict[str, str]:
    """Digests of the files that paths or glob patterns name, from a folder; a folder stands for all its files.

    A name that is there as it is written is no pattern, whatever brackets it has. Raises UsageError for one that names
    nothing.
    """
    found: dict[str, str] = {}
    for pattern in patterns:
        paths = [folder / pattern] if pattern and (folder / pattern).exists() else _matching(pattern, folder)
        if not paths:
            raise UsageError(f"data_files: {pattern!r} names no file below {folder}: correct it, or leave it out")
        for path in paths:
            found |= digest_path(path, folder)
    return found


def digest_path(path: Path, folder: Path) -> dict[str, str]:
    """Digests of a file, or of all files in a folder, by their path from `folder` where they lie in it.

    Empty where nothing is at `path`.
    """
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return {
        (file.relative_to(folder) if file.is_relative_to(folder) else file).as_posix(): sha256_file(file)
        for file in files
        if file.is_file()
    }


def _matching(pattern: str, folder: Path) -> list[Path]:
    """What a glob pattern matches, relative to a folder or, where it is absolute, by itself."""
    path = Path(pattern)
    start = Path(path.anchor) if path.is_absolute() else folder
    try:
        return sorted(start.glob(path.relative_to(path.anchor).as_posix()))
    except (ValueError, IndexError) as error:
        raise UsageError(f"data_files: {pattern!r} is no path and no pattern: {error}") from error


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


@cache
def _read(file: Path, mtime_ns: int, package: str) -> _Read:
    """`package`: what relative imports in it are relative to; no part of its meaning."""
    text = file.read_bytes()
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):  # the import itself will say what is wrong, with the line
        return _Read((), hashlib.sha256(text).hexdigest())
    _strip(tree, _type_checking(tree))
    return _Read(tuple(_names(tree, package)), hashlib.sha256(ast.dump(tree).encode()).hexdigest())


def _names(tree: ast.Module, package: str) -> Iterator[str]:
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".") if package else []
            above = parts[: len(parts) - (node.level - 1)] if node.level else []
            base = ".".join([*above, node.module] if node.module else above)
            if base:
                yield base
            for alias in node.names:
                yield f"{base}.{alias.name}" if base else alias.name


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Every statement at any depth. Expressions hold no imports, and are most of a tree."""
    for part in ("body", "orelse", "finalbody", "handlers", "cases"):
        inner = getattr(node, part, None)
        for child in inner if isinstance(inner, list) else ():
            yield child
            yield from _statements(child)


def _type_checking(tree: ast.Module) -> frozenset[str]:
    """How a module spells typing.TYPE_CHECKING, which is False when it runs: `TYPE_CHECKING`, `t.TYPE_CHECKING`."""
    found, others = set[str](), set[str]()
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            found |= {f"{a.asname or a.name}.TYPE_CHECKING" for a in node.names if a.name in _TYPING}
        elif isinstance(node, ast.ImportFrom) and node.module in _TYPING and not node.level:
            found |= {a.asname or a.name for a in node.names if a.name == "TYPE_CHECKING"}
        elif isinstance(node, ast.Assign):
            names = {target.id for target in node.targets if isinstance(target, ast.Name)}
            false = isinstance(node.value, ast.Constant) and node.value.value is False
            (found if false else others).update(names & {"TYPE_CHECKING", "MYPY"})
    return frozenset(found - others)


_TYPING = ("typing", "typing_extensions")


def _truth(test: ast.expr, false: frozenset[str]) -> bool | None:
    """What a condition is when the module runs; None: that depends."""
    if isinstance(test, ast.Name | ast.Attribute):
        return False if ast.unparse(test) in false else None
    if isinstance(test, ast.Constant):
        return bool(test.value)
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        inner = _truth(test.operand, false)
        return None if inner is None else not inner
    if isinstance(test, ast.BoolOp):
        decides = isinstance(test.op, ast.Or)  # one true part makes `or` true, one false part makes `and` false
        parts = [_truth(part, false) for part in test.values]
        return decides if decides in parts else None if None in parts else not decides
    return None


def _strip(tree: ast.Module, false: frozenset[str]) -> None:
    """Take docstrings out, and of each `if` the branch that never runs."""
    for node in [tree, *_statements(tree)]:
        if isinstance(node, ast.If) and (runs := _truth(node.test, false)) is not None:
            (node.orelse if runs else node.body).clear()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and type(first.value.value) is str:
                del node.body[0]
