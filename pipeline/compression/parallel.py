"""Several processes that train one model: `torchrun` starts them, each sees its share of every batch.

Data parallel (Li et al. 2020, "PyTorch Distributed: Experiences on Accelerating Data Parallel Training"): gradients are
averaged, so all hold the same weights, and all read and draw the same, so that every choice falls alike.

With one process, every function here changes nothing. Who starts the others and tells them what to do: `helpers`.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torch import distributed as dist


def size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def first() -> bool:
    """Whether this process is the one that writes."""
    return not dist.is_initialized() or dist.get_rank() == 0


def share() -> slice:
    """Which samples of a batch are this process's."""
    return slice(dist.get_rank(), None, size()) if dist.is_initialized() else slice(None)


def wrap(model: nn.Module) -> nn.Module:
    """The model whose gradients come out averaged; itself where there is one process."""
    if size() == 1:
        return model
    # A loss need not depend on every parameter (an output that nothing teaches), which only this option allows.
    return nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)


def average(tensors: Iterable[Tensor | None]) -> None:
    """Float tensors become their mean over the processes, in place; others, and None, stay."""
    if size() > 1:
        for tensor in tensors:
            if tensor is not None and tensor.is_floating_point():
                dist.all_reduce(tensor)
                tensor /= size()
