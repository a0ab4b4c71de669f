"""The gate looks at the per-sample evidence itself, whatever the policy asks for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline import outcome
from pipeline.artifact import sha256_file
from pipeline.release import report
from pipeline.release.rows import ChanceRow, ChannelRow, OutputRow
from pipeline.release.samples import Samples, file_name, from_logits

N = 400
LABELS = np.random.default_rng(0).integers(0, 3, N)
POLICY = {"margin_points": 2.0}


@pytest.fixture
def run(tmp_path: Path) -> report.TargetRow:
    """What was verified at two batch sizes, its evidence in `tmp_path`."""
    rows = []
    for batch in (1, 32):
        file = tmp_path / file_name(batch)
        Samples(N + batch, from_logits(LABELS, np.eye(3)[LABELS], np.eye(3)[LABELS])).save(file)
        record = dict.fromkeys(name for name, field in report.RunRow.model_fields.items() if field.is_required())
        record |= {"device": {}, "runtime": "tflite", "batch": batch, "n": N, "finite": True, "margin_points": 2.0}
        record |= {"flips": {"lost": 0, "gained": 0}, "samples_sha256": sha256_file(file)}
        rows.append(report.RunRow.model_validate(record))
    return report.TargetRow(verdict="error", reasons=[], sha256="ab", batches=[1, 32], runs=rows)


def judged(row: report.TargetRow, *folders: Path, policy: dict[str, object] | None = None) -> report.TargetRow:
    split = report.GateSplit(n=N, groups=None, shared_samples=0, digest="d")
    floating = report.Float(metric=1.0, n=N, params=1, macs=1, size_bytes=4)
    return outcome.judged(row, {**POLICY, **(policy or {})}, split, floating, "ab", folders)


def test_whole_evidence_passes(run: report.TargetRow, tmp_path: Path) -> None:
    found = judged(run, tmp_path)
    assert found.verdict == "pass", found.reasons
    (tmp_path / "other").mkdir()
    assert judged(run, tmp_path / "other", tmp_path).verdict == "pass"  # of another device


def gone(file: Path) -> None:
    file.unlink()


def changed(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0")


def swapped(file: Path) -> None:
    shutil.copy(file.with_name(file_name(1)), file)


@pytest.mark.parametrize(
    ("spoil", "says"), [(gone, "no per-sample evidence at "), (changed, "is not the"), (swapped, "is not the")]
)
def test_evidence_that_is_gone_or_changed_fails_without_any_metric(
    run: report.TargetRow, tmp_path: Path, spoil: Callable[[Path], None], says: str
) -> None:
    spoil(tmp_path / file_name(32))
    found = judged(run, tmp_path)
    assert found.verdict == "fail"
    (reason,) = found.reasons
    assert reason.startswith("evidence at batch 32: ")
    assert says in reason
    assert str(tmp_path / file_name(32)) in reason


def test_a_report_without_a_digest_has_no_evidence(run: report.TargetRow, tmp_path: Path) -> None:
    rows = [row.model_copy(update={"samples_sha256": None}) for row in run.runs]
    assert judged(run.model_copy(update={"runs": rows}), tmp_path).verdict == "fail"


def test_a_channel_that_stands_still_fails_the_gate(run: report.TargetRow, tmp_path: Path) -> None:
    still = ChannelRow(at="[:, 3]", sqnr_db=0.0, moved=0.43)
    output = OutputRow(name="scores", sqnr_db=49.8, worst_error=1.0, channels=10, still=[still], dead=3)
    rows = [run.runs[0], run.runs[1].model_copy(update={"outputs": [output]})]
    found = judged(run.model_copy(update={"runs": rows}), tmp_path)
    assert found.verdict == "fail"
    assert found.reasons == [
        "channels at batch 32: output 'scores', channel [:, 3]: moves by 0.43 in float and stands still, as 2 others"
    ]


def test_a_float_model_at_chance_fails_from_the_report(run: report.TargetRow, tmp_path: Path) -> None:
    split = report.GateSplit(n=N, groups=None, shared_samples=0, digest="d")
    seen = ChanceRow(value=0.3, constant=0.4, gain_low=-0.15, says="always the largest class", method="exact")
    floating = report.Float(metric=0.3, n=N, params=1, macs=1, size_bytes=4, chance=seen)
    found = outcome.judged(run, POLICY, split, floating, "ab", [tmp_path])
    assert found.reasons[0].startswith(
        "float at chance: accuracy 30.00% of 400 gate samples is not shown (95 %) to beat"
    )
    assert outcome.judged(run, {**POLICY, "allow_chance": True}, split, floating, "ab", [tmp_path]).verdict == "pass"
