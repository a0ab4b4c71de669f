"""How a user's model is called and what it answers: inputs by name, outputs by name, whatever its `forward` looks like.

Everything of ours calls `model(*tensors)` in the order of the data's inputs, and gets one tensor, or a dict of them
where there are several.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

OUTPUT = "output"  # what a model's only output is called where its forward gives it no name

Outputs = Any  # a Tensor, or dict[str, Tensor] of several


class Forward:
    """Stands in for a module's `forward`: `*tensors` go to the parameters of the data's names, else in order; where it
    has one parameter and the data several inputs, it gets them as a dict.

    A mapping (also a transformers ModelOutput), tuple or list becomes {name: tensor}; what is None is left out, and a
    single tensor comes as it is. `flat` gives several as a tuple. `names` are those of the last call.
    """

    def __init__(self, function: Callable[..., Any], inputs: Sequence[str]) -> None:
        self.function, self.inputs = function, tuple(inputs)
        self.keywords = _by_name(function, self.inputs)
        self.together = len(self.inputs) > 1 and _takes_one(function)
        self.names: tuple[str, ...] = (OUTPUT,)
        self.flat = False
        self.rewrites: tuple[str, ...] = ()  # of pipeline/rewrites.py
        self.single = ""  # in which other floating types the weights came: they are float32 now, and casts to those too
        if inputs:
            self.__signature__ = inspect.Signature(
                [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in inputs]
            )

    @property
    def __code__(self) -> Any:
        """The user's own: exporters say where it is."""
        return getattr(self.function, "__code__", Forward.__call__.__code__)

    def __call__(self, *tensors: Any, **named: Any) -> Outputs:
        """One tensor, or several by name."""
        with contextlib.ExitStack() as modes:
            if self.rewrites or self.single:
                from pipeline.rewrites import Rewriting, SinglePrecision

                for mode in [SinglePrecision()] * bool(self.single) + [Rewriting(self.rewrites)] * bool(self.rewrites):
                    modes.enter_context(mode)
            outputs = by_name(self._called(*tensors, **named))
        self.names = tuple(outputs)
        if len(outputs) == 1:
            return next(iter(outputs.values()))
        return tuple(outputs.values()) if self.flat else outputs

    def _called(self, *tensors: Any, **named: Any) -> Any:
        if self.together:
            return self.function(dict(zip(self.inputs, tensors, strict=True)), **named)
        if self.keywords:
            return self.function(**dict(zip(self.inputs, tensors, strict=False)), **named)
        return self.function(*tensors, **named)


def rewrite(model: nn.Module, passes: Sequence[str]) -> nn.Module:
    """An adapted module whose calls go through these passes of pipeline/rewrites.py."""
    forward: Any = model.forward
    if isinstance(forward, Forward):
        forward.rewrites = tuple(passes)
    return model


def computed_in_single(model: nn.Module, came: str) -> nn.Module:
    """An adapted module that computes in float32 whatever floating types its forward asks for. `came`: its weights'."""
    forward: Any = model.forward
    if isinstance(forward, Forward):
        forward.single = came
    return model


def came_as(model: nn.Module) -> str:
    """A note on an adapted module whose weights came in other floating types than float32; else empty."""
    came = model.forward.single if isinstance(model.forward, Forward) else ""
    return f"the model's weights are {came}: they are made float32, and so is what it casts to that" if came else ""


def rewrites_of(model: nn.Module) -> tuple[str, ...]:
    """The passes that an adapted module's calls go through."""
    return model.forward.rewrites if isinstance(model.forward, Forward) else ()


def adapt(model: nn.Module, inputs: Sequence[str] = ()) -> nn.Module:
    """The same module, called and answering as described above. `inputs`: the data's names, in its order."""
    model.forward = Forward(model.forward, inputs)
    return model


def output_names(model: nn.Module) -> tuple[str, ...]:
    """What the outputs of an adapted module's last call are called, in order."""
    forward = model.forward
    return forward.names if isinstance(forward, Forward) else (OUTPUT,)


def flat(model: nn.Module) -> nn.Module:
    """An adapted module that answers several outputs as a tuple: what exporters keep in order."""
    forward: Any = model.forward
    if isinstance(forward, Forward):
        forward.flat = True
    return model


def by_name(answer: Any) -> dict[str, Tensor]:
    """A forward's answer as {name: tensor}. Raises UsageError for anything but tensors on one level."""
    import torch

    if isinstance(answer, torch.Tensor):
        return {OUTPUT: answer}
    if isinstance(answer, Mapping):
        rows = [(str(name), value) for name, value in answer.items()]
    elif isinstance(answer, tuple | list):
        rows = [(f"{OUTPUT}{index}", value) for index, value in enumerate(answer)]
    else:
        rows = []
    found = {name: value for name, value in rows if value is not None}
    odd = [
        f"'{name}' is {type(value).__name__}" for name, value in found.items() if not isinstance(value, torch.Tensor)
    ]
    if odd or not found:
        raise UsageError(
            f"the model returns {type(answer).__name__}{f' where {odd[0]}' if odd else ''}, expected a tensor, or a "
            "dict or tuple of tensors"
        )
    return found


def first(outputs: Outputs) -> Tensor:
    """The only output, or the first of several: the logits of a classification."""
    tensor: Tensor = next(iter(outputs.values())) if isinstance(outputs, Mapping) else outputs
    return tensor


def _takes_one(function: Callable[..., Any]) -> bool:
    """Is there one parameter, and no way to give it more?"""
    try:
        (one,) = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    return one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)


def _by_name(function: Callable[..., Any], inputs: tuple[str, ...]) -> bool:
    """Do the data's names mean parameters? All of them, or none: what fits in part is a mistake."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    kinds = inspect.Parameter
    known = {p.name for p in parameters if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)}
    fitting = [name for name in inputs if name in known]
    if (
        len(inputs) > 1
        and fitting
        and len(fitting) < len(inputs)
        and not any(p.kind == kinds.VAR_KEYWORD for p in parameters)
    ):
        other = [name for name in inputs if name not in known]
        raise UsageError(
            f"the data's inputs are {list(inputs)}, but forward takes {sorted(known)} and no {other}: name all inputs "
            "as forward does, or none"
        )
    return bool(inputs) and len(fitting) == len(inputs)
