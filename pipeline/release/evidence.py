"""What a verdict is made of: the policy, the evidence, the checks. Types only; `gate` judges."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.errors import UsageError
from pipeline.release.statistics import Decision

# Functions of each sample's answer, for classes: pipeline/release/metrics.py.
CLASS_METRICS = re.compile(r"accuracy|balanced_accuracy|macro_f1|top[2-9]|top[1-9]\d+")


def shown(metric: str) -> str:
    """What figures called "metric" are, of a task with that metric: of classes always the accuracy."""
    return "accuracy" if CLASS_METRICS.fullmatch(metric) else metric


# Rows of pipeline/release/scores.py, in points unless they have the targets' own unit: name -> unit.
SCORES = {
    "f1": "points",
    "auc": "points",
    "mean_iou": "points",
    "word_error_rate": "points",
    "cosine": "points",
    "cosine_to_float": "points",
    "mae": "",
    "mse": "",
    "rmse": "",
}
OWN_SCORE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")  # module:function of the user's, in its own unit
SLICES = re.compile(r"(class|group):.+|tag:[^=]+=.+")
RELATIVE = "% of float"  # the unit of a drop that is a share of float
Margin = float | str  # in the metric's unit, or as "1%" of what float reaches


def metric_unit(name: str) -> str | None:
    """ "points", or "" for a metric in a unit of its own; None for a name that is no metric.

    "mae@depth" is the metric "mae" of the output "depth".
    """
    plain = name.partition("@")[0]
    if CLASS_METRICS.fullmatch(plain):
        return "points"
    return "" if OWN_SCORE.fullmatch(plain) else SCORES.get(plain)


def samples_file(batch: int, length: int | None = None) -> str:
    """The file of per-sample evidence of the run at that batch size.

    `length`: at which the samples were cut, where that varies.
    """
    return f"samples-{batch}.npz" if length is None else f"samples-{batch}-length-{length}.npz"


RANKS = frozenset({"auc"})  # of all samples together: a single one has no such figure


def is_relative(margin: Margin) -> bool:
    """Is it a share of float, written "1%"?"""
    return isinstance(margin, str)


def limit_of(margin: Margin) -> float:
    """The number of a margin: in the metric's unit, or in percent of float. Raises ValueError."""
    return float(margin.strip().removesuffix("%")) if isinstance(margin, str) else margin


@dataclass(frozen=True)
class Policy:
    """What a release must hold. None means that no budget is set.

    `metric`: what is judged before all: "accuracy", or any name that `metrics` may hold. `margin_points`: what of it
    may be lost at most, in percentage points against the original float model; `margin`, where given, takes its
    place, in the metric's own unit or as a share of float ("1%"). `metrics`: other metrics that must hold, with their
    margins. `slices`: parts of the split that must hold by themselves, with their margins: "class:NAME",
    "group:NAME" or "tag:NAME=VALUE". `max_latency_ms`: on the median (p50) at the deployment batch. `max_flip_rate`:
    share of samples that went from right to wrong or back. `min_samples`: that the gate split must have. `device`:
    what every run must have been measured on, as part of one of its facts (CPU, board, serial number); `devices`:
    each of them must be among those measured, at every batch. `max_age_days`: how long ago runs may have been
    measured. `groups`: the data has groups (people, devices, ...), so the claim is stated as conditional on those in
    the gate split. `allow_chance`: a float model that is not shown to beat chance is meant. Raises UsageError for
    values that no policy can have.
    """

    margin_points: float
    confidence: float = 0.95
    metric: str = "accuracy"
    margin: Margin | None = None
    max_size_bytes: int | None = None
    max_weight_bytes: int | None = None
    max_latency_ms: float | None = None
    max_peak_memory_bytes: int | None = None
    max_flip_rate: float | None = None
    min_sqnr_db: float | None = None
    min_int8_mac_share: float | None = None
    metrics: Mapping[str, Margin] = field(default_factory=dict)
    slices: Mapping[str, Margin] = field(default_factory=dict)
    min_samples: int | None = None
    device: str | None = None
    devices: tuple[str, ...] = ()
    max_age_days: float | None = None
    groups: bool = False
    allow_chance: bool = False

    @property
    def primary(self) -> Margin:
        """The margin of `metric`."""
        return self.margin_points if self.margin is None else self.margin

    @property
    def by_flips(self) -> bool:
        """Is the verdict on accuracy in points, which counts of lost and gained samples decide?"""
        return self.metric == "accuracy" and not is_relative(self.primary)

    @property
    def claims(self) -> dict[str, Margin]:
        """Every metric that must hold by bounds of its own: the primary one where flips do not decide, the others."""
        return ({} if self.by_flips else {self.metric: self.primary}) | dict(self.metrics)

    def __post_init__(self) -> None:
        if (unit := metric_unit(self.metric)) is None:
            raise UsageError(_no_metric(self.metric))
        if not unit and self.margin is None:
            raise UsageError(f"gate: {self.metric} has a unit of its own: set margin to what may be lost of it")
        _check_margin("margin_points", self.margin_points, "points")
        if self.margin is not None:
            _check_margin("margin", self.margin, unit)
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
        if any(not device.strip() for device in self.devices):
            raise UsageError(
                "gate: devices has an empty name: write a part of its CPU's, board's or serial number's text"
            )
        if self.max_age_days is not None and not 0 < self.max_age_days < math.inf:
            raise UsageError(f"gate: max_age_days is {self.max_age_days}, expected more than 0")
        for name, margin in self.metrics.items():
            if (own := metric_unit(name)) is None:
                raise UsageError(_no_metric(name))
            _check_margin(f"metrics.{name}", margin, own)
        for name, margin in self.slices.items():
            if not SLICES.fullmatch(name):
                raise UsageError(f'gate: no slice \'{name}\': write "class:NAME", "group:NAME" or "tag:NAME=VALUE"')
            _check_margin(f'slices."{name}"', margin, unit)


def _no_metric(name: str) -> str:
    known = ", ".join(("accuracy", "balanced_accuracy", "macro_f1", "top2", "top3", "...", *SCORES))
    return f"gate: no metric '{name}': there are {known}, or a score of your own: module:function"


def _check_margin(name: str, margin: Margin, unit: str) -> None:
    try:
        limit = limit_of(margin)
    except ValueError:
        limit = math.nan
    if isinstance(margin, str):
        if not (margin.strip().endswith("%") and 0 < limit < 100):
            raise UsageError(f"gate: {name} is '{margin}', expected a number, or a share of float such as '1%'")
    elif unit and not 0 < limit < 100:
        raise UsageError(f"gate: {name} is {margin}, expected more than 0 and less than 100 points")
    elif not 0 < limit < math.inf:
        raise UsageError(f"gate: {name} is {margin}, expected more than 0")


@dataclass(frozen=True)
class Slice:
    """A part of the gate split in one run: its samples, and those of them lost and gained."""

    n: int | None
    lost: int | None
    gained: int | None


@dataclass(frozen=True)
class Metric:
    """What a metric lost, with one-sided bounds, all in `unit`: "points", "% of float", or "" (the metric's own).

    More is worse, whichever way the metric points. `float_value`, `value`: the metric itself, of the float model and
    of the deployed one; points are shares times 100. `method` says how the bounds were made and what the claim is
    conditional on, or, where the figures are None, why they are unavailable.
    """

    drop: float | None
    low: float | None
    high: float | None
    method: str
    unit: str = "points"
    float_value: float | None = None
    value: float | None = None


@dataclass(frozen=True)
class Chance:
    """The float model on the gate split beside the best answer that looks at no input (pipeline/release/chance.py).

    `value`, `constant`: the metric of either, shares as shares. `gain_low`: the 95 % lower bound of what float is
    better by: above zero, it is shown to beat chance. `says`: that answer, in words; `method`: where the bound is from.
    """

    value: float | None
    constant: float | None
    gain_low: float | None
    says: str
    method: str

    @property
    def shown(self) -> bool:
        """Is float shown to do better?"""
        return self.gain_low is not None and self.gain_low > 0  # False for NaN

    def words(self, metric: str, n: int) -> str:
        """Both figures and where the bound is from. `n`: gate samples."""
        if self.value is None or self.constant is None:
            return f"{metric} is not shown to beat {self.says}: {self.method}"
        shares = metric_unit(metric) == "points" and metric != "cosine"
        value, constant = (f"{x:.2%}" if shares else f"{x:.4g}" for x in (self.value, self.constant))
        verb = "beats" if self.shown else "is not shown (95 %) to beat"
        return f"{metric} {value} of {n:,} gate samples {verb} {self.says}, {constant} ({self.method})"


@dataclass(frozen=True)
class Run:
    """What was measured on the whole gate split at one batch size, on one device.

    `lost`, `gained`: samples right only with the original float model, right only with this one. `latency_ms` has
    p50, p90 and p99 of one batch. `finite`: whether every output value was a finite number. None = unavailable.
    `slices`: "class:NAME", "group:NAME", "tag:NAME=VALUE"; the slices of one kind make up the whole split. `metrics`:
    by name, and for required slices where flips do not decide "METRIC on SLICE". `device`: its facts. `measured_at`:
    when, in seconds since 1970 (UTC) by the host's clock. `worst_error`: of any output value against the runtime's
    own float. `still`: channels of outputs that move in float and not in what was measured, in words. `evidence`: what
    is wrong with the file of per-sample evidence, in words.
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
    peak_memory_bytes: int | None = None
    measured_at: float | None = None
    worst_error: float | None = None
    still: str = ""
    evidence: str = ""

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
    is the digest of the model that the runs measured, `artifact_sha256` that of the file which ships. `precision`: what
    the model says of itself. `judged_at`: the time of the verdict, as `Run.measured_at`. `lengths`: length -> the run
    with samples cut to it, where an axis varies. `chance`: of the float model; None where its metric has no such thing.
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
    precision: str | None = None
    judged_at: float | None = None
    chance: Chance | None = None
    lengths: Mapping[int, Run] = field(default_factory=dict)


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

    def holds(self, value: float, limit: float) -> bool:
        """Is the budget kept?"""
        return value <= limit if self.relation == "<=" else value >= limit

    @property
    def broken(self) -> str:
        """The relation where it is not."""
        return ">" if self.relation == "<=" else "<"


BUDGETS = (
    Budget("file size", "size_bytes", "max_size_bytes", "<=", "bytes", "file"),
    Budget("weight bytes", "weight_bytes", "max_weight_bytes", "<=", "bytes", "file"),
    Budget("int8 share of MACs", "int8_mac_share", "min_int8_mac_share", ">=", "share", "file"),
    Budget("latency p50", "p50_ms", "max_latency_ms", "<=", "ms", "deployment"),
    Budget("peak memory", "peak_memory_bytes", "max_peak_memory_bytes", "<=", "bytes", "deployment"),
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
