"""The pipeline's own costs: `make bench`. Needs a finished run of the example; makes one if there is none.

Prints: CPU time of `deploy --help` beside a two-command typer app (medians of interleaved runs), the wall time of a
finished run repeated, and the share of a fresh run that is not spent in stages.
"""

import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BARE = """
import typer
app = typer.Typer(add_completion=False)
@app.command()
def one(count: int = 1) -> None: "One."
@app.command()
def two(count: int = 1) -> None: "Two."
app()
"""
RUNS = 15


def cpu_s(*command: str) -> float:
    """User and system seconds of one command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def help_ratio() -> dict[str, float]:
    """deploy --help against a bare typer app with as many commands as a quick start needs."""
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.py"
        bare.write_text(BARE)
        ours, theirs = [], []
        for _ in range(RUNS):
            theirs.append(cpu_s(sys.executable, str(bare), "--help"))
            ours.append(cpu_s(sys.executable, "-m", "pipeline.cli", "--help"))
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    return {
        "help_cpu_s": round(statistics.median(ours), 3),
        "bare_typer_cpu_s": round(statistics.median(theirs), 3),
        "ratio": round(ratio, 2),
    }


def runs() -> dict[str, float]:
    """A fresh run of the example on OpenVINO in a store of its own, then the same again from the store."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"DEPLOY_STORE": f"{folder}/store"}
        command = [sys.executable, "-m", "pipeline.cli", "--target", "openvino", "--out", f"{folder}/out", "--timings"]
        fresh = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, cwd=folder)
        share = re.search(r"own ([\d.]+) s \(([\d.]+) %\)", fresh.stderr)
        assert share is not None
        walls = []
        for _ in range(RUNS):
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, env=environment, cwd=folder)
            walls.append(time.perf_counter() - began)
    return {
        "own_s": float(share[1]),
        "own_percent": float(share[2]),
        "cached_rerun_median_s": round(statistics.median(walls), 2),
        "cached_rerun_max_s": round(max(walls), 2),
    }


if __name__ == "__main__":
    print(json.dumps(help_ratio() | runs(), indent=1))
