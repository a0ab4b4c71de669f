"""`deploy.toml` as typed configuration: every error at once, each with the nearest valid key."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from pipeline.errors import UsageError
from pipeline.release.evidence import SCORES, Policy, limit_of, metric_unit

FILE = "deploy.toml"
EXAMPLE = Path(__file__).parent / "recipes" / "watch" / FILE

Share = Annotated[float, Field(gt=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]
Reference = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]


# The same, or a file: .pt2 or .onnx for a model; .npz or a folder of images for data.
Source = Annotated[str, Field(pattern=r"^([A-Za-z_][\w.]*:[A-Za-z_]\w*|[^:]+(\.pt2|\.onnx|\.npz|/))$")]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class Task(_Table):
    """`[task]`: what is learnt and what counts (pipeline/task.py). `metric` and `loss` are names, or a function of the
    user's, "module:function".
    """

    metric: Annotated[str, Field(min_length=1)] = "accuracy"
    loss: Annotated[str, Field(min_length=1)] = "auto"

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


class Training(_Table):
    """One run of the training loop (AdamW, cosine schedule).

    `patience`: epochs without a better selection metric before it stops; 0 never. `penalty`, `strength`: sparse
    training. `ema`: decay of a moving average of the weights; 0 keeps the weights themselves.
    """

    epochs: Count = 10
    lr: Positive = 1e-3
    batch_size: Count = 64
    weight_decay: Annotated[float, Field(ge=0.0)] = 1e-2
    patience: Annotated[int, Field(ge=0)] = 0
    penalty: Literal["none", "l1", "group_lasso", "soft_threshold"] = "none"
    strength: Annotated[float, Field(ge=0.0)] = 0.0
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0

    @model_validator(mode="after")
    def _penalty_with_its_strength(self) -> Self:
        if (self.penalty != "none") != (self.strength > 0):
            raise ValueError("penalty and strength go together: penalty = 'l1' with strength = 1e-5, for example")
        return self


class Train(Training):
    """`[train]`: makes the float model where the recipe names no checkpoint.

    `start`: what training starts from, in place of fresh weights: a checkpoint, or a folder that a run delivered
    (`OUT/pytorch`), pruned network and all. `fresh`: layers that start fresh all the same, for other classes.
    """

    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    start: str | None = None
    fresh: tuple[str, ...] = ()


Criterion = Literal[  # the names of compression.criteria.CRITERIA
    "l0",
    "l1",
    "l2",
    "random",
    "bn_scale",
    "fpgm",
    "lamp",
    "weight_gradient",
    "activation_gradient",
    "taylor",
    "activation_sparsity",
    "activation_entropy",
    "contribution",
    "obd",
    "obs",
]


# The first three: the names of compression.units.KINDS, which combine.
Granularity = Literal["channel", "hidden", "head", "layer", "weight", "n:m"]


class Prune(_Table):
    """`[prune]`: structured pruning to a MACs budget, or with `schedule = "groups"` to the shares in `groups`.

    `granularity` names what is taken out, one kind or several: "channel" (of convolutions and linear layers),
    "hidden" (units of GRU and LSTM), "head" (of attention). Others stand alone: "layer" takes whole residual blocks;
    "weight" makes a share `sparsity` of single weights zero, or all with a score below `threshold`; "n:m" keeps
    `pattern` (n of every m inputs): the network's shape and MACs then stay.

    `samples`: of the training split, for criteria that look at data. `rescore`: units that go between two scorings;
    0 leaves it to the schedule. `steps`: how often the schedule "iterative" prunes and recovers.
    """

    granularity: Annotated[tuple[Granularity, ...], Field(min_length=1)] = ("channel",)
    macs: Share = 0.5
    sparsity: Share = 0.5
    threshold: Positive | None = None
    pattern: Annotated[str, Field(pattern=r"^[1-9][0-9]?:[1-9][0-9]?$")] = "2:4"
    criterion: Criterion = "l2"
    schedule: Literal["uniform", "global", "greedy", "groups", "iterative"] = "uniform"
    samples: Count = 256
    rescore: Annotated[int, Field(ge=0)] = 0
    groups: dict[str, Share] = {}
    steps: Annotated[int, Field(ge=2)] = 3
    align: Literal[1, 2, 4, 8, 16, 32] = 8

    @field_validator("granularity", mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, given: Any) -> Any:
        return [given] if isinstance(given, str) else given

    @model_validator(mode="after")
    def _single_weights(self) -> Prune:
        keep, of = map(int, self.pattern.split(":"))
        if keep >= of:
            raise ValueError(f"pattern '{self.pattern}' removes nothing: '2:4' keeps 2 of every 4")
        alone = next((one for one in self.granularity if one in ("layer", "weight", "n:m")), None)
        if alone and len(self.granularity) > 1:
            raise ValueError(f"granularity = '{alone}' stands alone: what it takes out are no units")
        if alone == "layer" and self.schedule == "groups":
            raise ValueError("granularity = 'layer' knows the schedules uniform, global, greedy and iterative")
        if alone not in (None, "layer") and (self.schedule in ("greedy", "groups") or self.rescore):
            raise ValueError(f"granularity = '{alone}' knows the schedules uniform, global and iterative")
        if len(set(self.granularity)) != len(self.granularity):
            raise ValueError(f"granularity = {list(self.granularity)} names one twice")
        return self

    @model_validator(mode="after")
    def _groups_with_their_schedule(self) -> Prune:
        if (self.schedule == "groups") != bool(self.groups):
            raise ValueError('[prune.groups] (a layer\'s name = the share to keep) and schedule = "groups" go together')
        return self


class Teacher(_Table):
    """One of `[[distill.teachers]]`: its factory, and its checkpoint where that does not bring its own weights."""

    model: Reference
    checkpoint: str = ""


class Distill(Training):
    """`[distill]`: recovery of what was pruned, or a student of its own, with or without teachers.

    `student`: a factory; the student then learns from fresh weights, and `stages` begin with "distill". `teachers`: in
    place of the float model; several answer together, by the mean of their softened answers.
    `features`: layers of the student (their names) matched to layers of the teacher, with `feature_weight`.
    """

    method: Literal["auto", "distill", "finetune"] = "auto"
    student: Reference | None = None
    teachers: tuple[Teacher, ...] = ()
    temperature: Positive = 2.0
    alpha: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    features: dict[str, str] = {}
    feature_weight: Positive = 1.0

    def functions(self) -> dict[str, str]:
        """The user's own code here that later stages build their model with, by its role."""
        return {"student": self.student} if self.student else {}


Strategy = Literal["default", "symmetric", "per_tensor", "half_range"]  # those of calibration.schemes that have ranges


class Calibrate(_Table):
    """`[calibrate]`: how many samples of the calibration split the observers and the vendors' quantizers see.

    `observers`: the rules that turn what was seen into ranges, or "auto". Each makes a candidate `ours-RULE`, and the
    race decides. `encodings`: target -> a file of ranges (AIMET's JSON, from the recipe's folder): one more candidate,
    `ours-encodings`, has these in place of the first observer's. `strategies`: of calibration.schemes.STRATEGIES, each
    with every observer: `ours-RULE-STRATEGY`.
    """

    samples: Count = 200
    observers: Annotated[tuple[str, ...], Field(min_length=1)] = ("minmax", "mse")
    strategies: tuple[Strategy, ...] = ("default",)
    encodings: dict[str, str] = {}

    @field_validator("observers", mode="before")
    @classmethod
    def _auto(cls, given: Any) -> Any:
        if given != "auto":
            return given
        from calibration.rules import AUTO  # numpy comes with it

        return AUTO

    @field_validator("observers")
    @classmethod
    def _known_observers(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        from calibration.errors import CalibrationError  # numpy comes with it
        from calibration.rules import observer

        for name in names:
            try:
                observer(name)
            except CalibrationError as error:
                raise ValueError(str(error)) from error
        if len(set(names)) != len(names):
            raise ValueError("one is named twice")
        return names


class Weights(_Table):
    """`[weights]`: the weight step before our own candidates are quantized; the vendors' get the weights as they are.

    `samples` of the calibration split tell it what each layer gets.
    """

    method: Literal["none", "bias", "rounding"] = "rounding"
    samples: Count = 64


class Quantize(_Table):
    """`[quantize]`: what ships among the candidates that hold parity.

    `keep_db`: one more candidate of ours, with the layers in float that it takes to reach this SQNR.
    """

    prefer: Literal["latency", "size"] = "latency"
    candidates: tuple[str, ...] = ()  # empty: all that the target proposes
    keep_db: Positive | None = None


class Race(_Table):
    """`[race]`: the interleaved timing of the candidates."""

    budget_s: Positive = 6.0
    min_rounds: Count = 200


class Profile(_Table):
    """`[profile]`: the latency measurement of what ships, beside float. `original`: beside the float model as it came
    too, before any stage changed it; that one is exported and lowered for it.
    """

    budget_s: Positive = 5.0
    min_rounds: Count = 1000
    original: bool = False
    threads: Count = 1


Margin = Positive | Annotated[str, Field(pattern=r"^\s*[0-9.]+\s*%$")]  # in the metric's unit, or "1%" of float


class Budgets(_Table):
    """What may be asked of one target; what is not given is not asked for."""

    margin_points: Positive | None = None
    margin: Margin | None = None
    max_size_bytes: Count | None = None
    max_weight_bytes: Count | None = None
    max_latency_ms: Positive | None = None
    max_peak_memory_bytes: Count | None = None
    max_flip_rate: Share | None = None
    min_sqnr_db: float | None = None
    min_int8_mac_share: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    device: Annotated[str, Field(min_length=1)] | None = None  # part of a fact of the device that must be measured
    devices: tuple[str, ...] | None = None  # each must be among those measured
    max_age_days: Positive | None = None
    metrics: dict[str, Margin] | None = None  # other metrics that must hold -> their margins
    slices: dict[str, Margin] | None = None  # "class:NAME", "group:NAME", "tag:NAME=VALUE" that must hold by themselves

    @field_validator("metrics", "slices")
    @classmethod
    def _known(cls, given: dict[str, float | str] | None, info: ValidationInfo) -> dict[str, float | str] | None:
        try:
            Policy(1.0, metrics=given or {}) if info.field_name == "metrics" else Policy(1.0, slices=given or {})
        except UsageError as error:
            raise ValueError(str(error).removeprefix("gate: ")) from None
        return given


class Gate(Budgets):
    """`[gate]`: the policy that a release must meet; `[gate.targets.NAME]` asks something else of one target."""

    margin_points: Positive = 1.0
    confidence: Annotated[float, Field(ge=0.5, lt=1.0)] = 0.95
    min_samples: Count | None = None
    devices: tuple[str, ...] = ()
    metrics: dict[str, Margin] = {}
    slices: dict[str, Margin] = {}
    targets: dict[str, Budgets] = {}

    def of(self, target: str) -> dict[str, Any]:
        """The policy for one target: its own over the common one; metrics and slices of both must hold."""
        own = self.targets.get(target, Budgets()).model_dump(exclude_none=True)
        if "margin_points" in own:
            own.setdefault("margin", None)  # the target's own margin, in points
        policy = self.model_dump(exclude={"targets"})
        both = {name: policy[name] | own.get(name, {}) for name in ("metrics", "slices")}
        return policy | own | both


class Recipe(_Table):
    """A whole recipe. `folder` is where it lies: the user's modules and files are found from there."""

    folder: Path
    name: str = "model"
    model: Source
    data: Source
    checkpoint: str | None = None
    pretrained: bool = False  # the factory's own weights are the float model: nothing is loaded or trained
    stages: tuple[Literal["prune", "distill"], ...] = ("prune", "distill")
    targets: Annotated[tuple[str, ...], Field(min_length=1)]
    rewrite: tuple[Literal["gelu", "clamp", "rnn_head"], ...] = ()  # before the first of `stages`: pipeline/rewrites.py
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
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"no recipe at {path}: write one, or name it with --recipe") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from error
    if "folder" in table:
        raise UsageError(f"{path}: unknown key 'folder'")
    return from_table(table, path.resolve().parent, str(path), overrides)


def from_table(table: dict[str, Any], folder: Path, where: str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from its keys. Raises UsageError with one line an error, each beginning with `where`."""
    for override in overrides:
        _override(table, override)
    try:
        return Recipe(folder=folder, **table)
    except ValidationError as error:
        raise UsageError("\n".join(f"{where}: {_explain(row)}" for row in error.errors())) from error


def _override(table: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if ".tag:" in key:  # a slice, whose own name has an equals sign
        tag, equals, value = value.partition("=")
        key += f"={tag}"
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UsageError(f"--set {text}: expected KEY=VALUE, for example --set prune.macs=0.25")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()  # a bare word is a string
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise UsageError(f"--set {text}: '{part}' is not a table")
    table[parts[-1]] = parsed


def _explain(row: Any) -> str:
    where = ".".join(str(part) for part in row["loc"])
    if row["type"] == "extra_forbidden":
        return f"unknown key '{where}'{_nearest(where)}"
    if row["type"] == "missing":
        return f"missing key '{where}'"
    message = row["msg"].removeprefix("Value error, ")
    if where == "model":
        message = "expected 'module:function', for example 'net:build', or a file .pt2 or .onnx"
    if where == "data":
        message = (
            "expected 'module:function', for example 'data:splits', a file .npz, or a folder with a slash, 'data/'"
        )
    given = "" if not where or isinstance(row["input"], dict) else f" (given: {row['input']!r})"
    return f"{where}: {message}{given}" if where else message


def keys() -> list[str]:
    """Every key that a recipe may hold, dotted."""
    found = []
    for name, field in Recipe.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += [f"{name}.{inner}" for inner in field.annotation.model_fields]
        if name != "folder":
            found.append(name)
    return found


def _nearest(key: str) -> str:
    match = difflib.get_close_matches(key, keys(), n=1, cutoff=0.5)
    return f": did you mean '{match[0]}'?" if match else f"; known keys: {', '.join(_siblings(key))}"


def _siblings(key: str) -> Iterable[str]:
    prefix = key.rpartition(".")[0]
    return [known for known in keys() if known.rpartition(".")[0] == prefix]
