"""A first recipe for somebody's project: written with comments, and checked at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import files, recipe
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from pipeline.data import Data
    from pipeline.tasks import Task

TEMPLATE = """\
# What `deploy --target all` does with this model. All keys: the README of edge-deploy.
name = "{name}"
model = "{model}"         # module:function that returns a torch.nn.Module, or a .pt2 or .onnx file
data = "{data}"           # module:function that returns the splits, a .npz file, or a folder of images
{weights}
targets = [{targets}]
stages = [{stages}]         # ["prune", "distill"]: first make it smaller; [] only quantizes

# [prune]
# macs = 0.5                  # share of the multiplications that may stay

{task}
# max_size_bytes = 500_000
# max_latency_ms = 5.0
"""
CLASSES = """\
# [task]                      # where accuracy does not fit
# metric = "mae"              # with gate.margin, in its unit

[gate]
margin_points = 1.0           # of accuracy that may be lost, proven at 95 % confidence"""
NUMBERS = """\
[task]                        # the targets are numbers
metric = "mae"                # or mse, rmse, ..., module:function of your own; masks of class numbers: mean_iou

[gate]
margin = "5%"                 # of what float reaches that may be lost, proven at 95 % confidence"""


def check_free(folder: Path, force: bool) -> None:
    """Raise UsageError where there is a recipe already."""
    if (folder / recipe.FILE).exists() and not force:
        raise UsageError(f"{folder / recipe.FILE} exists: --force writes a new one over it")


def write(folder: Path, model: str, data: str, targets: list[str]) -> tuple[Path, Data]:
    """The recipe's file, in place of one that is there, and the data that it names. Raises UsageError, with nothing
    written, for a value that no recipe takes and for data that cannot be read.
    """
    from pipeline import data as splits
    from pipeline import data_files

    path = folder / recipe.FILE
    data += "/" if (folder / data).is_dir() and not data.endswith("/") else ""
    program = model.endswith((".pt2", ".onnx"))
    targets = _targets(targets)
    table = {"model": model, "data": data, "targets": targets}
    recipe.from_table(dict(table), folder, str(path))
    read = splits.from_factory(data_files.read(data, folder), data)
    numbers = read.splits["train"].labels.dtype.kind == "f"
    weights = (
        "" if program else '# checkpoint = "float.safetensors"   # or pretrained = true; without either it trains\n'
    )
    text = TEMPLATE.format(
        name=folder.resolve().name,
        model=model,
        data=data,
        weights=weights,
        targets=", ".join(f'"{name}"' for name in targets),
        stages="" if program else '"prune", "distill"',
        task=NUMBERS if numbers else CLASSES,
    )
    try:
        files.write_whole(path, text.replace("\n\n\n", "\n\n"))
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    return path, read


def _targets(wanted: list[str]) -> list[str]:
    """Those that are wanted; without any, and for "all", those that could run here. Raises UsageError."""
    from targets import registry

    try:
        for name in wanted:
            if name != "all":
                registry.entry(name)
    except registry.TargetError as error:
        raise UsageError(f"init: {error}") from error
    if wanted and "all" not in wanted:
        return list(dict.fromkeys(wanted))
    return [name for name in registry.names() if not registry.missing(registry.load(name))]


def binary(splits: Data) -> list[str]:
    """What to say of targets that are numbers and only ever 0 or 1: classes, perhaps, or masks."""
    labels = splits.splits["train"].labels
    if labels.dtype.kind != "f" or not ((labels == 0) | (labels == 1)).all():
        return []
    return ["targets are numbers, 0 or 1: mae is judged; for classes, and for masks (mean_iou), give whole numbers"]


def put_back(path: Path, before: bytes | None) -> None:
    """The recipe's file as it was before `write`."""
    if before is None:
        path.unlink(missing_ok=True)
    else:
        path.write_bytes(before)


def check(path: Path, splits: Data, ask: Callable[[str], str] | None = None, output: str = "") -> list[str]:
    """What was found, in words. Raises UsageError with the first thing that would stop a run.

    Of several outputs the one that is judged is written into the recipe: `output`, else the one that fits, else what
    `ask` answers when it is told why none stands out.
    """
    import tempfile

    from pipeline import data, models, tasks
    from pipeline.compression import training

    found = recipe.load(path)
    counts = ", ".join(f"{name} {len(split):,}" for name, split in splits.splits.items())
    told = [f"data: {counts}; no sample in two splits"]
    if found.program and not (found.folder / found.model).is_file():
        raise UsageError(f"model: no file at {found.folder / found.model}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data.save(splits, folder)
        owner = {"model": found.model, "folder": str(found.folder), "inputs": ",".join(data.input_names(folder))}
        task = tasks.of({"task": found.task.model_dump()}, owner, folder)
        model = None if found.program else models.build(owner)
        outputs = _answers(found, folder) if model is None else training.answers(model, folder, found.model)
        if len(outputs) > 1 and not task.output:
            task = replace(task, output=output or _judged(task, outputs, splits.splits["train"].labels, ask))
            _write_output(path, task.output)
            told.append(f"[task] output = '{task.output}': the one that is judged of {', '.join(outputs)}")
        if model is None:
            tasks.judged(task, outputs, splits.splits["train"].labels)
            return [*told, f"model: {found.model}, a finished program"]
        training.check(model, folder, f"model factory '{found.model}'", task)
    params = sum(parameter.numel() for parameter in model.parameters())
    return [*told, f"model: {params:,} parameters; its outputs fit the data"]


def _answers(found: recipe.Recipe, data: Path) -> dict[str, Any]:
    """What a finished program says of the first training samples, by name."""
    import tempfile

    from pipeline import bounds, worker
    from pipeline.data import load_named
    from pipeline.stages import Job

    path = found.folder / found.model
    with tempfile.TemporaryDirectory() as folder:
        asked = Job("init", {"model": str(path)}, {"data": data}, Path(folder), 0)
        worker.run_isolated("pipeline.stages.bring:answers", asked, bounds.of_model(path))
        return load_named(Path(folder) / "answers.npz")


def _judged(task: Task, outputs: Mapping[str, Any], targets: Any, ask: Callable[[str], str] | None) -> str:
    from pipeline import tasks

    try:
        return tasks.judged(task, outputs, targets)
    except UsageError as error:
        if ask is None:
            raise
        return ask(str(error))


def _write_output(path: Path, name: str) -> None:
    """Name the judged output in a recipe that `write` wrote."""
    lines = path.read_text().splitlines(keepends=True)
    at = next(number for number, line in enumerate(lines) if line.lstrip("# ").startswith("[task]"))
    lines[at] = f"[task]\noutput = {json.dumps(name)}   # the one of several outputs that is judged\n"
    path.write_text("".join(lines))
