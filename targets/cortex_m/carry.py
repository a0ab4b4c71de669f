"""States of a step network (a GRU or LSTM cell, say): an output of one run that is an input of the next."""

from __future__ import annotations

from collections.abc import Mapping

from targets.base import TargetError
from targets.cortex_m import lookup
from targets.cortex_m.call import Call, scale, zero
from targets.cortex_m.fixed_point import clamp_code, quantize_multiplier, requantize
from targets.cortex_m.graph import Graph, Value


def pairs(graph: Graph, where: str, states: Mapping[str, str]) -> list[tuple[Value, Value]]:
    """(output, input) for each "output" -> "input". Raises TargetError for names and sizes that do not fit."""
    found = []
    for side, given in (("output", list(states)), ("input", list(states.values()))):
        known = [value.name for value in (graph.outputs if side == "output" else graph.inputs)]
        for name in given:
            if name not in known or given.count(name) > 1:
                why = "twice" if name in known else f"which is none of {known}"
                raise TargetError(f"{where}: a state names the {side} '{name}', {why}", "unsupported")
    for output, into in states.items():
        first = next(value for value in graph.outputs if value.name == output)
        second = next(value for value in graph.inputs if value.name == into)
        if first.size != second.size:
            raise TargetError(
                f"{where}: the state '{output}' is {list(first.shape)}, the input '{into}' {list(second.shape)}",
                "unsupported",
            )
        found.append((first, second))
    return found


def call(output: Value, into: Value) -> Call:
    """The codes of an output under the scale of an input, as QUANTIZE gives them."""
    factor = quantize_multiplier(float(scale(output)) / float(scale(into)))
    return lookup.call(lambda code: clamp_code(requantize(code - zero(output), *factor) + zero(into)), output, into)
