"""A program's ops in the targets' capability tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.errors import UsageError


def check_ops(target: str, table: Mapping[str, Any], ops: Mapping[str, str]) -> None:
    """Raise UsageError with the reasons of a target's capability table for ops that it refuses; op -> source line."""
    refused = [
        f"{op}{f' ({line})' if line else ''}: {table[base_name(op)].reason}"
        for op, line in ops.items()
        if base_name(op) in table and table[base_name(op)].level == "refused"
    ]
    if refused:
        raise UsageError(f"{target} cannot run {'; '.join(refused)}")


def base_name(op: str) -> str:
    """`aten.conv1d.default` and `aten.conv1d` are one row of the capability table; so are in-place forms."""
    namespace, _, rest = op.partition(".")
    return f"{namespace}.{rest.partition('.')[0].rstrip('_')}"


def beyond(target: str, ops: Iterable[str]) -> tuple[str, ...]:
    """Of a program's ops, those beside convolutions and fully connected layers whose weights the target has in int8."""
    from pipeline.stages.weights import BEYOND
    from targets import registry

    table = registry.load(target).capabilities.ops
    there = {base_name(op) for op in ops}
    return tuple(op for op in BEYOND if op in there and op in table and table[op].level == "int8")
