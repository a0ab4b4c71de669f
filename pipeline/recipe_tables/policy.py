"""`[gate]`: what a release must hold."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator

from pipeline.errors import UsageError
from pipeline.recipe_tables.base import Count, Positive, Share, Table
from pipeline.release.evidence import Policy

Margin = Positive | Annotated[str, Field(pattern=r"^\s*[0-9.]+\s*%$")]  # in the metric's unit, or "1%" of float


class Budgets(Table):
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
    allow_chance: bool = False  # a float model that is not shown to beat chance is meant
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
