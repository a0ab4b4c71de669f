"""Our int8 beside each vendor's, with and without the weight step: `make bench-quantization`.

The shipped example, every candidate of every target, raced on its selection split. The rows go to
`tests/benchmarks/results/quantization.json` and, as a table, to the terminal. Stages are stored below `.deploy` as in
any run, so a benchmark that was stopped goes on.
"""

import json
import sys
from pathlib import Path
from typing import Any

from pipeline import branch as branches
from pipeline import recipe, road
from pipeline.api import default_store
from pipeline.outcome import environment
from pipeline.runner import Runner

METHODS = ("none", "bias", "rounding")
RESULTS = Path(__file__).parent / "results" / "quantization.json"


def rows_of(branch: road.Branch, model: str, first: bool) -> list[dict[str, Any]]:
    """One row a candidate; those that the weight step leaves alone only the first time."""
    if branch.error:
        raise branch.error
    assert branch.race is not None
    rows = []
    for raced in branches.rows_of(branch):
        artifact = branch.candidates[raced["id"]]
        made = artifact.metadata
        ours = made["quantizer"] == "ours"
        if made["precision"] != "int8" or not (ours or first):
            continue
        step = {"none": "", "bias": " + bias correction", "rounding": " + rounding and bias correction"}
        rows.append(
            {
                "model": model,
                "runtime": branch.name,
                "tool": f"ours, {made['observer']}{step[made['weights']]}" if ours else raced["id"],
                "sqnr_db": raced["sqnr_db"],
                "agreement": raced["agreement"],
                "flips": raced["quant_flips"],
                "drop_points": raced["quant_drop_points"],
                "size_bytes": made["size_bytes"],
                "speedup": raced["speedup"],
                "quantize_seconds": artifact.seconds,
                "peak_rss_bytes": None,  # not measured here
            }
        )
    return rows


def main() -> None:
    """Run, write, print."""
    rows: list[dict[str, Any]] = []
    for method in METHODS:
        loaded = recipe.load(recipe.EXAMPLE, [f"weights.method={method}", "race.time_failed=true"])
        runner = Runner(
            default_store(), loaded.folder, {"model": loaded.model, "data": loaded.data}, loaded.cache_key, loaded.seed
        )
        travelled = road.travel(loaded, loaded.targets, runner, only="race")
        for branch in travelled.branches.values():
            rows += rows_of(branch, loaded.name, first=method == METHODS[0])
        print(f"weights.method = {method}: done", file=sys.stderr)
    rows.sort(key=lambda row: (row["runtime"], row["sqnr_db"]))
    RESULTS.parent.mkdir(exist_ok=True)
    measured_with = {key: value for key, value in environment().items() if key != "platform"}
    RESULTS.write_text(json.dumps({"rows": rows, "environment": measured_with}, indent=1) + "\n")
    print("| Runtime | Tool | SQNR dB | Agreement % | Lost / gained | Speed-up |\n|---|---|---|---|---|---|")
    for row in rows:
        flips = f"{row['flips']['lost']} / {row['flips']['gained']}"
        print(
            f"| {row['runtime']} | {row['tool']} | {row['sqnr_db']:.1f} | {100 * row['agreement']:.1f} | {flips} "
            f"| {row['speedup']['median']:.2f} |"
        )


if __name__ == "__main__":
    main()
