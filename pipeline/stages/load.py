"""load: the user's checkpoint, or the weights that the factory brings, into the model that the factory builds."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline import pickled
from pipeline.errors import UsageError
from pipeline.stages import Job

NESTED = ("state_dict", "model_state_dict", "model")  # where training scripts put the weights
PICKLED = "which could run code: save the weights alone, torch.save(model.state_dict(), path)"


def run(job: Job) -> dict[str, Any]:
    """Inputs: data. Files: a model folder.

    Settings: checkpoint (path from the recipe's folder; none: the factory's own weights, seeded); optional factory
    ("module:function") where the model is a student or teacher that the recipe's `model` does not build. Metadata:
    metric, loss (selection), params, macs. Raises UsageError for a checkpoint that is missing, damaged, pickled or
    foreign, and for a model that does not fit the data.
    """
    from pipeline import interface, models, tasks
    from pipeline.compression import training

    task, factory = tasks.of(job.settings, job.user, job.inputs["data"]), job.settings.get("factory", "")
    owner = {**job.user, "model": factory or job.user["model"]}
    with training.deterministic(job.seed):
        if job.settings["checkpoint"]:
            path = Path(job.user["folder"]) / job.settings["checkpoint"]
            state = read(path)
            model = models.build(owner)
            models.load_state(model, state, str(path))
            if set(models.unwrapped(state, model.state_dict())) != set(state):
                job.emit(
                    {
                        "event": "note",
                        "message": f"{path.name}: without '{models.PARALLEL}' or '{models.COMPILED}' before "
                        "its names, which DataParallel or torch.compile put there",
                    }
                )
        else:
            model = models.build(owner)
        if note := interface.came_as(model):
            job.emit({"event": "note", "message": note})
        where = f"model factory '{owner['model']}'"
        if factory:
            task = tasks.teachers(task, training.answers(model, job.inputs["data"], where))
        training.check(model, job.inputs["data"], where, task)
        models.save(model, [], job.out, factory=factory)
        return training.facts(model, job.inputs["data"], task=task)


def read(path: Path) -> dict[str, Any]:
    """The state dict in a .safetensors, .pt or .pth file, on the CPU. Raises UsageError."""
    if not path.is_file():
        raise UsageError(f"no checkpoint at {path}: correct 'checkpoint' in the recipe, or leave it out to train")
    try:
        state: Any = _safetensors(path) if path.suffix == ".safetensors" else _torch(path)
    except UsageError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:160]
        raise UsageError(f"{path} cannot be read as a checkpoint: {type(error).__name__}: {text}") from error
    for key in NESTED:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
            break
    import torch

    if not isinstance(state, Mapping) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        keys = f" with the keys {list(state)[:3]}" if isinstance(state, Mapping) else ""
        raise UsageError(f"{path} holds a {type(state).__name__}{keys}, expected a state dict (name -> tensor)")
    return {str(name): tensor for name, tensor in state.items()}


def _safetensors(path: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(path)


def _torch(path: Path) -> Any:
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if zipfile.is_zipfile(path) or "Unsupported" in str(error) or "unsupported" in str(error):
            raise UsageError(f"{path}: {_pickled(path)}") from error
        raise


def _pickled(path: Path) -> str:
    """What stands in the way in a checkpoint, by its key, and what to keep."""
    found = pickled.objects(path)
    if not found:
        return f"it holds pickled objects, {PICKLED}"
    if "" in found:
        return f"it is a whole pickled {found['']}, {PICKLED}"
    told = ", ".join(f"'{key}' ({what})" for key, what in list(found.items())[:3])
    return f"it holds pickled objects in {told}, {PICKLED}; or its other keys without these"
