"""`report.json`, version 1, as types; later versions only add keys. Its JSON schema: `report.schema.json` here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from pipeline.errors import UsageError
from pipeline.release.evidence import Chance, shown
from pipeline.release.rows import EXACT, ChanceRow, OutputRow

FILE = "report.json"
NAME = re.compile(r"\w[\w.+-]*", re.ASCII)  # a target's, and of its folder in the run's
STORED = re.compile(r"(?!.*/\.\./).*/entries/[0-9a-f]{64}/files")  # a candidate's folder in a store
EXPLANATION = "explain.json"  # beside it, from `deploy explain`
SENSITIVITY = "sensitivity.json"  # beside it, from `deploy sensitivity --run`

VerdictName = Literal["pass", "fail", "inconclusive"]
Outcome = Literal["pass", "fail", "inconclusive", "error"]


class _Record(BaseModel):
    model_config = EXACT


class Float(_Record):
    """The float model before any compression. `metric`: the task's (of classes accuracy) on the gate split, n samples.

    `output`: the one of several that is judged. `chance`: None where the metric has no such thing.
    """

    metric: float
    n: int
    params: int
    macs: int
    size_bytes: int
    groups: dict[str, float] = {}
    output: str | None = None
    chance: ChanceRow | None = None

    @property
    def judged(self) -> str:
        """What follows a figure where one of several outputs is judged: " of output 'scores'"."""
        return f" of output '{self.output}'" if self.output else ""


class CutRow(_Record):
    """Units of one group (or blocks: 1 or 0; or weights that are not zero) before and after a pruning."""

    name: str
    before: int
    after: int


class KeptRow(_Record):
    """What a pruning left whole, and why."""

    name: str
    width: int
    reason: str


class Try(_Record):
    """At this share of the MACs, what is stopped at came to `value`."""

    share: float
    value: float


class Stop(_Record):
    """Where a pruning stopped, in the unit of what it stops at (`name`, a line of [prune]); `whole`: all unpruned."""

    name: str
    limit: float
    reached: float
    whole: float | None = None
    tries: list[Try] = []


class Pruning(_Record):
    """What a pruning took out. `faster`: precision -> how many times unpruned speed, where widths were measured."""

    layers: list[CutRow]
    kept: list[KeptRow] = []
    stop: Stop | None = None
    faster: dict[str, float] = {}


class StageRow(_Record):
    """One stage of the run. `metric`: the task's (of classes accuracy) on the selection split, where it has one."""

    name: str
    branches: list[str]
    key: str
    seconds: float
    cached: bool
    metric: float | None = None
    params: int | None = None
    macs: int | None = None
    pruning: Pruning | None = None


class Interval(_Record):
    """A median with its 95 % interval."""

    median: float
    low: float
    high: float


class Estimate(_Record):
    """A latency that nobody measured: instructions * cpi / clock_hz."""

    ms: float
    cpi: float
    clock_hz: float


class PlanRow(_Record):
    """One buffer of an arena: bytes from `offset` on, taken from step `first` to step `last`."""

    name: str
    kind: str
    offset: int
    bytes: int
    first: int
    last: int


class BoardRow(_Record):
    """What a board counts for one inference, in `unit` ("instructions" of an emulator, "ticks" of a board's timer).

    `raced`: what each set of kernels takes, where there is more than one; `kernels` is the one that stays.
    """

    unit: str
    kernels: str = "portable"
    raced: dict[str, int] = {}
    count: int
    stack_bytes: int
    arena_bytes: int
    flash_bytes: int | None
    plan: list[PlanRow] = []
    estimate: Estimate | None


class Latency(_Record):
    """Milliseconds; p99 is None below 1,000 samples."""

    p50: float | None = None
    p90: float | None = None
    p99: float | None = None
    n: int | None = None


class GateSplit(_Record):
    """The split that judges. `groups`: how many people, devices, ... it has; None where the data names none."""

    n: int
    groups: int | None
    shared_samples: int | None
    digest: str


class Flips(_Record):
    """Samples right only before, and right only after."""

    lost: int | None = None
    gained: int | None = None


class CandidateRow(_Record):
    """One candidate, measured on the selection split. Its `verdict`: does it hold parity there.

    `edited`: tensors whose ranges are the user's own (`[calibrate.encodings]`). `kept`: layers left in float.
    """

    id: str
    artifact: str | None
    sha256: str | None
    size_bytes: int | None
    weight_bytes: int | None
    drop_points: float | None
    quant_drop_points: float | None = None
    quantizer: str
    scheme: str | None
    observer: str | None
    weights: str | None = None
    edited: list[str] = []
    kept: list[str] = []
    precision: str | None = None
    int8_mac_share: float | None
    int8_op_share: float | None
    float_ops: list[str]
    metric: float | None
    sqnr_db: float | None
    outputs: list[OutputRow] = []
    agreement: float | None = None
    latency_ms: Latency | None = None
    speedup: Interval | None
    board: BoardRow | None = None
    verdict: Outcome
    why: str = ""


class SliceRow(_Record):
    """A class or a group in one run: its samples, those that float has right, those lost and gained."""

    n: int
    float_right: int
    lost: int
    gained: int


class MetricRow(_Record):
    """What a metric of the policy lost, with one-sided bounds at the policy's confidence, all in `unit`: "points",
    "% of float", or "" (the metric's own). `float_value`, `value`: the metric itself, shares times 100.

    None where it is unavailable; `method` then says why.
    """

    drop: float | None
    low: float | None
    high: float | None
    method: str
    unit: str = "points"
    float_value: float | None = None
    value: float | None = None


class LayerRow(_Record):
    """A layer of what ships, as the runtime executes it. `type`: the kernel; `precision`: None where it does not say;
    `ms`: the median of some inferences, watched, which costs time itself; `share`: of all layers.
    """

    op: str
    name: str
    type: str
    precision: str | None
    ms: float
    share: float


class RunRow(_Record):
    """What ships, on the gate split, at one batch size on one device.

    `mcnemar_p`: exact two-sided p-value of McNemar's test on the flips. Shown, and no part of any verdict.
    `slices`: "class:NAME", "group:NAME", "tag:NAME=VALUE". `samples_sha256`: digest of the per-sample evidence,
    `TARGET/evidence/samples-BATCH.npz`. `measured_at`: when, in seconds since 1970 (UTC). `original_latency_ms`,
    `speedup_over_original`: of the float model as it came, where the recipe asks for it. `attached`: URI of the device
    where the recipe asks for others than the run's own; its evidence lies in a folder of that number, `evidence/1/`.
    `length`: at which the samples were cut, where an axis varies; None at the greatest.
    `layers`: in the order of execution; None where there are none, and `layers_unavailable` says why.
    """

    device: dict[str, Any]
    runtime: str
    runtime_version: str | None
    precision: str | None
    batch: int
    n: int
    finite: bool
    metric: float | None
    drop_points: float | None
    margin_points: float
    drop_upper_points: float | None
    quant_drop_points: float | None
    flips: Flips
    mcnemar_p: float | None = None
    agreement: float | None
    sqnr_db: float | None
    worst_error: float | None = None
    outputs: list[OutputRow] = []
    groups: dict[str, float] = {}
    slices: dict[str, SliceRow] = {}
    metrics: dict[str, MetricRow] = {}
    samples_sha256: str | None = None
    measured_at: float | None = None
    latency_ms: Latency | None = None
    latency_interval_ms: Interval | None = None
    float_latency_ms: Latency | None = None
    speedup: Interval | None = None
    peak_memory_bytes: int | None = None
    float_peak_memory_bytes: int | None = None
    original_latency_ms: Latency | None = None
    speedup_over_original: Interval | None = None
    attached: str | None = None
    layers: list[LayerRow] | None = None
    layers_unavailable: str | None = None
    board: BoardRow | None = None
    length: int | None = None


class Check(_Record):
    """One thing that the gate judged."""

    name: str
    verdict: VerdictName
    reason: str
    batch: int | None = None
    value: float | None = None
    limit: float | None = None
    unit: str = ""


class Finding(_Record):
    """Something suspicious about what ships, by a named check (pipeline/release/findings.py)."""

    check: str
    text: str


class TargetRow(_Record):
    """One target: verdict, what ships and why, the evidence."""

    verdict: Outcome
    reasons: list[str]
    shipped: str | None = None
    artifact: str | None = None
    sha256: str | None = None
    size_bytes: int | None = None
    weight_bytes: int | None = None
    race: str = ""
    findings: list[Finding] = []
    batches: list[int] = []
    candidates: list[CandidateRow] = []
    runs: list[RunRow] = []
    lengths: list[RunRow] = []
    checks: list[Check] = []


class Report(_Record):
    """A whole run."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    verdict: Outcome
    exit_code: int
    recipe: dict[str, Any]
    environment: dict[str, Any]
    data: dict[str, int]
    gate_split: GateSplit
    gate_looks: int
    float_: Float = Field(alias="float")
    stages: list[StageRow]
    targets: dict[str, TargetRow]

    @property
    def at_chance(self) -> str:
        """That the float model is not shown to beat chance, in words; empty where it is, or where nothing says so."""
        if self.float_.chance is None:
            return ""
        seen = Chance(**self.float_.chance.model_dump())
        return "" if seen.shown else f"float at chance: {seen.words(self.task_metric, self.float_.n)}"

    @property
    def task_metric(self) -> str:
        """The metric that the gate judges by; a report may be older than the recipe's key."""
        return str(self.recipe.get("task", {}).get("metric", "accuracy"))

    @property
    def metric_name(self) -> str:
        """What the figures called `metric` are."""
        return shown(self.task_metric)

    def to_json(self) -> str:
        """The report as text, keys in the schema's order."""
        return json.dumps(self.model_dump(by_alias=True), indent=1, allow_nan=False) + "\n"


def schema_json() -> str:
    """JSON Schema of a report."""
    return json.dumps(Report.model_json_schema(by_alias=True), indent=1, sort_keys=True) + "\n"


def read(run: Path) -> Report:
    """The report of a finished run: a folder with `report.json`, or that file. Raises UsageError."""
    file = run / FILE if run.is_dir() else run
    try:
        found = Report.model_validate_json(file.read_text())
    except FileNotFoundError:
        raise UsageError(f"no finished run at {run}: run 'deploy --target ... --out {run}' first") from None
    except (OSError, ValidationError) as error:
        raise UsageError(f"{file} is not a report of this version: {str(error).splitlines()[0]}") from error
    for row in found.targets.values():
        names = [*found.targets, *([row.artifact] if row.artifact is not None else [])]
        stored = [one.artifact for one in row.candidates if one.artifact is not None]
        if odd := [n for n in names if not NAME.fullmatch(n)] + [n for n in stored if not STORED.fullmatch(n)]:
            raise UsageError(f"{file}: {odd[0]!r} is no name of a target or of an artifact: it may be anywhere")
    return found
