"""From a travelled road to its report: the gate's evidence, the verdicts, the delivered files."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipeline import errors
from pipeline.artifact import Artifact, sha256_file
from pipeline.branch import Branch, model_folder, rows_of
from pipeline.errors import PRECEDENCE
from pipeline.recipe import Recipe
from pipeline.release import gate, report
from pipeline.release.checks import still
from pipeline.release.claims import as_slices, on_slice
from pipeline.release.evidence import is_relative, samples_file
from pipeline.release.findings import FAR_DB, differs, findings
from pipeline.release.rows import OutputRow
from pipeline.release.statistics import mcnemar_p, tango_upper
from pipeline.road import Road
from pipeline.runner import Runner, device, version
from pipeline.store import Store

VERDICT_CODES: dict[report.Outcome, int] = {
    "pass": errors.PASS,
    "fail": errors.GATE_FAILED,
    "inconclusive": errors.INCONCLUSIVE,
}
TOOLS: tuple[str, ...] = (
    "torch",
    "torch-pruning",
    "onnx",
    "onnxruntime",
    "openvino",
    "nncf",
    "litert-torch",
    "ai-edge-quantizer",
)
TOOLS += ("ai-edge-litert", "numpy")


def first(codes: Iterable[int]) -> int:
    """The exit code of several outcomes."""
    seen = set(codes)
    return next(code for code in PRECEDENCE if code in seen)


def verdict_of(code: int) -> report.Outcome:
    """The verdict that an exit code stands for."""
    return next((name for name, known in VERDICT_CODES.items() if known == code), "error")


def conclude(road: Road, runner: Runner, overrides: Iterable[str] = ()) -> report.Report:
    """The report of a finished road."""
    assert road.data is not None
    assert road.reference is not None
    looks = count_looks(runner.store, road)
    facts = road.data.metadata
    split = report.GateSplit(
        n=facts["splits"]["gate"],
        groups=len(facts["groups"]["gate"]) if "gate" in facts["groups"] else None,
        shared_samples=facts["shared_samples"],
        digest=facts["digests"]["gate"],
    )
    original = road.reference.metadata
    floating = report.Float(
        **original["gate"],
        **{key: original[key] for key in ("params", "macs", "size_bytes")},
        output=original["output"] if len(original["outputs"]) > 1 else None,
    )
    targets = {name: _target(road, branch, split, floating) for name, branch in road.branches.items()}
    code = first(
        branch.error.exit_code if branch.error else VERDICT_CODES[targets[name].verdict]
        for name, branch in road.branches.items()
    )
    return report.Report(
        verdict=verdict_of(code),
        exit_code=code,
        recipe=road.recipe.model_dump(mode="json") | {"set": list(overrides)},
        environment=environment() | ({"attached": road.device} if road.device else {}),
        data=facts["splits"],
        gate_split=split,
        gate_looks=looks,
        float=floating,
        stages=[report.StageRow(**row) for row in runner.rows],
        targets=targets,
    )


def environment() -> dict[str, Any]:
    """What the figures were measured with."""
    tools = {name: version(name) for name in ("edge-deploy", *TOOLS)}
    return {"python": platform.python_version(), "platform": platform.platform(), "device": device(), "versions": tools}


def count_looks(store: Store, road: Road) -> int:
    """How many different artifacts have been verified on this gate split, this run included."""
    assert road.data is not None
    folder = store.root / "looks" / road.data.metadata["digests"]["gate"]
    folder.mkdir(parents=True, exist_ok=True)
    for branch in road.branches.values():
        if branch.verify is not None:
            (folder / branch.verify.metadata["sha256"]).touch()
    return sum(1 for _ in folder.iterdir())


def _target(road: Road, branch: Branch, split: report.GateSplit, floating: report.Float) -> report.TargetRow:
    candidates = _candidates(branch)
    if branch.error is not None or branch.choice is None or branch.verify is None or branch.profile is None:
        why = str(branch.error) if branch.error else "the run stopped before there was evidence"
        return report.TargetRow(verdict="error", reasons=[why], candidates=candidates)
    shipped = branch.candidates[branch.choice.shipped].metadata
    row = report.TargetRow(
        verdict="error",
        reasons=[],
        shipped=branch.choice.shipped,
        artifact=branch.name,
        sha256=branch.verify.metadata["sha256"],
        size_bytes=shipped["size_bytes"],
        weight_bytes=shipped["weight_bytes"],
        race=branch.choice.says,
        findings=_findings(branch, shipped),
        batches=branch.batches,
        candidates=candidates,
        runs=_runs(road.recipe, branch),
        lengths=_at_lengths(road.recipe, branch),
    )
    return judged(row, road.recipe.policy(branch.name), split, floating, shipped["sha256"], evidence(branch))


def judged(
    row: report.TargetRow,
    policy: Mapping[str, Any],
    split: report.GateSplit,
    floating: report.Float,
    artifact_sha256: str | None,
    samples: Sequence[Path],
) -> report.TargetRow:
    """The row with the gate's verdict on its figures. `artifact_sha256`: digest of the file as it lies there now.

    `samples`: folders of the per-sample evidence, one a device, the run's own first; its digests are always looked at,
    and it is read where the policy asks for other metrics than accuracy.
    """
    asked = gate.Policy(**policy, groups=split.groups is not None)
    metrics, at_lengths = ([_metrics(run, asked, samples) for run in runs] for runs in (row.runs, row.lengths))
    evidence = gate.Evidence(
        n=split.n,
        batches=tuple(row.batches),
        runs=tuple(_as_evidence(run, found, samples) for run, found in zip(row.runs, metrics, strict=True)),
        lengths={
            run.length: _as_evidence(run, found, samples)
            for run, found in zip(row.lengths, at_lengths, strict=True)
            if run.length is not None
        },
        verified_sha256=row.sha256,
        artifact_sha256=artifact_sha256,
        leaked=split.shared_samples,
        size_bytes=row.size_bytes,
        weight_bytes=row.weight_bytes,
        int8_mac_share=next((c.int8_mac_share for c in row.candidates if c.id == row.shipped), None),
        groups=split.groups,
        precision=next((c.precision for c in row.candidates if c.id == row.shipped), None),
        judged_at=time.time(),
        chance=gate.Chance(**floating.chance.model_dump()) if floating.chance else None,
    )
    verdict = gate.judge(asked, evidence)
    return row.model_copy(
        update={
            "runs": [_bounded(run, asked) for run in _with_metrics(row.runs, metrics)],
            "lengths": [_bounded(run, asked) for run in _with_metrics(row.lengths, at_lengths)],
            "verdict": verdict.verdict,
            "reasons": list(verdict.reasons),
            "checks": [report.Check(**vars(check)) for check in verdict.checks],
        }
    )


def _bounded(run: report.RunRow, policy: gate.Policy) -> report.RunRow:
    """The run beside the margin that it was judged by, with the bound at that policy's confidence."""
    lost, gained = run.flips.lost, run.flips.gained
    bound = None
    if lost is not None and gained is not None and min(lost, gained) >= 0 and lost + gained <= run.n > 0:
        bound = round(100 * tango_upper(lost, gained, run.n, policy.confidence), 4)
    return run.model_copy(update={"margin_points": policy.margin_points, "drop_upper_points": bound})


def _as_evidence(run: report.RunRow, metrics: Mapping[str, gate.Metric], samples: Sequence[Path]) -> gate.Run:
    return gate.Run(
        batch=run.batch,
        n=run.n,
        lost=run.flips.lost,
        gained=run.flips.gained,
        finite=run.finite,
        metric=run.metric,
        sqnr_db=run.sqnr_db,
        latency_ms=run.latency_ms.model_dump() if run.latency_ms else None,
        slices=as_slices({name: part.model_dump() for name, part in run.slices.items()}),
        metrics=metrics,
        device=run.device,
        peak_memory_bytes=run.peak_memory_bytes,
        measured_at=run.measured_at,
        worst_error=run.worst_error,
        still=still([output.model_dump() for output in run.outputs]),
        evidence=_samples_of(run, samples)[1] if run.finite else "",  # none is stored of what is not finite
    )


def _with_metrics(runs: Sequence[report.RunRow], metrics: Sequence[Mapping[str, gate.Metric]]) -> list[report.RunRow]:
    return [
        run.model_copy(update={"metrics": {k: report.MetricRow(**vars(v)) for k, v in found.items()}})
        for run, found in zip(runs, metrics, strict=True)
    ]


def _metrics(run: report.RunRow, policy: gate.Policy, folders: Sequence[Path]) -> dict[str, gate.Metric]:
    """The policy's metrics beside flips, from the samples that verify stored and no others."""
    asked = {name: (name, "", is_relative(margin)) for name, margin in policy.claims.items()}
    for part, margin in policy.slices.items():
        if policy.metric != "accuracy" or is_relative(margin):
            asked[on_slice(policy.metric, part)] = (policy.metric, part, is_relative(margin))
    if not asked:
        return {}
    file, why = _samples_of(run, folders)
    if why:
        return {name: gate.Metric(None, None, None, why) for name in asked}
    from pipeline.release import metrics, samples  # numpy comes with them

    kept = samples.load(file)
    found = {}
    for name, (metric, part, relative) in asked.items():
        seen = kept.part(part) if part else kept
        if seen is None:
            found[name] = gate.Metric(None, None, None, f"the gate split has no {part}")
        else:
            found[name] = metrics.measure(metric, seen, policy.confidence, relative)
    return found


def _samples_of(run: report.RunRow, folders: Sequence[Path]) -> tuple[Path, str]:
    """The file of a run's per-sample evidence, and what is wrong with it, in words; empty where it is the one meant."""
    files = [folder / samples_file(run.batch, run.length) for folder in folders]
    try:
        digests = [sha256_file(file) if file.is_file() else None for file in files]
    except OSError as error:
        return files[0], f"per-sample evidence {error.filename} cannot be read: {error.strerror}"
    if run.samples_sha256 is not None and run.samples_sha256 in digests:
        return files[digests.index(run.samples_sha256)], ""
    if not any(digests):
        return files[0], f"no per-sample evidence at {files[0]}: run 'deploy verify'"
    return files[0], f"{files[0]} is not the per-sample evidence that the report speaks of: run 'deploy verify'"


PYTORCH = "pytorch"  # the folder of a run that holds the pruned and trained network itself
EVIDENCE = "evidence"  # the folder beside a delivered model that holds what became of each sample


def evidence(branch: Branch) -> list[Path]:
    """Where the per-sample evidence of each device was stored, the run's own first."""
    assert branch.verify is not None
    return [branch.verify.path, *(verify.path for verify, _ in branch.also)]


MEASURED = (
    "latency_ms", "latency_interval_ms", "float_latency_ms", "speedup", "peak_memory_bytes", "float_peak_memory_bytes",
    "original_latency_ms", "speedup_over_original",
    "layers", "layers_unavailable", "board",
)  # fmt: skip


def _runs(recipe: Recipe, branch: Branch) -> list[report.RunRow]:
    assert branch.verify is not None
    assert branch.profile is not None
    rows = _runs_of(recipe, branch.name, branch.verify, branch.profile, None)
    for uri, (verify, profile) in zip(recipe.also.get(branch.name, ()), branch.also, strict=True):
        rows += _runs_of(recipe, branch.name, verify, profile, uri)
    return rows


def _at_lengths(recipe: Recipe, branch: Branch) -> list[report.RunRow]:
    """At the lengths below the greatest, where one varies; not timed."""
    assert branch.verify is not None
    return _rows(recipe, branch.name, branch.verify.metadata["lengths"], {"batch": None}, None)


def _runs_of(recipe: Recipe, name: str, verify: Artifact, timed: Artifact, uri: str | None) -> list[report.RunRow]:
    """Those of one device; `uri` where it is not the run's own."""
    return _rows(recipe, name, verify.metadata["runs"], timed.metadata, uri)


def _rows(
    recipe: Recipe, name: str, runs: Sequence[Mapping[str, Any]], profile: Mapping[str, Any], uri: str | None
) -> list[report.RunRow]:
    rows = []
    for run in runs:
        record = _known(run, report.RunRow) | {
            "margin_points": recipe.gate.of(name)["margin_points"],
            "drop_upper_points": None,  # see `judged`
            "attached": uri,
        }
        record["flips"] = run["flips"] or {}
        if run["flips"]:
            record["mcnemar_p"] = mcnemar_p(**run["flips"])
        if run["batch"] == profile["batch"]:
            record |= {field: profile.get(field) for field in MEASURED}
        rows.append(report.RunRow.model_validate(record))
    return rows


def _findings(branch: Branch, shipped: Mapping[str, Any]) -> list[report.Finding]:
    """What is suspicious about what ships; of a float model's calibration nothing is."""
    seen = branch.observed.metadata if branch.observed is not None and shipped["quantizer"] == "ours" else {}
    islands = shipped["float_ops"] if shipped["precision"] == "int8" else []
    older = branch.older_cpus.metadata if branch.older_cpus is not None else {}
    seen = {**seen, "older_cpus": {name: db for name, db in older.get("older_cpus", {}).items() if differs(db)}}
    outputs = [OutputRow(**row) for row in branch.verify.metadata["runs"][0]["outputs"]] if branch.verify else []
    far = [one.words for one in outputs if one.sqnr_db is not None and one.sqnr_db < FAR_DB]
    return [report.Finding(**vars(found)) for found in findings({**seen, **shipped, "islands": islands, "far": far})]


def _candidates(branch: Branch) -> list[report.CandidateRow]:
    required = (name for name, field in report.CandidateRow.model_fields.items() if field.is_required())
    empty = dict.fromkeys(required) | {"float_ops": []}
    rows: list[dict[str, Any]] = []
    for made in rows_of(branch):
        name = made["id"]
        verdict, why = branch.choice.verdicts[name] if branch.choice else ("error", "the run stopped before the race")
        folder = str(model_folder(branch, name))
        rows.append(
            _known(made, report.CandidateRow) | {"id": name, "artifact": folder, "verdict": verdict, "why": why}
        )
    rows += [{"id": name, "quantizer": name, "verdict": "error", "why": why} for name, why in branch.failed.items()]
    return [report.CandidateRow.model_validate(empty | row) for row in rows]


def _known(record: Mapping[str, Any], kind: type[BaseModel]) -> dict[str, Any]:
    """The part of a record that a report's row has fields for."""
    return {name: record[name] for name in kind.model_fields if name in record}
