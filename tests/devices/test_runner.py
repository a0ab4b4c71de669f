"""`deploy profile MODEL --runner PATH` over real servers.

No package carries benchmark_model or onnxruntime_perf_test: a small program of these tests' own stands in their place,
takes its time and prints as they do. OpenVINO's wheel carries the real benchmark_app, in Python: that one runs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from onnx import TensorProto, helper, save

from tests.devices.servers import Adbd, Sshd
from tests.devices.test_faults import wait_until_gone

STAND_IN = """#!/bin/sh
[ -n "$SLOW" ] && exec sleep 600 "$1"
for word; do case "$word" in --graph=*) model=${word#--graph=};; esac; done
[ -s "$model" ] || { echo "ERROR: no model at $model"; exit 1; }
count=0; begin=$(date +%s%N)
while [ $count -lt 10 ]; do sleep 0.01; count=$((count + 1)); done
us=$(( ($(date +%s%N) - begin) / 10000 ))
echo "INFO: count=10 first=$us curr=$us min=$us max=$us avg=$us std=0 p5=$us median=$us p95=$us"
echo "INFO: Inference timings in us: Init: 1200, First inference: $us, Warmup (avg): $us, Inference (avg): $us"
echo "INFO: Memory footprint delta from the start of the tool (MB): init=1.5 overall=2.5"
"""
APP = 'exec {python} -c "from openvino.tools.benchmark.main import main; main()" "$@"\n'


@pytest.fixture(params=["ssh", "adb"])
def uri(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    server: Sshd | Adbd = request.getfixturevalue({"ssh": "sshd", "adb": "adbd"}[request.param])
    if isinstance(server, Sshd):
        monkeypatch.setenv("DEPLOY_SSH_CONFIG", str(server.folder / "config"))
    return f"{server.uri}?python=/nowhere/python&folder={quote(str(tmp_path / 'there'))}"  # a phone without Python


def program(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def profile(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.cli", "profile", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def onnx_model(path: Path) -> Path:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_a_program_there_gives_times_and_says_that_it_gives_no_outputs(uri: str, tmp_path: Path) -> None:
    model = tmp_path / "a model's.tflite"
    model.write_bytes(b"TFL3")
    runner = program(tmp_path, "benchmark_model", STAND_IN)
    told = profile(model, "--target", "tflite", "--device", uri, "--runner", runner, "--json")
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)
    assert found["latency_ms"]["n"] == 100
    assert found["latency_ms"]["p50"] >= 10
    assert found["latency_interval_ms"]["low"] <= found["latency_interval_ms"]["high"]
    assert found["peak_memory_bytes"] == 2.5 * 2**20
    assert found["outputs"] is found["energy"] is found["samples"] is found["latency_ms"]["p90"] is None
    assert list((tmp_path / "there" / "runs").iterdir()) == []
    shown = profile(model, "--target", "tflite", "--device", uri, "--runner", runner).stdout
    assert "outputs: unavailable, so nothing here says that accuracy held on this device" in shown


def test_openvinos_own_program_is_run_and_read(uri: str, tmp_path: Path) -> None:
    runner = program(tmp_path, "benchmark_app", "#!/bin/sh\n" + APP.format(python=sys.executable))
    model = onnx_model(tmp_path / "m.onnx")
    told = profile(model, "--target", "openvino", "--device", uri, "--runner", runner, "--json")
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)
    assert found["processes"] == 10
    assert 0 < found["latency_ms"]["p50"] < 100
    assert np.isfinite(found["load_ms"])


def test_a_program_that_fails_is_its_own_words_and_exit_4(uri: str, tmp_path: Path) -> None:
    model = tmp_path / "m.tflite"
    model.write_bytes(b"")
    told = profile(model, "--target", "tflite", "--device", uri, "--runner", program(tmp_path, "bm", STAND_IN))
    assert told.returncode == 4
    assert "bm ended with code 1: it does not speak like benchmark_model: ERROR: no model at" in told.stderr
    assert len(told.stderr.splitlines()) == 1


def test_a_program_whose_host_is_killed_is_ended(uri: str, tmp_path: Path) -> None:
    model = tmp_path / "m.tflite"
    model.write_bytes(b"TFL3")
    runner = program(tmp_path, "benchmark_model", STAND_IN.replace('[ -n "$SLOW" ] && ', ""))
    command = [sys.executable, "-m", "pipeline.cli", "profile", model, "--target", "tflite", "--device", uri]
    host = subprocess.Popen([*command, "--runner", runner], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for _ in range(300):
        if list((tmp_path / "there" / "runs").glob("*/said")):
            break
        threading.Event().wait(0.2)
    host.kill()
    host.communicate()
    wait_until_gone(tmp_path / "there")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["m.tflite", "-t", "tflite", "--runner", "bm"], "--runner is for attached devices"),
        (["m.tflite", "-t", "cortex-m", "-d", "ssh://pi@board", "--runner", "bm"], "no benchmark program of cortex-m"),
        (["m.tflite", "-t", "tflite", "-d", "ssh://pi@board", "--runner", "none"], "no file none"),
        (
            ["deploy-out", "-t", "tflite", "--runner", "bm"],
            "gives times and no outputs, by which the gate judges a run",
        ),
    ],
)
def test_what_a_program_cannot_do_is_refused(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.tflite").write_bytes(b"TFL3")
    (tmp_path / "bm").write_text(STAND_IN)
    done = profile(*arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
