"""What a device may answer. Nothing that it says is believed before it has this form, for a device may be broken, may
run another version of the agent, or may not be the user's at all: types, lengths, finite numbers, and only what was
asked.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from targets.channels.base import ChannelError

MOST_JSON_BYTES = 16 << 20  # of a result; one with the times of 50,000 layers has 10 MB
MOST_FILE_BYTES = 8 << 30  # of a file of outputs or samples
REMEDY = "the agent there is not ours, or the device is faulty: look at it, or name another"


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it holds control characters")
    return text


def _plain(text: str) -> str:
    """Words of a runtime, on one line that a terminal can show."""
    return "".join(sign if sign.isprintable() else " " for sign in text)


Text = Annotated[str, StringConstraints(max_length=1000), AfterValidator(_printable)]
Words = Annotated[str, StringConstraints(max_length=20_000), AfterValidator(_plain)]
Count = Annotated[int, Field(ge=0, le=2**62)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Cores = Annotated[list[Count], Field(max_length=8192)]


class Record(BaseModel):
    """Exactly these fields, of exactly these types."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Facts(Record):
    """What a machine says of itself; None is unavailable."""

    system: Text
    machine: Text
    cpu: Text | None
    cores: Count | None
    memory_bytes: Count | None
    python: Text
    libc: Text | None
    affinity: Cores | None
    governor: Text | None
    os: Text | None
    serial: Text | None
    cpu_features: Text | None
    saturates: bool | None


class Loaded(Record):
    """A model that was loaded there. Times in ms."""

    runtime: Text
    runtime_version: Text
    precision: Text | None
    load_ms: Amount
    peak_memory_bytes: int | None


class Ran(Record):
    """A "run" task."""

    do: Literal["run"]
    model: Text
    n: Count
    batch: Count


class Look(Record):
    """The machine's state at one moment of a measurement."""

    elapsed_s: Amount
    rounds: Count
    frequencies_khz: Cores | None
    governor: Text | None
    temperatures_c: Annotated[dict[Text, Number], Field(max_length=1000)] | None
    load_1m: Amount | None
    preempted: Count | None
    affinity: Cores | None


class WarmUp(Record):
    """How a model came to a steady time."""

    inferences: Count
    steady: bool


class Energy(Record):
    """What a measurement took, and from which counter."""

    source: Text
    joules: Number


class Timed(Record):
    """A "time" task."""

    do: Literal["time"]
    rounds: Count
    elapsed_s: Amount
    warmup: dict[Text, WarmUp]
    conditions: Annotated[list[Look], Field(min_length=1, max_length=2000)]
    energy: Energy | None
    interrupted: bool


class Layer(Record):
    """The time of one op."""

    op: Text
    name: Words
    type: Words
    precision: Text | None
    ms: Amount
    share: Annotated[float, Field(ge=0, le=1.000001)]


class Layers(Record):
    """A "layers" task."""

    do: Literal["layers"]
    model: Text
    layers: Annotated[list[Layer], Field(max_length=100_000)] | None
    unavailable: Text | None


class Survey(Record):
    """A "survey" task."""

    do: Literal["survey"]
    runtimes: Annotated[dict[Text, Text | None], Field(max_length=100)]


class Fault(Record):
    """Why the agent could not do it."""

    kind: Literal["protocol", "hash", "runtime", "missing", "memory", "space", "input"]
    message: Words


class Answer(Record):
    """An agent's whole result."""

    protocol: Literal[1]
    device: Facts
    models: dict[Text, Loaded]
    tasks: list[Annotated[Ran | Timed | Layers | Survey, Field(discriminator="do")]]
    files: dict[Text, Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]]
    error: Fault | None


class Waiting(Record):
    """A progress line of an agent that waits for another request to end."""

    waiting: Literal[True]


class Progress(Record):
    """A progress line of a measurement."""

    done: Annotated[int, Field(ge=0, le=100)]
    total: Literal[100]
    rounds: Count
    median_ms: Amount
    left_s: Amount


LINE: TypeAdapter[Waiting | Progress] = TypeAdapter(Waiting | Progress)


def progress(text: str) -> dict[str, Any] | None:
    """A progress line's JSON; None for what is no such line (half of one, from a link that broke)."""
    try:
        return LINE.validate_json(text).model_dump()
    except ValidationError:
        return None


def content(file: Path, device: str) -> bytes:
    """A result's bytes. Raises ChannelError where there are more than any result has."""
    size_bytes = file.stat().st_size
    if size_bytes > MOST_JSON_BYTES:
        raise wrong(device, f"{file.name} has {size_bytes:,} bytes")
    return file.read_bytes()


def read(body: bytes, request: Mapping[str, Any], device: str) -> dict[str, Any]:
    """The agent's result, once it has the form of an answer to this request. Raises ChannelError where it has not."""
    try:
        answer = Answer.model_validate(json.loads(body))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part)[:60] for part in first["loc"])
        raise wrong(device, f"{_plain(where)}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise wrong(device, "it is no JSON") from error
    if answer.error is None:
        for problem in _problems(answer, request):
            raise wrong(device, problem)
    return answer.model_dump()


def wrong(device: str, what: str) -> ChannelError:
    """An answer that is none."""
    return ChannelError(device, f"its answer cannot be used: {what}", REMEDY)


def _problems(answer: Answer, request: Mapping[str, Any]) -> Iterator[str]:
    """In what the answer is not one to this request."""
    asked = {row["id"]: row for row in request["models"]}
    if set(answer.models) != set(asked):
        yield f"it loaded the models {sorted(answer.models)}, asked for were {sorted(asked)}"
    stopped = any(isinstance(task, Timed) and task.interrupted for task in answer.tasks)
    wanted = [task["do"] for task in request["tasks"]]
    done = [task.do for task in answer.tasks]
    if done != wanted[: len(done)] or (len(done) < len(wanted) and not stopped):
        yield f"it did the tasks {done}, asked for were {wanted}"
    for task, given in zip(request["tasks"], answer.tasks, strict=False):
        if isinstance(given, Ran | Layers) and given.model != task["model"]:
            yield f"a task is of the model '{given.model}', asked for was '{task['model']}'"
        if isinstance(given, Timed) and set(given.warmup) != set(task["models"]):
            yield f"it timed {sorted(given.warmup)}, asked for were {sorted(task['models'])}"


def check_files(record: Mapping[str, Any], request: Mapping[str, Any], folder: Path, device: str) -> None:
    """The arrays that the request's tasks wrote below `folder`. Raises ChannelError where they are not what a run or a
    measurement gives: float arrays with a row a sample, or a positive count of ns a round.
    """
    for task, given in zip(request["tasks"], record["tasks"], strict=False):
        if task["do"] == "run":
            for name, array in _arrays(folder / task["outputs"], device):
                if array.dtype.kind not in "fiub" or not array.ndim or len(array) != given["n"]:
                    raise wrong(
                        device, f"output '{name}' is {array.dtype} {list(array.shape)} for {given['n']} samples"
                    )
        elif task["do"] == "time":
            found = dict(_arrays(folder / task["samples"], device))
            if set(found) != set(task["models"]):
                raise wrong(device, f"it has times of {sorted(found)}, asked for were {sorted(task['models'])}")
            for name, array in found.items():
                if array.dtype != np.int64 or array.shape != (given["rounds"],) or (array < 0).any():
                    raise wrong(device, f"the times of '{name}' are not a whole number of ns for each round")


def _arrays(file: Path, device: str) -> Iterator[tuple[str, Any]]:
    """Names and arrays of a file that the agent wrote: stored as they are, so no larger in memory than on disk."""
    try:
        with zipfile.ZipFile(file) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise wrong(device, f"{file.name} is compressed")
        with np.load(file, allow_pickle=False) as arrays:
            for name in arrays.files:
                yield _plain(name), arrays[name]
    except (OSError, ValueError, EOFError, KeyError, MemoryError, zipfile.BadZipFile) as error:
        raise wrong(device, f"{file.name} is no file of arrays ({type(error).__name__})") from error
