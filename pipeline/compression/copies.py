"""Copies of networks, whatever they hold beside their weights."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from pipeline.errors import UsageError

_TREE = ("_parameters", "_buffers", "_modules")


def copied(model: nn.Module) -> nn.Module:
    """A copy of a model: parameters, buffers, and all else that can be copied; what cannot (locks, sessions) is shared.

    Raises UsageError where a module refuses to be copied itself.
    """
    try:
        return copy.deepcopy(model)
    except Exception:  # what a module holds may say no in any way: tensors that were computed, locks, generators
        held = [value for module in model.modules() for name, value in vars(module).items() if name not in _TREE]
        instead = {id(value): _instead(value) for value in held if not _copies(value)}
    try:
        return copy.deepcopy(model, instead)
    except Exception as error:
        raise UsageError(f"the model cannot be copied: {' '.join(str(error).split())[:200]}") from error


def _copies(value: Any) -> bool:
    try:
        copy.deepcopy(value)
    except Exception:
        return False
    return True


def _instead(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
