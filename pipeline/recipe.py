"""`deploy.toml` as typed configuration: every error at once, each with the nearest valid key."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from pipeline import keys
from pipeline.errors import UsageError
from pipeline.recipe_tables.base import Count, Source, Table
from pipeline.recipe_tables.policy import Gate
from pipeline.recipe_tables.quantization import Calibrate, Profile, Quantize, Race, Weights
from pipeline.recipe_tables.training import STOPS, Distill, Prune, Train
from pipeline.release.evidence import CLASS_METRICS, SCORES, limit_of, metric_unit

FILE = "deploy.toml"
EXAMPLE = Path(__file__).parent / "recipes" / "watch" / FILE


class Task(Table):
    """`[task]`: what is learnt and what counts (pipeline/tasks.py). `metric` and `loss` are names, or a function of the
    user's, "module:function". `output`: which of several outputs they look at; `metric = "accuracy@scores"` says both.
    """

    metric: Annotated[str, Field(min_length=1)] = "accuracy"
    loss: Annotated[str, Field(min_length=1)] = "auto"
    output: str = ""

    @model_validator(mode="before")
    @classmethod
    def _an_output_beside_the_metric(cls, given: Any) -> Any:
        metric = given.get("metric") if isinstance(given, dict) else None
        if not isinstance(metric, str) or "@" not in metric:
            return given
        plain, _, output = metric.partition("@")
        if given.get("output") not in (None, "", output):
            raise ValueError(f"metric '{metric}' and output = '{given['output']}' name two outputs: give one of them")
        return {**given, "metric": plain, "output": output}

    @property
    def classifies(self) -> bool:
        """One class a sample, from the judged output."""
        return CLASS_METRICS.fullmatch(self.metric) is not None

    def functions(self) -> dict[str, str]:
        """Which of them are the user's own."""
        return {role: name for role, name in (("metric", self.metric), ("loss", self.loss)) if ":" in name}

    @field_validator("metric")
    @classmethod
    def _known_metric(cls, name: str) -> str:
        if metric_unit(name) is None:
            known = ", ".join(("accuracy", "balanced_accuracy", "macro_f1", "top2", "...", *SCORES))
            raise ValueError(f"no metric '{name}': there are {known}, or your own, 'module:function'")
        return name

    @field_validator("loss")
    @classmethod
    def _known_loss(cls, name: str) -> str:
        known = ("auto", "cross_entropy", "mae", "mse")
        if ":" not in name and name not in known:
            raise ValueError(f"no loss '{name}': there are {', '.join(known)}, or your own, 'module:function'")
        return name


class Recipe(Table):
    """A whole recipe. `folder` is where it lies: the user's modules and files are found from there."""

    folder: Path
    name: str = "model"
    model: Source
    data: Source
    checkpoint: str | None = None
    pretrained: bool = False  # the factory's own weights are the float model: nothing is loaded or trained
    stages: tuple[Literal["prune", "distill"], ...] = ("prune", "distill")
    targets: Annotated[tuple[str, ...], Field(min_length=1)]
    rewrite: tuple[
        Literal["gelu", "clamp", "leaky_relu", "rnn_head"], ...
    ] = ()  # before `stages`: pipeline/rewrites.py
    seed: Annotated[int, Field(ge=0)] = 0
    batch: Count = 1
    large_batch: Count = 32
    cache_key: str = ""
    data_files: tuple[str, ...] = ()
    task: Task = Task()
    train: Train = Train()
    prune: Prune = Prune()
    distill: Distill = Distill()
    calibrate: Calibrate = Calibrate()
    weights: Weights = Weights()
    quantize: Quantize = Quantize()
    race: Race = Race()
    profile: Profile = Profile()
    also: dict[str, tuple[str, ...]] = {}  # target -> devices (URIs) on which what ships is verified and timed too
    gate: Gate = Gate()

    @field_validator("stages", mode="before")
    @classmethod
    def _known_stages(cls, stages: Any) -> Any:
        for stage in stages if isinstance(stages, list) else []:
            if stage in ("train", "load", "weights", "quantize", "calibrate", "verify", "profile", "gate", "race"):
                raise ValueError(f"'{stage}' runs by itself at its place; 'stages' orders only 'prune' and 'distill'")
        return stages

    @model_validator(mode="after")
    def _sensible_order(self) -> Recipe:
        for before, stage in zip(("", *self.stages), self.stages, strict=False):
            if stage == before == "prune":
                raise ValueError(
                    "stages: 'prune' twice in a row removes nothing the second time: put 'distill' between"
                )
            if stage == before == "distill":
                raise ValueError("stages: 'distill' twice in a row is one longer 'distill': raise distill.epochs")
        if self.stages and self.stages[0] == "distill" and not self.distill.student:
            raise ValueError(
                "stages: 'distill' comes first, but then the student is the float model itself and there is nothing to "
                "recover: put 'prune' before it, or name another network with distill.student"
            )
        if self.distill.student and self.stages[:1] != ("distill",):
            raise ValueError("distill.student: begin stages with 'distill', where the student learns")
        return self

    @model_validator(mode="after")
    def _a_schedule_that_fits_the_stages(self) -> Recipe:
        if self.prune.schedule == "iterative" and self.stages != ("prune", "distill"):
            raise ValueError(
                f'prune.schedule = \'iterative\' repeats stages = ["prune", "distill"] by itself, '
                f"not {list(self.stages)}"
            )
        if self.prune.schedule == "groups" and self.stages.count("prune") > 1:
            raise ValueError("prune.schedule = 'groups' would take its shares again each time: name 'prune' once")
        return self

    def policy(self, target: str) -> dict[str, Any]:
        """What a release on a target must hold: the gate's policy, on the task's own metric."""
        return self.gate.of(target) | {"metric": self.task.metric}

    def margin(self, target: str) -> float:
        """What may be lost on a target: in points, or in the unit of the task's metric."""
        policy = self.gate.of(target)
        return policy["margin_points"] if policy["margin"] is None else limit_of(policy["margin"])

    def sequence(self) -> tuple[str, ...]:
        """The stages between the float model and its export, repetitions of an iterative schedule written out."""
        return self.stages * (self.prune.steps if self.prune.schedule == "iterative" else 1)

    @property
    def program(self) -> bool:
        """Does the model come as a program, which nothing trains?"""
        return self.model.endswith((".pt2", ".onnx"))

    @model_validator(mode="after")
    def _weights_from_one_place(self) -> Recipe:
        if self.pretrained and self.checkpoint is not None:
            raise ValueError("pretrained = true takes the factory's own weights, checkpoint a file's: give one of them")
        return self

    @model_validator(mode="after")
    def _a_margin_in_the_metrics_unit(self) -> Recipe:
        if not metric_unit(self.task.metric) and self.gate.margin is None:
            raise ValueError(
                f"task.metric {self.task.metric} has a unit of its own: set gate.margin to what may be lost of it, a "
                "number or a share of float such as '1%'"
            )
        return self

    @model_validator(mode="after")
    def _each_target_once(self) -> Recipe:
        if len(set(self.targets)) != len(self.targets):
            raise ValueError(f"targets: {list(self.targets)} names one twice")
        if unknown := sorted(set(self.gate.targets) - set(self.targets)):
            raise ValueError(f"gate.targets: {unknown} not among the targets {list(self.targets)}")
        if unknown := sorted(set(self.also) - set(self.targets)):
            raise ValueError(f"also: {unknown} not among the targets {list(self.targets)}")
        if unknown := sorted(set(self.calibrate.encodings) - set(self.targets)):
            raise ValueError(f"calibrate.encodings: {unknown} not among the targets {list(self.targets)}")
        return self


def load(path: Path | None, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe. `path` None: `deploy.toml` of the current folder. `overrides`: KEY=VALUE, value in TOML.

    Raises UsageError with one line an error.
    """
    path = path or Path(FILE)
    if path.is_dir():
        path = path / FILE
    table, where = _read(path, "recipe", "write one, or name it with --recipe"), str(path)
    if isinstance(policy := table.get("gate"), str):
        table["gate"], where = read_policy(path.parent / policy), f"{path} (gate: {policy})"
    return from_table(table, path.resolve().parent, where, overrides)


def read_policy(path: Path) -> dict[str, Any]:
    """The keys of `[gate]` from a file of their own, which several recipes may share. Raises UsageError."""
    return _read(path, "policy", "a file with the keys of [gate], such as margin_points = 2.0")


def _read(path: Path, what: str, remedy: str) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"no {what} at {path}: {remedy}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from error


def from_table(table: dict[str, Any], folder: Path, where: str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from its keys. Raises UsageError with one line an error, each beginning with `where`."""
    for override in overrides:
        keys.override(table, override, {"prune": STOPS})
    if "folder" in table:
        raise UsageError(f"{where}: unknown key 'folder'")
    try:
        return Recipe(folder=folder, **table)
    except ValidationError as error:
        rows = (keys.explain(row, known_keys(), EXPECTED) for row in error.errors())
        raise UsageError("\n".join(f"{where}: {row}" for row in rows)) from error


EXPECTED = {  # what a pattern asks for, in words
    "model": "expected 'module:function', for example 'net:build', or a file .pt2 or .onnx",
    "data": "expected 'module:function', for example 'data:splits', a file .npz, or a folder with a slash, 'data/'",
}


def known_keys() -> list[str]:
    """Every key that a recipe may hold, dotted."""
    return [name for name in keys.of(Recipe) if name != "folder"]
