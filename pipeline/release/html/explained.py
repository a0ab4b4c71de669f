"""What `deploy explain` found, for the page: from the explain.json that lies beside the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.release.report import EXPLANATION, Report

GAINS = 5  # layers whose gain is listed


def explained(report: Report, folder: Path) -> list[dict[str, Any]]:
    """The explanations of the report's own targets and candidates; none where there is no readable file."""
    try:
        rows = json.loads((folder / EXPLANATION).read_text(encoding="utf-8"))
        return [_one(row) for row in rows if _known(report, row)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _known(report: Report, row: dict[str, Any]) -> bool:
    target = report.targets.get(row["target"])
    return target is not None and row["candidate"] in {one.id for one in target.candidates}


def _one(row: dict[str, Any]) -> dict[str, Any]:
    gains = [kept for kept in row["kept"] if kept["gain_db"] is not None]
    lengths = {f"length {length}": db for length, db in row.get("lengths", {}).items()}
    return {
        **{key: row[key] for key in ("target", "candidate", "n", "sqnr_db", "agreement", "breaks_at", "note")},
        "losses": row.get("losses", []),
        "parts": {f"'{name}'": db for name, db in row.get("outputs", {}).items()} | lengths,
        "causes": [{key: one[key] for key in ("name", "layer", "text")} for one in row["causes"]],
        "layers": [{key: one[key] for key in ("name", "sqnr_db", "clipped", "dead")} for one in row["layers"]],
        "gains": sorted(gains, key=lambda kept: -kept["gain_db"])[:GAINS],
    }
