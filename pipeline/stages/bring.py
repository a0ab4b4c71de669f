"""bring: a model that comes as a program, .pt2 or .onnx. There is nothing to train or prune; the road begins here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import bounds, interface, pt2, tasks
from pipeline.data import Array, Split, load_split, save_named
from pipeline.errors import UsageError
from pipeline.stages import Job
from pipeline.stages.export import EXPECTED, calls_of, ops_of, write_program
from pipeline.stages.reference import SPLITS, told
from targets.base import Program, TensorSpec

BATCH = 32  # samples at a time, where the program's batch is free

Run = Callable[[Mapping[str, Array]], dict[str, Array]]  # one batch -> outputs by name


def run(job: Job) -> dict[str, Any]:
    """Inputs: data. Settings: model (path from the recipe's folder), task. Files: the program with its description,
    `expected.npz`, `selection.npz`, `gate.npz`: its own answers. Metadata: that of reference and of export.

    Raises UsageError when it is no program, or does not fit the data.
    """
    path = Path(job.user["folder"]) / job.settings["model"]
    samples = load_split(job.inputs["data"], "calibration").inputs
    program, answer, facts = (_pt2 if path.suffix == ".pt2" else _onnx)(path, samples, job.out)
    bounds.lift()
    task = tasks.of(job.settings, job.user, job.inputs["data"])
    splits = {name: load_split(job.inputs["data"], name) for name in SPLITS}
    for name, split in splits.items():
        outputs = _all(program, answer, split, len(split), path)
        if task.classifies:
            tasks.check_classes(split.labels, str(path))
        task = _settled(task, outputs, split, path)
        save_named(job.out / f"{name}.npz", outputs)
        facts[name] = told(task, split, outputs, judging=name == "gate")
    facts["outputs"], facts["output"] = list(outputs), task.output
    calibration = load_split(job.inputs["data"], "calibration")
    save_named(job.out / "expected.npz", _all(program, answer, calibration, EXPECTED, path))
    return {**write_program(program, facts.pop("ops")), **facts}


def answers(job: Job) -> dict[str, Any]:
    """What the finished program at the setting `model` says of the training split's first samples, in `answers.npz`.

    Inputs: data. Raises UsageError.
    """
    path, split = Path(job.settings["model"]), load_split(job.inputs["data"], "train")
    program, answer, _ = (_pt2 if path.suffix == ".pt2" else _onnx)(path, split.inputs, job.out)
    bounds.lift()
    save_named(job.out / "answers.npz", _all(program, answer, split, EXPECTED, path))
    return {}


def _settled(task: tasks.Task, outputs: Mapping[str, Array], split: Split, path: Path) -> tasks.Task:
    try:
        return tasks.settled(task, outputs, split.labels[: len(next(iter(outputs.values())))])
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def _all(program: Program, answer: Run, split: Split, limit: int, path: Path) -> dict[str, Array]:
    """The program's answers for the first samples, float32."""
    step = program.inputs[0].shape[0] or BATCH
    count = min(limit, len(split)) // (program.inputs[0].shape[0] or 1) * (program.inputs[0].shape[0] or 1)
    if not count:
        raise UsageError(f"{path}: its batch is fixed at {step}, more than a split of {len(split)}: leave it free")
    rows = []
    for start in range(0, count, step):
        batch = {name: np.array(array[start : min(start + step, count)]) for name, array in split.inputs.items()}
        try:
            rows.append(answer(batch))
        except Exception as error:
            shapes = {name: f"{array.dtype} {list(array.shape)}" for name, array in batch.items()}
            text = _transposed(program, batch) or " ".join(str(error).split())[:300]
            raise UsageError(f"{path} does not run on {shapes}: {text}") from error
        for name, array in rows[-1].items():
            if array.shape[:1] != (len(next(iter(batch.values()))),):
                told = f"its output '{name}' is {list(array.shape)} for {len(next(iter(batch.values())))} samples"
                raise UsageError(f"{path}: {told}: its first axis must be theirs")
    outputs = {name: np.concatenate([row[name] for row in rows]).astype(np.float32) for name in rows[0]}
    if not all(np.isfinite(array).all() for array in outputs.values()):
        raise UsageError(f"{path}: its outputs have NaN or infinity")
    return outputs


def _transposed(program: Program, batch: Mapping[str, Array]) -> str:
    """What to do where the data has channels last and the program takes them first."""
    told = (transposed(spec.name, batch[spec.name].shape, spec.shape) for spec in program.inputs)
    return next(filter(None, told), "")


def transposed(name: str, shape: Sequence[int], wanted: Sequence[int | None]) -> str:
    """The same of one input."""
    first = (shape[-1], *shape[1:-1])
    if len(shape) > 3 and first != tuple(shape[1:]) and tuple(wanted[1:]) == first:
        order = (0, len(shape) - 1, *range(1, len(shape) - 1))
        return f"'{name}' takes channels first, {list(first)}: give the data as x.transpose{order}"
    return ""


def _pt2(path: Path, samples: Mapping[str, Array], out: Path) -> tuple[Program, Run, dict[str, Any]]:
    import torch

    from pipeline.compression import products

    archive = pt2.clean(path)
    exported = pt2.loaded(archive, path)
    inside: Any = exported.module(check_guards=False)
    taken = [n.meta["val"] for n in inside.graph.nodes if n.op == "placeholder"]
    names = list(samples)
    _same_number(path, names, len(taken))
    if reason := fixed_batch(taken):
        raise UsageError(f"{path}: {reason}")
    example = [torch.zeros(2, *map(int, one.shape[1:]), dtype=one.dtype) for one in taken]
    macs, outputs = products.counted(inside, example)
    told = interface.by_name(outputs)
    program = Program(
        out / "program.pt2",
        "pt2",
        tuple(_spec(name, one) for name, one in zip(names, taken, strict=True)),
        tuple(_spec(name, one) for name, one in told.items()),
    )
    program.path.write_bytes(archive)  # what follows reads this one, never the file that came

    def answer(batch: Mapping[str, Array]) -> dict[str, Array]:
        with torch.no_grad():
            outputs = interface.by_name(inside(*(torch.from_numpy(array) for array in batch.values())))
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    params = sum(tensor.numel() for tensor in exported.parameters())
    facts = {"ops": ops_of(exported), "calls": calls_of(exported)}
    return program, answer, {**facts, "params": params, "macs": macs // len(example[0]), "size_bytes": 4 * params}


def fixed_batch(taken: Iterable[Any]) -> str:
    """Why a program of these inputs is not taken; empty where it takes any number of samples."""
    fixed = [one.shape[0] if one.ndim else "none" for one in taken if not one.ndim or isinstance(one.shape[0], int)]
    return f"its batch is fixed at {fixed[0]}: export it with a torch.export.Dim for axis 0" if fixed else ""


def _spec(name: str, tensor: Any) -> TensorSpec:
    return TensorSpec(name, str(tensor.dtype).removeprefix("torch."), (None, *map(int, tensor.shape[1:])))


def _onnx(path: Path, samples: Mapping[str, Array], out: Path) -> tuple[Program, Run, dict[str, Any]]:
    from pipeline import foreign
    from targets import agent, onnx_graph, onnx_weights

    model = foreign.brought(path, samples)
    wanted = tuple(TensorSpec(value.name, "", ()) for value in model.graph.output)
    given = onnx_graph.specs(model, tuple(TensorSpec(name, "", ()) for name in samples))
    program = Program(out / "program.onnx", "onnx", given, onnx_graph.specs(model, wanted))
    onnx_graph.save(model, program.path)
    session = agent.onnxruntime_session(str(program.path), {})
    outputs = [spec.name for spec in program.outputs]

    def answer(batch: Mapping[str, Array]) -> dict[str, Array]:
        return dict(zip(outputs, session.run(outputs, dict(batch)), strict=True))

    params, macs = onnx_weights.parameters(model), sum(onnx_graph.macs(model).values())
    return program, answer, {"ops": {}, "params": params, "macs": macs, "size_bytes": 4 * params}


def _same_number(path: Path, names: list[str], count: int) -> None:
    if len(names) != count:
        raise UsageError(f"{path} takes {count} inputs, the data has {len(names)}: {names}")
