"""A training between two epochs, whole: what `kill -9` must not lose. Read back, it goes on to the same bytes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

LAST_GOOD = "last-good.safetensors"


def save(file: Path, state: Mapping[str, Any]) -> None:
    """Write aside, synced, renamed: a reader finds the last whole epoch. Holds tensors and plain values only."""
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name}")
    with aside.open("wb") as stream:
        torch.save({**state, "torch": torch.get_rng_state()}, stream)
        stream.flush()
        os.fsync(stream.fileno())
    aside.replace(file)


def load(file: Path) -> dict[str, Any] | None:
    """What `save` wrote, and torch's generator set to where it was; None where there is nothing that can be read."""
    try:
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        torch.set_rng_state(state.pop("torch"))
    except Exception:  # absent, cut short or of another version: train from the start
        return None
    return state


def keep(folder: Path, weights: Mapping[str, Tensor]) -> Path:
    """Keep the best weights of a training that broke, as a checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in weights.items()}, folder / LAST_GOOD)
    return folder / LAST_GOOD
