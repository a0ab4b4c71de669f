"""What a pruning criterion may look at, and the walks over it that several criteria share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline import tasks
from pipeline.compression.structure import Group, Member, layouts
from pipeline.data import load_split
from pipeline.errors import UsageError
from pipeline.stages import Job

BATCH = 64  # samples a pass: what activations are held at once


@dataclass(frozen=True)
class Sight:
    """`inputs`: the model's inputs in order, [n, ...] each; `labels`: the targets. The model is in eval mode."""

    model: nn.Module
    groups: Sequence[Group]
    inputs: tuple[Tensor, ...]
    labels: Tensor
    seed: int = 0
    task: tasks.Task = tasks.CLASSIFICATION

    def batches(self, size: int = BATCH) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
        """(inputs, labels), `size` samples each."""
        for start in range(0, len(self.labels), size):
            piece = slice(start, start + size)
            yield tuple(values[piece] for values in self.inputs), self.labels[piece]

    def loss(self, inputs: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        """The task's loss, summed over the samples: in eval mode no sample sees another."""
        return tasks.loss(self.task, self.model(*inputs), labels, reduction="sum")


def values(model: nn.Module, member: Member) -> Iterator[tuple[nn.Parameter, int]]:
    """The learned tensors of a member, each with the dim along which its channels lie."""
    module = model.get_submodule(member.module)
    for name, dim in layouts(module)[member.axis].tensors:
        parameter = getattr(module, name, None)
        if isinstance(parameter, nn.Parameter):
            yield parameter, dim


def member_sums(model: nn.Module, group: Group, member: Member, amounts: Mapping[nn.Parameter, Tensor]) -> Tensor:
    """Sum of per-weight amounts over each unit's weights in one layer, float32 [width]."""
    total, roots = torch.zeros(group.width), torch.tensor(member.roots)
    for parameter, dim in values(model, member):
        rows = amounts[parameter].movedim(dim, 0)[list(member.channels)].reshape(len(roots), -1)
        total.index_add_(0, roots, rows.sum(1).float())
    return total


def unit_sums(model: nn.Module, group: Group, amounts: Mapping[nn.Parameter, Tensor]) -> Tensor:
    """Sum of per-weight amounts over all weights of each unit, float32 [width]."""
    return torch.stack([member_sums(model, group, member, amounts) for member in group.members]).sum(0)


@contextmanager
def trainable(model: nn.Module) -> Iterator[dict[nn.Parameter, Tensor]]:
    """Gradients for every float parameter, frozen ones too; yields one zero tensor for each to add up in."""
    parameters = [parameter for parameter in model.parameters() if parameter.is_floating_point()]
    frozen = [parameter for parameter in parameters if not parameter.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            yield {parameter: torch.zeros_like(parameter, requires_grad=False) for parameter in parameters}
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def gradients(loss: Tensor, of: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """d loss / d each; zeros for what the loss does not depend on. Raises UsageError when it depends on nothing."""
    if not loss.requires_grad:
        raise UsageError(
            "prune.criterion needs gradients and the model's outputs carry none: it detaches them or runs under "
            "no_grad; change that, or choose a criterion of the weights alone (l1, l2)"
        )
    return torch.autograd.grad(loss, of, allow_unused=True, materialize_grads=True)


def of_job(job: Job, model: nn.Module, groups: Sequence[Group]) -> Sight:
    """What the criterion of a pruning sees: `samples` of the training split, the same for every scoring."""
    from pipeline.compression import training

    train = load_split(job.inputs["data"], "train")
    drawn = training.drawn(train, int(job.settings.get("samples", 256)), job.seed)
    return Sight(model, groups, *drawn, job.seed, tasks.of(job.settings, job.user, job.inputs["data"]))
