"""Feature distillation: what a layer of the student says is matched to what a layer of the teacher says.

Romero et al. 2015, "FitNets: Hints for Thin Deep Nets". Where the widths differ, a linear adapter, trained along with
the student and thrown away afterwards, maps the student's channels to the teacher's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pipeline.errors import UsageError

CHANNELS_LAST = (nn.Linear, nn.RNNBase, nn.LayerNorm, nn.MultiheadAttention, nn.TransformerEncoderLayer)


class Match:
    """Pairs of layers, student's name -> teacher's, and the adapters between them.

    `example`: the models' inputs. Raises UsageError for a layer that does not exist, one that is not run, and features
    whose places (everything but channels) differ. Call `close` when training is done.
    """

    def __init__(
        self, student: nn.Module, teacher: nn.Module, pairs: Mapping[str, str], example: tuple[Tensor, ...]
    ) -> None:
        self._pairs, self._teacher = dict(pairs), teacher
        self._said: dict[str, Tensor] = {}
        self._taught: dict[str, Tensor] = {}
        self._handles: list[RemovableHandle] = []
        self.adapters = nn.ModuleList()
        try:
            for model, names, into, whose in (
                (student, self._pairs.keys(), self._said, "student"),
                (teacher, self._pairs.values(), self._taught, "teacher"),
            ):
                for name in dict.fromkeys(names):
                    self._handles.append(_layer(model, name, whose).register_forward_hook(_recorder(model, name, into)))
            with torch.no_grad():
                student(*example)
                teacher(*example)
            for name, other in self._pairs.items():
                self.adapters.append(self._adapter(name, other))
        except BaseException:
            self.close()
            raise

    def loss(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Mean over the pairs of |adapter(student) - teacher|^2 / |teacher|^2, on what the student has just said.

        Relative, so that the weight of the term does not depend on the scale of a layer.
        """
        with torch.no_grad():
            self._teacher(*inputs)
        terms = []
        for adapter, (name, other) in zip(self.adapters, self._pairs.items(), strict=True):
            said, taught = adapter(self._said[name].float()), self._taught[other].float()
            terms.append((said - taught).square().mean() / taught.square().mean().clamp_min(1e-12))
        return torch.stack(terms).mean()

    def close(self) -> None:
        """Take the hooks off both models."""
        for handle in self._handles:
            handle.remove()

    def _adapter(self, name: str, other: str) -> nn.Module:
        for layer, into, whose in ((name, self._said, "student"), (other, self._taught, "teacher")):
            if layer not in into:
                raise UsageError(f"distill.features: the {whose}'s layer '{layer}' is not run: name another")
        said, taught = self._said[name], self._taught[other]
        if said.shape[:-1] != taught.shape[:-1]:
            raise UsageError(
                f"distill.features: '{name}' of the student gives {list(said.shape)} (channels last) and '{other}' of "
                f"the teacher {list(taught.shape)}: only the channels may differ"
            )
        width, wanted = said.shape[-1], taught.shape[-1]
        return nn.Identity() if width == wanted else nn.Linear(width, wanted)


def _layer(model: nn.Module, name: str, whose: str) -> nn.Module:
    layers = dict(model.named_modules())
    if name and name in layers:
        return model.get_submodule(name)
    known = ", ".join(list(layers)[1:9])
    raise UsageError(f"distill.features: the {whose} has no layer '{name}': it has {known} ...")


def _recorder(model: nn.Module, name: str, into: dict[str, Tensor]) -> Callable[..., None]:
    last = isinstance(model.get_submodule(name), CHANNELS_LAST)

    def record(module: nn.Module, args: Any, output: Any) -> None:
        tensor = output[0] if isinstance(output, tuple) else output
        into[name] = tensor if last else tensor.movedim(1, -1)

    return record
