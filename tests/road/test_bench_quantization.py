"""The short form of `make bench-quantization`: a small network, one peer and ours on each runtime, real processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline import recipe
from tests.benchmarks import quantization as bench
from tests.road.newcomer import Folder

PAIRS = {
    "onnxruntime": ("onnxruntime, pre-processed, per channel, U8S8", "ours, mse"),
    "openvino": ("nncf, TRANSFORMER", "ours, mse, half range"),
    "tflite": ("ai-edge-quantizer, default", "ours, mse"),
}


@pytest.mark.slow
def test_rows_are_of_one_form_and_ours_is_near_float(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.path)
    changes = ["stages=[]", "calibrate.samples=32", "weights.samples=16"]
    loaded = recipe.load(Path("deploy.toml"), [*changes, f"quantize.candidates={json.dumps(bench.OURS)}"])
    gone, onnx = bench.travelled(loaded, bench.RUNTIMES)
    rows = [
        bench.row_of(gone, onnx, gone.branches[runtime], "bars", tool, times=False)
        for runtime, tools in PAIRS.items()
        for tool in tools
    ]
    for row in rows:
        assert set(row) == {*bench.KEY, *bench.FIGURES}, row
        assert row["size_bytes"] > 0
        assert row["quantize_seconds"] > 0
        assert row["peak_rss_bytes"] > 50e6
        assert row["speedup"] is None
        if row["tool"].startswith("ours"):
            assert row["sqnr_db"] > 15
            assert row["agreement"] > 0.9
    missing = bench.lacking(rows, "bars", times=False)
    plain = [tool for tools in bench.peers.TOOLS.values() for tool in tools if bench.peers.STEP not in tool]
    assert len(missing) == len(plain) - len(rows)
    assert ("tflite", "ours, mse") not in missing
    assert ("tflite", "ai-edge-quantizer, default") in bench.lacking(rows, "bars", times=True)
    for row in rows:
        assert row["tool"] in bench.table(rows)
    assert bench.summary(rows).count("| bars |") == len(PAIRS)


def test_a_tool_that_breaks_is_a_row_that_says_how() -> None:
    row = {"model": "m", "runtime": "tflite", "tool": "t", **dict.fromkeys(bench.FIGURES), "failed": "ValueError: no"}
    assert "| breaks |" in bench.table([row])


def test_the_summary_compares_with_the_best_other_tool_of_any_runtime() -> None:
    figures = {"ours, mse": 30.0, "ours, minmax": 20.0, "ours, mse, weights none": 50.0, "b": 25.0, "c": 10.0}
    rows = [
        {"model": "m", "runtime": runtime, "tool": tool, **dict.fromkeys(bench.FIGURES), "sqnr_db": db + more}
        for runtime, more in (("tflite", 0.0), ("openvino", 7.0))
        for tool, db in figures.items()
    ]
    rows[0]["speedup"] = {"median": 1.5, "low": 1.4, "high": 1.6}
    assert bench.summary(rows).splitlines()[2:] == [
        "| m | tflite | 30.0, 1.50 (mse) | 25.0, - (b) | 32.0 |",
        "| m | openvino | **37.0, -** (mse) | 32.0, - (b) | 32.0 |",
    ]
