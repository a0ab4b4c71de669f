"""A first recipe for somebody's project: written with comments, and checked at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import recipe
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from pipeline.data import Data

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
        path.write_text(text.replace("\n\n\n", "\n\n"))
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


def check(path: Path, splits: Data) -> list[str]:
    """What was found, in words. Raises UsageError with the first thing that would stop a run."""
    import tempfile

    from pipeline import data, models, tasks
    from pipeline.compression import training

    found = recipe.load(path)
    counts = ", ".join(f"{name} {len(split):,}" for name, split in splits.splits.items())
    told = [f"data: {counts}; no sample in two splits"]
    if found.program:
        if not (found.folder / found.model).is_file():
            raise UsageError(f"model: no file at {found.folder / found.model}")
        return [*told, f"model: {found.model}, a finished program"]
    with tempfile.TemporaryDirectory() as folder:
        data.save(splits, Path(folder))
        names = ",".join(data.input_names(Path(folder)))
        owner = {"model": found.model, "folder": str(found.folder), "inputs": names}
        task = tasks.Task(found.task.metric, found.task.loss, str(found.folder))
        model = models.build(owner)
        training.check(model, Path(folder), f"model factory '{found.model}'", task)
    params = sum(parameter.numel() for parameter in model.parameters())
    return [*told, f"model: {params:,} parameters; its outputs fit the data"]
