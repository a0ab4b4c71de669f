"""A user's forward, whatever it takes and gives, called by position and answered by name."""

import copy
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline import interface
from pipeline.errors import UsageError

A, B = torch.ones(2, 3), torch.full((2, 3), 5.0)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(2.0))

    def forward(self, left: Tensor, other: Tensor | None = None, right: Tensor | None = None) -> Any:
        return {"difference": self.gain * (left - (0 if right is None else right)), "left": left, "nothing": None}


def test_inputs_go_to_the_parameters_of_their_names() -> None:
    model = interface.adapt(Two(), ["right", "left"])
    answer = model(B, A)
    assert list(answer) == ["difference", "left"]
    assert torch.equal(answer["difference"], 2 * (A - B))
    assert interface.output_names(model) == ("difference", "left")


def test_other_names_go_in_order() -> None:
    class Plain(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x - y

    assert torch.equal(interface.adapt(Plain(), ["one", "two"])(A, B), A - B)


def test_a_forward_of_one_parameter_gets_several_inputs_as_a_dict() -> None:
    class Together(nn.Module):
        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            return batch["one"] - batch["two"]

    model = interface.adapt(Together(), ["two", "one"])
    assert torch.equal(model(B, A), A - B)
    with torch.no_grad():
        exported = torch.export.export(copy.deepcopy(model), (B, A))
    assert torch.equal(exported.module()(B, A), A - B)


def test_names_that_fit_in_part_are_refused() -> None:
    with pytest.raises(UsageError, match=r"no \['sideways'\]: name all inputs as forward does, or none"):
        interface.adapt(Two(), ["left", "sideways"])


def test_a_copy_calls_itself() -> None:
    model = interface.adapt(Two(), ["left", "right"])
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.get_parameter("gain").fill_(7.0)
    assert torch.equal(other(A, B)["difference"], 7 * (A - B))
    assert torch.equal(model(A, B)["difference"], 2 * (A - B))


@pytest.mark.parametrize(
    ("answer", "names"),
    [
        (A, ["output"]),
        ((A, B), ["output0", "output1"]),
        ([A, None], ["output0"]),
        (OrderedDict(logits=A, hidden=B), ["logits", "hidden"]),
    ],
)
def test_outputs_by_name(answer: Any, names: list[str]) -> None:
    assert list(interface.by_name(answer)) == names


@pytest.mark.parametrize("answer", [None, 3.0, {}, (None,), {"deep": {"er": A}}, (A, (B, B))])
def test_other_answers_are_refused(answer: Any) -> None:
    with pytest.raises(UsageError, match="expected a tensor, or a dict or tuple of tensors"):
        interface.by_name(answer)


def test_a_single_output_comes_as_it_is_and_keeps_its_name() -> None:
    class Named(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": x}

    model = interface.adapt(Named(), ["x"])
    assert torch.equal(model(A), A)
    assert interface.output_names(model) == ("logits",)


def test_flat_answers_are_exported_in_order() -> None:
    model = interface.flat(interface.adapt(Two(), ["right", "left"]))
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(model, (B, A), dynamic_shapes=({0: batch}, {0: batch}))
    difference, left = exported.module()(B[:1], A[:1])
    assert torch.equal(difference, 2 * (A - B)[:1])
    assert torch.equal(left, A[:1])
