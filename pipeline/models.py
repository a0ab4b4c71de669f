"""A model between stages: the user's factory builds it, the recorded edits are replayed on it, weights are loaded.

Nothing is pickled: a folder holds `weights.safetensors` and `edits.json` (edits, and which tensors are one).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import user
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pipeline.compression.structure import Edits

COMPILED = "_orig_mod."  # what torch.compile puts before the names in a state dict
PARALLEL = "module."  # what torch.nn.DataParallel does
WEIGHTS, EDITS = "weights.safetensors", "edits.json"


def build(owner: Mapping[str, str]) -> nn.Module:
    """The user's float architecture with fresh weights (seed torch before), called by position (pipeline/interface.py).

    `owner`: a Job's `user`; its "inputs" are the data's names, joined by commas. Weights of other floating types become
    float32, and so does what `forward` casts to them: no runtime here computes otherwise. Raises UsageError, with file
    and line.
    """
    from torch import nn

    from pipeline.interface import adapt, computed_in_single

    model = user.call(owner["model"], owner["folder"])
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"model factory '{owner['model']}' returned {type(model).__name__}, expected a torch.nn.Module"
        )
    model = _plain(model)
    inputs = owner.get("inputs", "")
    others = other_floats(model)
    adapted = adapt(model.float() if others else model, inputs.split(",") if inputs else ())
    return computed_in_single(adapted, " and ".join(sorted(set(others.values())))) if others else adapted


def other_floats(model: nn.Module) -> dict[str, str]:
    """Parameters and buffers of another floating type than float32: name -> type, "bfloat16"."""
    import torch

    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        name: str(tensor.dtype).removeprefix("torch.")
        for name, tensor in named.items()
        if tensor.is_floating_point() and tensor.dtype != torch.float32
    }


def _plain(model: nn.Module) -> nn.Module:
    """Without torch.compile, at any depth: its wrappers rename the layers, and compile anew for every width."""

    def inner(module: nn.Module) -> nn.Module:
        return module._orig_mod if type(module).__name__ == "OptimizedModule" else module  # type: ignore[return-value]

    model = inner(model)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if inner(child) is not child:
                setattr(module, name, inner(child))
        module._compiled_call_impl = None
    return model


def ties(model: nn.Module) -> dict[str, str]:
    """Names in the state that are the same tensor as an earlier name: alias -> first name."""
    first: dict[int, str] = {}
    named = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    state = model.state_dict(keep_vars=True)
    return {
        name: owner
        for name, tensor in state.items()
        if (owner := first.setdefault(id(named.get(name, tensor)), name)) != name
    }


def save(model: nn.Module, edits: Edits, folder: Path, zeros: Sequence[str] = (), factory: str = "") -> None:
    """Write weights and edits below `folder`; the same model gives the same bytes.

    `zeros`: parameters that were pruned weight by weight, so that training leaves their zeros alone. `factory`: what
    builds the model, where that is not the recipe's `model` (a student or teacher of its own).
    """
    from safetensors.torch import save_file

    from pipeline.interface import rewrites_of

    folder.mkdir(parents=True, exist_ok=True)
    tied = ties(model)
    state = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items() if name not in tied}
    save_file(state, folder / WEIGHTS)
    record = {"version": 1, "tied": tied, "steps": edits, "zeros": list(zeros), "factory": factory}
    record["rewrites"] = list(rewrites_of(model))
    (folder / EDITS).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


def edits_of(folder: Path) -> Edits:
    """The edits that a saved model has had, oldest first."""
    return json.loads((folder / EDITS).read_text())["steps"]  # type: ignore[no-any-return]


def zeros_of(folder: Path) -> list[str]:
    """The parameters of a saved model whose zeros stay."""
    return json.loads((folder / EDITS).read_text())["zeros"]  # type: ignore[no-any-return]


def factory_of(folder: Path) -> str:
    """What builds a saved model, where that is not the recipe's `model`; else empty."""
    return str(json.loads((folder / EDITS).read_text()).get("factory", ""))


def kept_of(folder: Path) -> tuple[list[str], str]:
    """What a stage that changes a saved model passes on: its `zeros` and its `factory`."""
    return zeros_of(folder), factory_of(folder)


def load(owner: Mapping[str, str], folder: Path) -> nn.Module:
    """The saved model in eval mode. Raises UsageError when the factory no longer builds what was saved."""
    from safetensors.torch import load_file

    from pipeline.compression.structure import replay
    from pipeline.interface import rewrite

    record = json.loads((folder / EDITS).read_text())
    owner = {**owner, "model": record.get("factory") or owner["model"]}
    model = build(owner)
    where = f"model factory '{owner['model']}'"
    replay(model, record["steps"], where)
    now = ties(model)
    if now != record["tied"]:
        raise UsageError(
            f"{where} ties {now}, the saved model {record['tied']}: it changed since; run the stages again"
        )
    load_state(model, load_file(folder / WEIGHTS), str(folder / WEIGHTS))
    return rewrite(model, record.get("rewrites", ())).eval()


def unwrapped(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without what torch.compile and DataParallel put before the names."""
    state = {name.replace(COMPILED, ""): tensor for name, tensor in state.items()}
    wrapped = all(name.startswith(PARALLEL) for name in state) and not any(name.startswith(PARALLEL) for name in own)
    return {name.removeprefix(PARALLEL): tensor for name, tensor in state.items()} if wrapped else state


def load_state(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copy a state dict into the model; every key must fit. Tied tensors may come once or under each name.

    Raises UsageError listing the first missing, unexpected and wrong-shaped keys, and for weights that are NaN,
    infinite, complex or integers.
    """
    own, tied = model.state_dict(), ties(model)
    state = unwrapped(state, own)
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    present = set(state) | {alias for alias, name in tied.items() if name in state}
    present |= {name for alias, name in tied.items() if alias in state}
    shapes = [
        f"{k} is {list(state[k].shape)}, the model has {list(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    problems = {
        "missing": [k for k in own if k not in present],
        "unexpected": [k for k in state if k not in own],
        "wrong shape": shapes,
    }
    for name, tensor in state.items():
        if name in own and (fault := _unfit(tensor, own[name], name in parameters)):
            raise UsageError(f"{source}: '{name}' {fault}: give the float weights of a training that went well")
    if any(problems.values()):
        text = "; ".join(f"{kind} ({len(keys)}): {', '.join(keys[:3])}" for kind, keys in problems.items() if keys)
        raise UsageError(f"{source} does not fit the model: {text}. Give the checkpoint of this architecture")
    model.load_state_dict(dict(state), strict=False)


def _unfit(tensor: Tensor, own: Tensor, is_parameter: bool) -> str:
    """Why a tensor of a checkpoint cannot take the place of the model's own, in words; empty where it can.

    Integers stay integers (num_batches_tracked), and a buffer may be infinite where the factory's is (a mask).
    """
    if tensor.is_complex():
        return f"is complex ({tensor.dtype})"
    if not own.is_floating_point():
        return ""
    if not tensor.is_floating_point():
        return f"is {tensor.dtype}, where the model has {own.dtype}"
    values = tensor.float()
    if bool(values.isnan().any()):
        return f"has NaN in {int(values.isnan().sum())} of {values.numel()} values"
    infinite = values.isinf()
    if not is_parameter and infinite.shape == own.shape:
        infinite &= ~own.float().isinf()
    return f"has infinity in {int(infinite.sum())} of {values.numel()} values" if bool(infinite.any()) else ""
