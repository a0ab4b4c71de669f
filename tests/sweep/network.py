"""Forms beside each other in one network, each on a source line of its own, so that a message says whose it is."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import values

if TYPE_CHECKING:
    from .forms import Case

_WEIGHT = re.compile(r"\bw\[([\d, ]+)\]")
_NAME = re.compile(r"\b(?:[xy][2-5]|ids)\b")
_HEAD = '''"""Forms of the sweep."""
import torch
from torch import nn
from torch.nn import functional as F

from tests.sweep.network import Weights, tensors


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.w = Weights()
'''


class Weights(nn.Module):
    """Weights by shape, made when first asked for: w[6, 1, 1] is in (0.5, 1.5)."""

    def __getitem__(self, shape: int | tuple[int, ...]) -> Tensor:
        sizes = shape if isinstance(shape, tuple) else (shape,)
        name = "w" + "_".join(map(str, sizes))
        if not hasattr(self, name):
            generator = torch.Generator().manual_seed(sum(sizes))
            made = nn.Parameter(torch.rand(sizes, generator=generator) + 0.5, requires_grad=False)
            self.register_parameter(name, made)
        found: Tensor = getattr(self, name)
        return found


def samples(names: Sequence[str], count: int, seed: int = 1) -> dict[str, Tensor]:
    """Noise for the inputs of these names, [count, ...]."""
    found = {}
    for name in names:
        generator = torch.Generator().manual_seed(seed * 1000 + sum(map(ord, name)))
        if name == "ids":
            found[name] = torch.randint(0, values.TABLE, (count, values.STEPS), generator=generator)
        else:
            found[name] = torch.randn(count, *values.SHAPES[int(name[1:])], generator=generator)
    return found


def inputs_of(case: Case) -> list[str]:
    """The names of a form's inputs, in order."""
    return sorted(set(_NAME.findall(case.text)))


def tensors(answer: Any) -> list[Tensor]:
    """The tensors of an op's answer as float32: one, or all of a tuple, list or named tuple."""
    if isinstance(answer, Tensor):
        return [(answer.abs() if answer.is_complex() else answer).float()]
    if isinstance(answer, dict):
        answer = list(answer.values())
    return [one for part in answer for one in tensors(part)] if isinstance(answer, tuple | list) else []


class Run:
    """Forms run one by one in PyTorch, without a file."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self.cases, self.w = cases, Weights()
        self.names = sorted({name for case in cases for name in inputs_of(case)})
        names = {"torch": torch, "nn": nn, "F": F, "w": self.w}
        self.modules = [eval(case.made, names).eval() if case.made else None for case in cases]
        self.spread()

    def spread(self) -> None:
        """BatchNorm's statistics as after training."""
        for module in self.modules:
            settle(module)

    def answers(self, inputs: Mapping[str, Tensor]) -> list[list[Tensor]]:
        names = {"torch": torch, "nn": nn, "F": F, "w": self.w, **inputs}
        with torch.no_grad():
            return [
                tensors(eval(case.text, {**names, "m": module}))
                for case, module in zip(self.cases, self.modules, strict=True)
            ]


def settle(module: nn.Module | None) -> None:
    for part in module.modules() if module is not None else ():
        if isinstance(getattr(part, "running_var", None), Tensor):
            part.running_mean.copy_(torch.linspace(-0.5, 0.5, part.num_features))
            part.running_var.copy_(torch.linspace(0.5, 2, part.num_features))


def write(cases: Sequence[Case], path: Path) -> dict[int, int]:
    """The file of a network with an output for each tensor of each form. Returns source line -> the form's index."""
    lines = _HEAD.splitlines()
    lines += [f"        self.m{i} = {case.made}" for i, case in enumerate(cases) if case.made]
    names = sorted({name for case in cases for name in inputs_of(case)})
    lines += ["", f"    def forward(self, {', '.join(names)}):", "        w, found = self.w, {}"]
    places = {}
    for i, case in enumerate(cases):
        text = re.sub(r"\bm\(", f"self.m{i}(", case.text, count=1) if case.made else case.text
        lines.append(f"        found[{i}] = tensors({text})")
        places[len(lines)] = i
    lines.append('        return {f"c{i}_{j}": one for i, part in found.items() for j, one in enumerate(part)}')
    path.write_text("\n".join(lines) + "\n")
    return places


def load(path: Path) -> nn.Module:
    """The network of such a file, its weights made."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network: nn.Module = module.Net().eval()
    for sizes in _WEIGHT.findall(path.read_text()):
        network.w[tuple(int(size) for size in sizes.split(","))]
    settle(network)
    return network
