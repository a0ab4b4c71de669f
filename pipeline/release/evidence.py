"""What a verdict is made of: the policy, the evidence, the checks. Types only; `gate` judges."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.errors import UsageError
from pipeline.release.statistics import Decision

METRICS = re.compile(r"balanced_accuracy|macro_f1|top[2-9]|top[1-9]\d+")
SLICES = re.compile(r"(class|group):.+")


@dataclass(frozen=True)
class Policy:
    """What a release must hold. None means that no budget is set.

    `margin_points`: accuracy that may be lost at most, in percentage points against the original float model.
    `max_latency_ms`: on the median (p50) at the deployment batch. `max_flip_rate`: share of samples that went from
    right to wrong or back. `metrics`: other metrics that must hold, with their margins in points: "balanced_accuracy",
    "macro_f1", "top2", "top3", ... `slices`: parts of the split that must hold parity by themselves, with their
    margins in points: "class:NAME" or "group:NAME". `min_samples`: that the gate split must have. `device`: what
    every run must have been measured on, as part of one of its facts (CPU, board, serial number). `groups`: the data
    has groups (people, devices, ...), so the claim is stated as conditional on those in the gate split. Raises
    UsageError for values that no policy can have.
    """

    margin_points: float
    confidence: float = 0.95
    max_size_bytes: int | None = None
    max_weight_bytes: int | None = None
    max_latency_ms: float | None = None
    max_flip_rate: float | None = None
    min_sqnr_db: float | None = None
    min_int8_mac_share: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    slices: Mapping[str, float] = field(default_factory=dict)
    min_samples: int | None = None
    device: str | None = None
    groups: bool = False

    def __post_init__(self) -> None:
        _check_margin("margin_points", self.margin_points)
        if not 0.5 <= self.confidence < 1:
            raise UsageError(f"gate: confidence is {self.confidence}, expected at least 0.5 and less than 1")
        for budget in BUDGETS:
            limit, (low, high) = getattr(self, budget.limit), PLAUSIBLE[budget.unit]
            if limit is not None and not (low <= limit <= high and math.isfinite(limit)):
                raise UsageError(f"gate: {budget.limit} is {limit}, expected {low:g} to {high:g} {budget.unit}")
        if self.min_samples is not None and self.min_samples < 1:
            raise UsageError(f"gate: min_samples is {self.min_samples}, expected at least 1")
        if self.device is not None and not self.device.strip():
            raise UsageError("gate: device is empty: write a part of its CPU's, board's or serial number's text")
        for name, margin in self.metrics.items():
            if not METRICS.fullmatch(name):
                raise UsageError(f"gate: no metric '{name}': there are balanced_accuracy, macro_f1, top2, top3, ...")
            _check_margin(f"metrics.{name}", margin)
        for name, margin in self.slices.items():
            if not SLICES.fullmatch(name):
                raise UsageError(f'gate: no slice \'{name}\': write "class:NAME" or "group:NAME"')
            _check_margin(f'slices."{name}"', margin)


def _check_margin(name: str, margin: float) -> None:
    if not 0 < margin < 100:
        raise UsageError(f"gate: {name} is {margin}, expected more than 0 and less than 100 points")


@dataclass(frozen=True)
class Slice:
    """A part of the gate split in one run: its samples, and those of them lost and gained."""

    n: int | None
    lost: int | None
    gained: int | None


@dataclass(frozen=True)
class Metric:
    """The drop of another metric with its one-sided bounds, in points. `method` says how they were made and what the
    claim is conditional on, or, where the figures are None, why they are unavailable.
    """

    drop_points: float | None
    low_points: float | None
    high_points: float | None
    method: str


@dataclass(frozen=True)
class Run:
    """What was measured on the whole gate split at one batch size, on one device.

    `lost`, `gained`: samples right only with the original float model, right only with this one. `latency_ms` has
    p50, p90 and p99 of one batch. `finite`: whether every output value was a finite number. None = unavailable.
    `slices`: "class:NAME" and "group:NAME"; the slices of one kind make up the whole split. `device`: its facts.
    What stored evidence really holds is checked by `judge`, not by these types.
    """

    batch: int
    n: int | None
    lost: int | None
    gained: int | None
    finite: bool | None
    metric: float | None = None
    sqnr_db: float | None = None
    latency_ms: Mapping[str, float] | None = None
    slices: Mapping[str, Slice] = field(default_factory=dict)
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    device: Mapping[str, object] | None = None

    @property
    def p50_ms(self) -> float | None:
        """Median latency of one batch."""
        return None if self.latency_ms is None else self.latency_ms.get("p50")

    @property
    def flip_rate(self) -> float | None:
        """Share of samples whose correctness changed, either way."""
        if not self.n or self.lost is None or self.gained is None:
            return None
        return (self.lost + self.gained) / self.n


@dataclass(frozen=True)
class Evidence:
    """All that a verdict is made from; None = unavailable.

    `n`: samples in the gate split. `batches`: the batch sizes that had to be run, deployment first. `leaked`: samples
    of the gate split that are in another split too. `groups`: how many groups the gate split has. `verified_sha256`
    is the digest of the model that the runs measured, `artifact_sha256` that of the file which ships.
    """

    n: int
    batches: tuple[int, ...]
    runs: tuple[Run, ...]
    verified_sha256: str | None
    artifact_sha256: str | None
    leaked: int | None
    size_bytes: int | None = None
    weight_bytes: int | None = None
    int8_mac_share: float | None = None
    groups: int | None = None


@dataclass(frozen=True)
class Check:
    """One thing that was judged; `batch` is None for what concerns the file. `value` and `limit` are in `unit`."""

    name: str
    verdict: Decision
    reason: str
    batch: int | None = None
    value: float | None = None
    limit: float | None = None
    unit: str = ""


@dataclass(frozen=True)
class Verdict:
    """`reasons` are those of the checks that made the verdict (all of them for a pass); `checks` has every one."""

    verdict: Decision
    reasons: list[str]
    checks: list[Check]


@dataclass(frozen=True)
class Budget:
    """A row of BUDGETS: `field` of the evidence or of each run must be at most / at least the policy's `limit`."""

    name: str
    field: str
    limit: str
    relation: str  # "<=" or ">="
    unit: str
    scope: str  # "file", "deployment" (the run at the deployment batch), "every run"


BUDGETS = (
    Budget("file size", "size_bytes", "max_size_bytes", "<=", "bytes", "file"),
    Budget("weight bytes", "weight_bytes", "max_weight_bytes", "<=", "bytes", "file"),
    Budget("int8 share of MACs", "int8_mac_share", "min_int8_mac_share", ">=", "share", "file"),
    Budget("latency p50", "p50_ms", "max_latency_ms", "<=", "ms", "deployment"),
    Budget("flip rate", "flip_rate", "max_flip_rate", "<=", "share", "every run"),
    Budget("SQNR", "sqnr_db", "min_sqnr_db", ">=", "dB", "every run"),
)
# What a measurement can be at all: a size of 0 bytes or a latency below a nanosecond was never measured.
PLAUSIBLE = {
    "bytes": (1.0, math.inf),
    "ms": (1e-6, math.inf),
    "share": (0.0, 1.0),
    "dB": (-math.inf, math.inf),
}
