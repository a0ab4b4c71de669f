"""A graph as kernel calls with a place in the arena for each activation: all that is known before a compiler runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from targets.cortex_m import carry, lower, planner, support
from targets.cortex_m import graph as graphs
from targets.cortex_m.call import Call, Constant
from targets.cortex_m.graph import Graph, Node, Value
from targets.cortex_m.planner import Buffer, Plan

Kernels = Callable[[Node], list[Call]]
BEFORE, AFTER = -1, 1 << 30  # steps: inputs are written before the first, outputs read after the last


@dataclass(frozen=True)
class Step:
    """One node and its calls (none: its output is its input under another shape)."""

    node: Node
    calls: tuple[Call, ...]


@dataclass(frozen=True)
class Program:
    """`home[value index]` is the number of the plan's buffer that holds an activation; `scratch[position]` of the one
    that the op at that position works in."""

    graph: Graph
    steps: tuple[Step, ...]
    home: dict[int, int]
    scratch: dict[int, int]
    plan: Plan
    carries: tuple[Call, ...] = ()  # after a run: outputs that are states, to the inputs that want them

    def offset(self, value: Value) -> int:
        """Bytes from the arena's start."""
        return self.plan.offsets[self.home[value.index]]

    def scratch_offset(self, step: Step) -> int:
        """Bytes from the arena's start to the scratch of a step that has some."""
        return self.plan.offsets[self.scratch[step.node.position]]

    @property
    def calls(self) -> list[Call]:
        """All calls in order."""
        return [call for step in self.steps for call in step.calls]

    @property
    def kernels(self) -> list[str]:
        """The kernels that are called, each once."""
        return sorted({call.kernel for call in (*self.calls, *self.carries)})

    @property
    def constant_bytes(self) -> int:
        """Bytes of weights, biases, multipliers and constant operands, as they lie in flash."""
        return sum(a.nbytes for a in self.tables.values()) + sum(value.size for value in constant_operands(self))

    @property
    def tables(self) -> dict[bytes, Constant]:
        """Arrays of constants, each content once: type and bytes -> array. Steps of an unrolled loop share weights."""
        calls = (*self.calls, *self.carries)
        arrays = [a for call in calls for a in call.constants.values() if a is not None]
        return {table_key(a): a for a in arrays}

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run."""
        return sum(node.macs for node in self.graph.nodes)

    def live_bytes(self, position: int) -> int:
        """Bytes of the activations that live while the op at `position` runs."""
        return sum(b.size for b in self.plan.buffers if b.first <= position <= b.last)

    def drawn(self) -> list[dict[str, Any]]:
        """The plan as rows to draw: {name, kind, offset, bytes, first, last} of each buffer.

        `kind`: "input", "output", "activation" or "scratch". Steps count from 0, the inputs' writing, to the reading of
        the outputs.
        """
        names = {n: self._value(index).name for index, n in reversed(self.home.items())}
        names |= {n: f"scratch of op {position}" for position, n in self.scratch.items()}
        kinds = dict.fromkeys(self.scratch.values(), "scratch")
        kinds |= {self.home[value.index]: "output" for value in self.graph.outputs}
        kinds |= {self.home[value.index]: "input" for value in self.graph.inputs}
        steps = [BEFORE, *(step.node.position for step in self.steps), AFTER]
        number = {step: n for n, step in enumerate(steps)}
        return [
            {
                "name": names[n],
                "kind": kinds.get(n, "activation"),
                "offset": offset,
                "bytes": buffer.size,
                "first": number[buffer.first],
                "last": number[buffer.last],
            }
            for n, (buffer, offset) in enumerate(zip(self.plan.buffers, self.plan.offsets, strict=True))
        ]

    def _value(self, index: int) -> Value:
        """The activation of that number."""
        values = (*self.graph.inputs, *(value for node in self.graph.nodes for value in node.outputs))
        return next(value for value in values if value.index == index)


def table_key(array: Constant) -> bytes:
    """Equal for arrays that can be one in flash."""
    return array.dtype.str.encode() + array.tobytes()


def constant_operands(program: Program) -> list[Value]:
    """Constants that a kernel reads as an activation (an operand of ADD, say), each once."""
    found = {v.index: v for call in program.calls for v in call.inputs if v.data is not None}
    return list(found.values())


def compile_file(path: Path, kernels: Kernels = lower.calls, states: Mapping[str, str] | None = None) -> Program:
    """The program of an int8 .tflite. Raises TargetError "unsupported" naming the op and the reason.

    `kernels` gives the calls of a node: our own, or another set's (targets/cortex_m/cmsis_nn). `states`: output -> the
    input that takes it at the next run.
    """
    return compile_graph(graphs.read(path), str(path), kernels, states)


def compile_graph(
    graph: Graph,
    where: str = "the model",
    kernels: Kernels = lower.calls,
    states: Mapping[str, str] | None = None,
) -> Program:
    """See `compile_file`; `where` names the model in messages."""
    graph = graphs.interior(graph)
    support.check(graph, where)
    steps = tuple(Step(node, tuple(kernels(node))) for node in graph.nodes)
    carried = carry.pairs(graph, where, states or {})
    home, buffers = _buffers(graph, steps, {into.index for _, into in carried})
    scratch = {}
    for step in steps:
        needed = max((call.scratch_bytes for call in step.calls), default=0)
        if needed:
            scratch[step.node.position] = len(buffers)
            buffers.append(Buffer(needed, step.node.position, step.node.position))
    layout = planner.plan(buffers, lags=_lags(steps, home, buffers))
    return Program(graph, steps, home, scratch, layout, tuple(carry.call(*pair) for pair in carried))


def _lags(steps: tuple[Step, ...], home: dict[int, int], buffers: list[Buffer]) -> dict[tuple[int, int], int]:
    """(buffer of an output, of the input that ends there) -> `Call.lag`."""
    found = {}
    for step in steps:
        for call in step.calls:
            source = call.inputs[0]
            if call.lag is None or source.data is not None:
                continue
            output, into = home[call.output.index], home[source.index]
            if buffers[output].first == buffers[into].last == step.node.position:
                found[output, into] = call.lag
    return found


def _buffers(graph: Graph, steps: tuple[Step, ...], kept: set[int]) -> tuple[dict[int, int], list[Buffer]]:
    """Value index -> buffer number, and the buffers. Values share one by renaming or by running in place.

    `kept`: inputs that live to the end.
    """
    root: dict[int, int] = {}
    size: dict[int, int] = {}
    first: dict[int, int] = {}
    last: dict[int, int] = {}

    def find(index: int) -> int:
        while root[index] != index:
            index = root[index]
        return index

    def begin(value: Value, step: int) -> None:
        root[value.index], size[value.index] = value.index, value.size
        first[value.index] = last[value.index] = step

    for value in graph.inputs:
        begin(value, BEFORE)
    for step in steps:
        position = step.node.position
        for value in step.node.inputs[:1] if step.node.op == "RESHAPE" else step.node.inputs:
            if value.data is None:
                last[find(value.index)] = position
        for value in step.node.outputs:
            begin(value, position)
        if not step.calls:
            merge_into = find(step.node.inputs[0].index)
            root[step.node.outputs[0].index] = merge_into
            last[merge_into] = position
    for index in (*(value.index for value in graph.outputs), *kept):
        last[find(index)] = AFTER
    for step in steps:
        for call in step.calls:
            output = find(call.output.index)
            for value in call.inputs if call.kernel in lower.IN_PLACE else ():
                if value.data is not None:
                    continue
                source = find(value.index)
                if source != output and last[source] == step.node.position and size[source] == size[output]:
                    root[output], last[source] = source, last[output]
                    break
    roots = [index for index in root if root[index] == index]
    number = {index: n for n, index in enumerate(roots)}
    return {i: number[find(i)] for i in root}, [Buffer(size[i], first[i], last[i]) for i in roots]
