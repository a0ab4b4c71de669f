"""Calls in the forms that converters know: PyTorch's own answers, from another wording."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from targets.program_forms import plain

aten = torch.ops.aten
X = torch.randn(2, 6, 7, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.call = call
        self.weight = nn.Parameter(torch.randn(4, 6, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x) if self.call.__code__.co_argcount == 1 else self.call(x, self.weight)  # type: ignore[call-arg]


def made(call: Callable[..., Tensor]) -> tuple[dict[str, list[object]], Tensor, Tensor]:
    """Op -> its arguments but the first, after; what the program says before and after."""
    exported = torch.export.export(Net(call), (X,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},))
    before = exported.module()(X)
    plain(exported.graph)
    exported.graph_module.recompile()
    calls = {str(n.target): [*n.args[1:], *n.kwargs.values()] for n in exported.graph.nodes if n.op == "call_function"}
    return calls, before, exported.module()(X)


@pytest.mark.parametrize(
    ("call", "op", "arguments"),
    [
        (lambda x: F.avg_pool2d(x, 3, (2,)), "aten.avg_pool2d.default", [[3, 3], [2, 2]]),
        (lambda x: F.max_pool2d(x, (3,), padding=1), "aten.max_pool2d.default", [[3, 3], [], [1, 1]]),
        (lambda x: x.clamp(min=0.0, max=1), "aten.clamp.default", [0.0, 1.0]),
        (lambda x: torch.sub(x, x.abs(), alpha=2), "aten.mul.Tensor", [2]),
        (lambda x: torch.subtract(x, x.abs(), alpha=2), "aten.mul.Tensor", [2]),
        (lambda x: torch.sub(x, x.abs(), alpha=1.0), "aten.sub.Tensor", ["abs_1"]),
        (lambda x: x.squeeze(2), "aten.clone.default", []),
        (lambda x: x[:, :1].squeeze((1, 2)), "aten.squeeze.dims", [[1]]),
        (lambda x: x.view(torch.float32), "aten.clone.default", []),
        (lambda x: torch.sort(x, dim=1, stable=True)[0], "aten.sort.default", [1, False]),
        (lambda x: torch.hstack([x, x]), "aten.cat.default", [1]),
        (lambda x: x.chunk(1, dim=-2)[0], "aten.clone.default", []),
        (lambda x: aten._unsafe_view(x, [-1, 336]), "aten.reshape.default", [[-1, 336]]),
    ],
)
def test_a_call_is_said_in_full_and_says_the_same(
    call: Callable[[Tensor], Tensor], op: str, arguments: list[object]
) -> None:
    calls, before, after = made(call)
    assert [str(a) if isinstance(a, torch.fx.Node) else a for a in calls[op]][: len(arguments)] == arguments
    assert op != "aten.sub.Tensor" or len(calls[op]) == 1
    assert all(isinstance(b, float) == isinstance(a, float) for a, b in zip(calls[op], arguments, strict=False))
    assert torch.equal(before, after)


def test_one_dilation_for_both_axes_is_two_numbers() -> None:
    calls, before, after = made(lambda x, w: F.conv2d(x, w, stride=(1,), dilation=2))
    assert [value for value in calls["aten.conv2d.default"] if isinstance(value, list)][-1] == [2, 2]
    assert torch.equal(before, after)


def test_padding_by_name_and_integers_stay() -> None:
    calls, _, _ = made(lambda x, w: F.conv2d(x, w, padding="same"))
    assert "same" in calls["aten.conv2d.padding"]
    calls, _, _ = made(lambda x: (x > 0).long().clamp(0, 1).float())
    assert calls["aten.clamp.default"] == [0, 1]
