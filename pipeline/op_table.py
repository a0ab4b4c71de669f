"""A program's ops in the targets' capability tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.errors import UsageError

if TYPE_CHECKING:
    from targets.base import Capabilities


def check_ops(target: str, table: Mapping[str, Any], ops: Mapping[str, str]) -> None:
    """Raise UsageError with the reasons of a target's capability table for ops that it refuses; op -> source line."""
    refused = [
        f"{op}{f' ({line})' if line else ''}: {table[base_name(op)].reason}"
        for op, line in ops.items()
        if base_name(op) in table and table[base_name(op)].level == "refused"
    ]
    if refused:
        raise UsageError(f"{target} cannot run {'; '.join(refused)}")


def check_calls(target: str, able: Capabilities, calls: Sequence[Mapping[str, Any]]) -> None:
    """Raise UsageError for calls whose op, or whose form, a target refuses: each op, its source line, and why.

    `calls`: of the export stage (`pipeline.stages.export.calls_of`).
    """
    check_ops(target, able.ops, {call["op"]: call["line"] for call in reversed(calls)})
    refused = [f"{op}{f' ({line})' if line else ''}: {reason}" for op, line, reason in refused_forms(able, calls)]
    if refused:
        raise UsageError(f"{target} cannot run {'; '.join(dict.fromkeys(refused))}")


def refused_forms(able: Capabilities, calls: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """(op, source line, reason) of calls in a form that the target refuses."""
    return [
        (call["op"], call["line"], form.reason)
        for call in calls
        for form in able.forms
        if form.op in (base_name(call["op"]), "*") and form.refused(call)
    ]


# PyTorch's other names for an op, which torch.export keeps.
ALIASES = {
    "absolute": "abs",
    "arctan": "atan",
    "clip": "clamp",
    "concat": "cat",
    "concatenate": "cat",
    "divide": "div",
    "true_divide": "div",
    "greater": "gt",
    "less": "lt",
    "moveaxis": "movedim",
    "multiply": "mul",
    "negative": "neg",
    "special_erfinv": "erfinv",
    "special_expit": "sigmoid",
    "special_gammaln": "lgamma",
    "special_log_softmax": "log_softmax",
    "special_logsumexp": "logsumexp",
    "special_softmax": "softmax",
    "subtract": "sub",
    "swapaxes": "transpose",
    "swapdims": "transpose",
}


def base_name(op: str) -> str:
    """`aten.conv1d.default` and `aten.conv1d` are one row of a capability table; so are in-place forms and aliases."""
    namespace, _, rest = op.partition(".")
    name = rest.partition(".")[0].rstrip("_")
    return f"{namespace}.{ALIASES.get(name, name)}"


def beyond(target: str, ops: Iterable[str]) -> tuple[str, ...]:
    """Of a program's ops, those beside convolutions and fully connected layers whose weights the target has in int8."""
    from pipeline.stages.weights import BEYOND
    from targets import registry

    table = registry.load(target).capabilities.ops
    there = {base_name(op) for op in ops}
    return tuple(op for op in BEYOND if op in there and op in table and table[op].level == "int8")
