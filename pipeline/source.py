"""Digest of the code that a module can reach, without importing it.

The import statements of a file are followed to the files that they name below the given roots, and so on; each
file's bytes count. Imports of anything outside the roots (installed packages) do not: their versions are part of a
key by name. Imports that are computed at run time are not seen: that is what a recipe's `cache_key` is for.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from pipeline.artifact import sha256_file, sha256_json


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
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        waiting += _parents(name)
        for imported in _imports(file, file.stat().st_mtime_ns, package):
            waiting.append(imported)
    return found


def digest(module: str, roots: Sequence[Path], packages: Sequence[str] | None = None) -> str:
    """One hash over the names and contents of `reachable(...)`."""
    return sha256_json({name: sha256_file(file) for name, file in reachable(module, roots, packages).items()})


def digest_files(patterns: Sequence[str], folder: Path) -> dict[str, str]:
    """Digests of the files that glob patterns name, relative to a folder; a folder stands for all its files."""
    found: dict[str, str] = {}
    for pattern in patterns:
        for path in sorted(folder.glob(pattern)):
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file():
                    found[file.relative_to(folder).as_posix()] = sha256_file(file)
    return found


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


@cache
def _imports(file: Path, mtime_ns: int, package: str) -> tuple[str, ...]:
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return ()  # the import itself will say what is wrong, with the line
    return tuple(_names(tree, package))


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
