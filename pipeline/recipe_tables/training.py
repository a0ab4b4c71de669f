"""The tables of what PyTorch does: `[train]`, `[prune]`, `[distill]`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipeline.recipe_tables.base import Count, Positive, Reference, Share, Table


class Training(Table):
    """One run of the training loop (`compression.training.Schedule`).

    `optimizer`: "muon" steps the matrices inside of the network along orthogonal directions. `warmup`: the share of
    steps in which the learning rate climbs, before it falls along a cosine. `patience`: epochs without a better
    selection metric before it stops; 0 never. `penalty`, `strength`: sparse training. `ema`: decay of a moving average
    of the weights; 0 keeps the weights themselves. `amp`: bfloat16 where it loses little, which pays on CPUs that
    compute in it. `augment`: a function of yours, (inputs, generator) -> inputs, that changes a batch.
    """

    epochs: Count = 10
    lr: Positive = 1e-3
    batch_size: Count = 64
    weight_decay: Annotated[float, Field(ge=0.0)] = 1e-2
    patience: Annotated[int, Field(ge=0)] = 0
    penalty: Literal["none", "l1", "group_lasso", "soft_threshold"] = "none"
    strength: Annotated[float, Field(ge=0.0)] = 0.0
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    optimizer: Literal["adamw", "muon"] = "adamw"
    warmup: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    amp: bool = False
    augment: Reference | None = None

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

    def functions(self) -> dict[str, str]:
        """The user's own code that changes batches, by its role."""
        return {"train_augment": self.augment} if self.augment else {}


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


class Prune(Table):
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


class Teacher(Table):
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
        """The user's own code here, by its role: what later stages build their model with, and what changes batches."""
        roles = {"student": self.student, "distill_augment": self.augment}
        return {role: name for role, name in roles.items() if name}
