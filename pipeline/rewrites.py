"""Named rewrites of a network for targets that lack an op: applied to its calls, so training and export see them.

Each takes a function that the network calls, whatever module or functional form it is called through, and computes
something else in its place (torch.overrides). The weights, and the names of layers, stay as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pipeline.errors import UsageError

Call = Callable[..., Any]


class Rewriting(TorchFunctionMode):
    """While it is entered, calls of the named passes' functions are computed their way.

    `done`: pass -> calls that it rewrote; `left`: pass -> why it left others alone.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.passes = {name: PASSES[name] for name in names}
        self.done: Counter[str] = Counter()
        self.left: dict[str, str] = {}
        self.states: list[tuple[Tensor, Tensor, int]] = []  # all outputs of a cell, its last one, the axis of time

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        keywords = dict(kwargs or {})
        for name, one in self.passes.items():
            if func in one.functions:
                answer = one.apply(self, name, func, args, keywords)
                if answer is not NotImplemented:
                    return answer
        return func(*args, **keywords)


class SinglePrecision(TorchFunctionMode):
    """While it is entered, what asks for another floating type gets float32: casts, and tensors that are made."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in (Tensor.half, Tensor.bfloat16, Tensor.double):
            return Tensor.float(args[0])
        return func(*map(_single, args), **{name: _single(value) for name, value in (kwargs or {}).items()})


OTHER_FLOATS = (torch.float16, torch.bfloat16, torch.float64)


def _single(value: Any) -> Any:
    return torch.float32 if isinstance(value, torch.dtype) and value in OTHER_FLOATS else value


def _gelu(mode: Rewriting, name: str, func: Call, args: Any, keywords: Any) -> Any:
    (x, *_) = args or (keywords["input"],)
    mode.done[name] += 1
    return x * torch.sigmoid(1.702 * x)


def _leaky_relu(mode: Rewriting, name: str, func: Call, args: Any, keywords: Any) -> Any:
    given = dict(zip(("input", "negative_slope", "inplace"), args, strict=False)) | keywords
    x = given["input"]
    mode.done[name] += 1
    return torch.relu(x) - given.get("negative_slope", 0.01) * torch.relu(-x)


def _bounds(x: Any, low: Any = None, high: Any = None, **named: Any) -> tuple[Any, Any, Any]:
    first = named.get("min", named.get("min_val", low))
    return x, first, named.get("max", named.get("max_val", high))


def _clamp(mode: Rewriting, name: str, func: Call, args: Any, keywords: Any) -> Any:
    given = {key: value for key, value in keywords.items() if key not in ("input", "inplace")}
    if func is F.hardtanh:
        given = {"min_val": -1.0, "max_val": 1.0, **given} if len(args) < 2 else given
    x, low, high = _bounds(*(args[:3] or (keywords["input"],)), **given)
    if isinstance(low, Tensor) or isinstance(high, Tensor) or not x.is_floating_point():
        mode.left[name] = "a clamp between tensors, or of integers, is none between two constants"
        return NotImplemented
    if (low, high) == (0, 6) or (low == 0 and high is None):
        return F.relu6(x) if high else torch.relu(x)  # what every target has
    mode.done[name] += 1
    if low is None:
        return high - torch.relu(high - x)
    above = low + torch.relu(x - low) if low else torch.relu(x)
    return above if high is None else above - torch.relu(x - high)


def _cell(mode: Rewriting, name: str, func: Call, args: Any, keywords: Any) -> Any:
    answer = func(*args, **keywords)
    if len(args) < 9 or not isinstance(args[3], bool):
        mode.left[name] = "a packed sequence has no last step that is the same for all samples"
        return answer
    bidirectional, batch_first = args[7], args[8]
    if bidirectional:
        mode.left[name] = "the last step of a bidirectional cell is no final state: its backward half has seen one step"
        return answer
    mode.states.append((answer[0], answer[1][-1], 1 if batch_first else 0))
    return answer


def _last_step(mode: Rewriting, name: str, func: Call, args: Any, keywords: Any) -> Any:
    x, index = args[0], args[1] if len(args) > 1 else keywords.get("index")
    for outputs, state, axis in mode.states:
        if x is outputs and index in ((slice(None), -1), (slice(None), -1, slice(None))) and axis == 1:
            mode.done[name] += 1
            return state
        if x is outputs and axis == 0 and index in (-1, (-1,)):
            mode.done[name] += 1
            return state
    return NotImplemented


def _rnn_head(mode: Rewriting, name: str, func: Call, args: Any, keywords: Any) -> Any:
    return (_last_step if func is Tensor.__getitem__ else _cell)(mode, name, func, args, keywords)


@dataclass(frozen=True)
class Pass:
    """`text`: what becomes of what."""

    text: str
    functions: tuple[Call, ...]
    apply: Callable[[Rewriting, str, Call, Any, Any], Any]


PASSES: dict[str, Pass] = {
    # Hendrycks and Gimpel 2016 (arXiv:1606.08415), section 2.
    "gelu": Pass("GELU becomes x * sigmoid(1.702 x)", (F.gelu,), _gelu),
    "clamp": Pass(
        "a clamp to [a, b] becomes a + relu(x - a) - relu(x - b)",
        (torch.clamp, torch.clip, Tensor.clamp, Tensor.clip, F.hardtanh),
        _clamp,
    ),
    "leaky_relu": Pass("LeakyReLU becomes relu(x) - slope * relu(-x)", (F.leaky_relu,), _leaky_relu),
    "rnn_head": Pass(
        "the last of a GRU's, LSTM's or RNN's outputs becomes its final state, so that the others need not be joined",
        (torch.gru, torch.lstm, torch.rnn_tanh, torch.rnn_relu, Tensor.__getitem__),
        _rnn_head,
    ),
}


def check(mode: Rewriting) -> None:
    """Raise UsageError for a pass that rewrote nothing: it is not needed, or not possible."""
    for name in mode.passes:
        if not mode.done[name]:
            why = mode.left.get(name)
            raise UsageError(
                f"rewrite: '{name}' cannot be applied: {why}"
                if why
                else f"rewrite: '{name}' finds nothing in this network ({PASSES[name].text}): leave it out"
            )
