"""Whole layers that can go: residual blocks, x + f(x), which become x.

A block is one when, with all of its own weights zero, it says what it is given: tried on real inputs, so no list of
known architectures is needed, and taking the block out is then what zeroing it gives. The innermost such blocks count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.compression import gradients, structure
from pipeline.compression.copies import copied
from pipeline.compression.macs import count
from pipeline.compression.sight import Sight
from pipeline.compression.structure import LAYER, Edit, Kept

Score = Callable[[Sight, Sequence[str]], list[float]]


@dataclass(frozen=True)
class _Call:
    """How a module was called, and what it said."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any


def find(model: nn.Module, example: Sequence[Tensor]) -> tuple[list[str], list[Kept]]:
    """Names of the blocks that can go, in order, and the composed modules that cannot with the reason.

    `example`: real inputs, each [n, ...]. Leaves the model as it was.
    """
    with structure.judging(model), torch.no_grad():
        calls = _calls(model, example)
        reasons = {name: _reason(model, name, calls.get(name, []), example) for name in _composed(model)}
    good = [name for name, reason in reasons.items() if not reason]
    found = [name for name in good if not any(_inside(other, name) for other in good)]
    near = [name for name in reasons if any(_inside(name, one) or _inside(one, name) for one in found)]
    kept = [Kept(name, 1, reason) for name, reason in reasons.items() if reason and name not in near]
    return found, kept


def edits_for(names: Iterable[str]) -> list[Edit]:
    """The record of blocks that go."""
    return [{"module": name, "axis": LAYER, "width": 1, "removed": [0]} for name in names]


def choose(
    sight: Sight,
    example: Sequence[Tensor],
    budget: float,
    criterion: str,
    greedy: bool,
    value: Callable[[nn.Module], float] | None = None,
) -> tuple[list[str], int]:
    """The blocks to take out until the model takes at most `budget`, in the order in which they go; and how often they
    were scored. `greedy`: scored again after each. `value`: what a model takes, which falls as blocks go; MACs if None.

    Raises ValueError when the model is above the budget without all of them.
    """
    value = value or (lambda cut: count(cut, example).macs)
    now, gone, rounds = value(sight.model), list[str](), 0
    going = _in_order(sight, example, criterion, greedy)
    while now > budget:
        step = next(going, None)
        if step is None:
            raise ValueError(f"without its {len(gone)} blocks the model still takes {now:g}, the budget is {budget:g}")
        name, cut, rounds = step
        gone.append(name)
        now = value(cut)
    return gone, rounds


def spare(
    sight: Sight,
    example: Sequence[Tensor],
    limit: float,
    criterion: str,
    greedy: bool,
    loss: Callable[[nn.Module], float],
) -> tuple[list[str], int]:
    """As `choose`, as many as can go before `loss`, which grows as they do, is above `limit`."""
    gone: list[str] = []
    scored = 0
    for name, cut, rounds in _in_order(sight, example, criterion, greedy):
        if loss(cut) > limit:
            break
        gone.append(name)
        scored = rounds
    return gone, scored


def _in_order(
    sight: Sight, example: Sequence[Tensor], criterion: str, greedy: bool
) -> Iterator[tuple[str, nn.Module, int]]:
    """The block that goes next, the model without it and those before, and how often was scored."""
    cut = copied(sight.model)
    left, _ = find(cut, example)
    rounds = 0
    order: list[str] = []
    while left:
        if greedy or not order:
            scores = SCORES[criterion](replace(sight, model=cut), left)
            order = [name for _, name in sorted(zip(scores, left, strict=True))]
            rounds += 1
        name = order.pop(0)
        structure.apply(cut, edits_for([name]))
        left.remove(name)
        yield name, cut, rounds


def _contribution(sight: Sight, names: Sequence[str]) -> list[float]:
    def loss(model: nn.Module) -> float:
        seen = replace(sight, model=model)
        return sum(float(seen.loss(*batch)) for batch in seen.batches(256)) / len(sight.labels)

    with structure.judging(sight.model), torch.no_grad():
        base = loss(sight.model)
        found = []
        for name in names:
            cut = copied(sight.model)
            structure.apply(cut, edits_for([name]))
            found.append(loss(cut) - base)
    return found


def _random(sight: Sight, names: Sequence[str]) -> list[float]:
    return torch.rand(len(names), generator=torch.Generator().manual_seed(sight.seed)).tolist()


def _magnitude(order: int) -> Score:
    def scores(sight: Sight, names: Sequence[str]) -> list[float]:
        """Mean of |w|^order, so that a block does not stay because it is large."""
        flat = [torch.cat([weight.detach().flatten() for weight in _weights(sight.model, name)]) for name in names]
        return [float(weights.abs().pow(order).mean() ** (1 / order)) for weights in flat]

    return scores


def _sum(of: Callable[[Sight], gradients.Amounts], absolute: bool = False) -> Score:
    def scores(sight: Sight, names: Sequence[str]) -> list[float]:
        amounts = of(sight)
        totals = [sum(float(amounts[weight].sum()) for weight in _weights(sight.model, name)) for name in names]
        return [abs(total) for total in totals] if absolute else totals

    return scores


def _slope(sight: Sight) -> gradients.Amounts:
    return {parameter: slope * parameter.detach() for parameter, slope in gradients.mean_gradient(sight).items()}


# The criteria that say something of a whole block: each as for a unit, over all weights of the block.
SCORES: dict[str, Score] = {
    "l1": _magnitude(1),
    "l2": _magnitude(2),
    "random": _random,
    "weight_gradient": _sum(gradients.absolute),
    "taylor": _sum(_slope, absolute=True),
    "obd": _sum(gradients.damage),
    "contribution": _contribution,
}


def _weights(model: nn.Module, name: str) -> list[nn.Parameter]:
    return [parameter for parameter in model.get_submodule(name).parameters() if parameter.is_floating_point()]


def _composed(model: nn.Module) -> list[str]:
    """Modules made of others, with weights; not the model itself, nor what only holds them."""
    return [
        name
        for name, module in model.named_modules()
        if name and any(True for _ in module.children()) and any(True for _ in module.parameters())
    ]


def _calls(model: nn.Module, example: Sequence[Tensor]) -> dict[str, list[_Call]]:
    calls: dict[str, list[_Call]] = {}

    def hook(name: str) -> Any:
        def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            calls.setdefault(name, []).append(_Call(args, kwargs, output))

        return record

    names = _composed(model)
    handles = [model.get_submodule(name).register_forward_hook(hook(name), with_kwargs=True) for name in names]
    try:
        model(*example)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _reason(model: nn.Module, name: str, calls: Sequence[_Call], example: Sequence[Tensor]) -> str:
    """Why a module cannot go; empty when it can."""
    if not calls:
        return "it is not called by itself"
    if any(id(weight) in structure.shared(model) for weight in _weights(model, name)):
        return "it shares a parameter with another layer"
    zeroed = copied(model.get_submodule(name))
    for parameter in zeroed.parameters():
        parameter.zero_()
    for call in calls:
        given = call.args[0] if call.args else None
        if not isinstance(given, Tensor) or not isinstance(call.output, Tensor):
            return "it does not make one tensor of one tensor"
        if given.shape != call.output.shape:
            return f"it changes the shape from {list(given.shape)} to {list(call.output.shape)}"
        if not structure.difference(zeroed(*call.args, **call.kwargs), given) <= structure.TOLERANCE:
            return "it is not x + f(x): with its weights zero it does not say what it is given"
    cut, silent = copied(model), copied(model)
    for parameter in silent.get_submodule(name).parameters():
        parameter.zero_()
    try:
        structure.apply(cut, edits_for([name]))
        removed, expected = cut(*example), silent(*example)
    except Exception as error:
        return f"without it the model does not run: {' '.join(str(error).split())[:160]}"
    if not structure.difference(removed, expected) <= structure.TOLERANCE:
        return "removing it is not the same as zeroing it"
    return ""


def _inside(name: str, other: str) -> bool:
    return name.startswith(f"{other}.")
