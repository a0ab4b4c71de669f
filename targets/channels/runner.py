"""A platform's own benchmark program in place of the agent, for devices without Python: pushed, run, its words read.

It gives times and no outputs: parity there is unavailable. What its version does not print is None. Like ours it is run
in several processes, one after the other (targets/measurement.py says why).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from targets.base import model_files
from targets.channels.base import ChannelError, Listen
from targets.channels.remote import RemoteDevice, quote, retried

UNITS = {"s": 1e3, "ms": 1.0, "us": 1e-3, "bytes": 1.0, "MB": 2.0**20, "": 1.0}
NUMBER = r"([\d.]+(?:e[+-]?\d+)?)"


@dataclass(frozen=True)
class Tool:
    """`command`: its words after the program, of the device's shell. `figures`: name -> a pattern whose first group is
    the number (the last one printed counts), and its unit, if the pattern has no second group that says it.
    """

    name: str
    command: str
    figures: Mapping[str, tuple[str, str]]


# As of TensorFlow 2.21's benchmark_model (older ones print no median), ONNX Runtime 1.24's onnxruntime_perf_test and
# OpenVINO 2026's benchmark_app.
TOOLS = {
    "tflite": Tool(
        "benchmark_model",
        '--graph="$d"/{model} --num_threads={threads} --warmup_min_secs={warmup_s} --min_secs={seconds} --num_runs=10',
        {
            "n": (r"\bcount=(\d+) first=", ""),
            "p50": (rf"\bcount=\d+ first=.*\bmedian={NUMBER}", "us"),
            "average": (rf"Inference \(avg\): {NUMBER}", "us"),
            "load": (rf"Init: {NUMBER}", "us"),
            "memory": (rf"Memory footprint delta .*\boverall={NUMBER}", "MB"),
        },
    ),
    "onnxruntime": Tool(
        "onnxruntime_perf_test",
        '-e cpu -I -s -x {threads} -m duration -t {seconds_up} "$d"/{model}',
        {
            "n": (r"Total inference requests: *(\d+)", ""),
            "p50": (rf"P50 Latency:? *(?:is )?{NUMBER} *s", "s"),
            "p90": (rf"P90 Latency:? *(?:is )?{NUMBER} *s", "s"),
            "p99": (rf"P99 Latency:? *(?:is )?{NUMBER} *s", "s"),
            "average": (rf"Average inference time cost[^:\n]*: *{NUMBER} *ms", "ms"),
            "load": (rf"Session creation time cost: *{NUMBER} *s", "s"),
            "memory": (r"Peak working set size: *(\d+) bytes", "bytes"),
        },
    ),
    "openvino": Tool(
        "benchmark_app",
        '-m "$d"/{model} -d CPU -hint none -api sync -nireq 1 -nstreams 1 -nthreads {threads} -t {seconds_up}',
        {
            "n": (r"Count: +(\d+) iterations", ""),
            "p50": (rf"Median: +{NUMBER} (us|ms)", "ms"),
            "average": (rf"Average: +{NUMBER} (us|ms)", "ms"),
            "load": (rf"Compile model took {NUMBER} ms", "ms"),
        },
    ),
}


def read(tool: Tool, said: str) -> dict[str, float | None]:
    """Its figures: times in ms, memory in bytes, n a count; None where it does not print one.

    Raises ValueError where it did not print an average and a count: it failed, or is another program.
    """
    found: dict[str, float | None] = {}
    for name, (pattern, unit) in tool.figures.items():
        matches = list(re.finditer(pattern, said))
        last = matches[-1] if matches else None
        printed = last[2] if last and last.re.groups > 1 else unit
        found[name] = float(last[1]) * UNITS[printed] if last else None
    if not found["average"] or not found["n"]:
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        raise ValueError(f"it does not speak like {tool.name}: {lines[-1] if lines else 'it said nothing'}")
    return found


def run(
    device: RemoteDevice,
    runtime: str,
    program: Path,
    model: Path,
    threads: int,
    seconds: float,
    processes: int,
    listen: Listen | None = None,
) -> list[dict[str, float | None]]:
    """What the program says of the model in each process (see `read`); `seconds` are shared by them, and a tool that
    counts in whole seconds takes one at least. Raises ChannelError: the way there, or the program itself.
    """
    tool, rows = TOOLS[runtime], []
    for index in range(processes):
        rows.append(retried(lambda: _once(device, tool, program, model, threads, seconds / processes)))
        if listen:
            done = 100 * (index + 1) // processes
            middle = float(np.median([row["p50"] or row["average"] for row in rows]))
            rounds = sum(int(row["n"] or 0) for row in rows)
            listen({"done": done, "total": 100, "rounds": rounds, "median_ms": middle, "left_s": 0.0})
    return rows


def _once(
    device: RemoteDevice, tool: Tool, program: Path, model: Path, threads: int, seconds: float
) -> dict[str, float | None]:
    there = f"{device.place([program])}/{program.name}"
    work = f"{device.home}/runs/{secrets.token_hex(8)}"
    files = device.place(model_files(model))
    device.checked(f"chmod 755 {quote(there)} && mkdir {quote(work)} && ln -s {quote(files)}/* {quote(work)}/")
    words = tool.command.format(
        model=quote(model.name),
        threads=threads,
        seconds=seconds,
        seconds_up=max(1, round(seconds)),
        warmup_s=seconds / 5,
    )
    limit_s = 60 + 20 * seconds
    try:
        said = device.job(work, f'{quote(there)} {words} >"$d"/said 2>&1', limit_s)
        if said.interrupted:
            raise KeyboardInterrupt
        if fault := device.broken(said, limit_s):
            raise fault
        told = device.checked(f"cat {quote(work)}/said")
    finally:
        device.forget(work)
    try:
        return read(tool, told)
    except ValueError as error:
        what = f"{program.name} ended with code {said.code}: {error}"
        raise ChannelError(device.uri, what, "is it built for this device, and for this --target?") from error
