"""The agent as a process, on a runtime of this test's own: what it runs, times, refuses and survives."""

import ast
import hashlib
import json
import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from targets import agent
from targets.base import TargetError, model_files, sha256_files
from targets.channels.local import AGENT, run_agent

# y = x * factor; notes each call. A model is a JSON file: {"factor": 2, "sleep_s": 0, "fails": ""}.
RUNTIME = """
import json, time
import numpy as np

class Model:
    runtime_version = "toy 1"
    def __init__(self, path, options):
        self.model, self.calls = json.load(open(path)), []
        if self.model.get("fails") == "load":
            raise RuntimeError("bad\\nmagic number")
    def prepare(self, inputs):
        return inputs["x"]
    def invoke(self, handle):
        if self.model.get("fails") == "run":
            raise RuntimeError("kernel exploded")
        time.sleep(self.model.get("sleep_s", 0))
        self.out = handle * self.model["factor"] + len(handle) * self.model.get("batch_leak", 0)
    def run(self, inputs):
        self.invoke(self.prepare(inputs))
        return {"y": self.out.astype(np.float32)}
    def close(self):
        pass

open_ = open
def open(path, options):
    globals()["open"] = open_
    return Model(path, options)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "toy.py").write_text(RUNTIME)
    (tmp_path / "inputs").mkdir()
    np.save(tmp_path / "inputs" / "x.npy", np.arange(21, dtype=np.float32).reshape(7, 3))
    return tmp_path


def model(folder: Path, identifier: str, batch=None, **facts):
    path = folder / identifier / "model.json5"
    path.parent.mkdir()
    path.write_text(json.dumps({"factor": 2, **facts}))
    return {
        "id": identifier,
        "runtime": "toy.py",
        "path": str(path.relative_to(folder)),
        "sha256": sha256_files(model_files(path)),
        "options": {"threads": 1, "precision": "f32", "batch": batch},
    }


def request(models, *tasks):
    return {"protocol": 1, "models": models, "tasks": list(tasks), "result": "result.json"}


def run(identifier, outputs="y.npz"):
    return {"do": "run", "model": identifier, "inputs": "inputs", "outputs": outputs}


def time(identifiers, **limits):
    limits = {"warmup_s": 0.01, "budget_s": 0.0, "min_rounds": 20, "max_rounds": 100, "seed": 3, **limits}
    return {"do": "time", "models": identifiers, "inputs": "inputs", "samples": "t.npz", **limits}


@pytest.mark.parametrize("batch", [None, 1, 3, 7, 16])
def test_run_covers_every_sample_once_whatever_the_batch(folder, batch):
    result = run_agent(request([model(folder, "m", batch)], run("m")), folder)
    with np.load(folder / "y.npz") as outputs:
        assert outputs["y"].dtype == np.float32
        assert np.array_equal(outputs["y"], 2 * np.load(folder / "inputs" / "x.npy"))
    assert result["error"] is None
    record = result["models"]["m"]
    assert (record["runtime"], record["runtime_version"], record["precision"]) == ("toy.py", "toy 1", "f32")
    assert record["load_ms"] > 0
    assert set(result["device"]) == {
        "system", "machine", "cpu", "cores", "memory_bytes", "python", "affinity", "governor", "os", "serial",
        "cpu_features", "saturates", "libc",
    }  # fmt: skip


def test_the_runtime_sees_full_batches_only(folder):
    run_agent(request([model(folder, "m", 4, batch_leak=1000)], run("m")), folder)
    with np.load(folder / "y.npz") as outputs:
        assert np.array_equal(outputs["y"], 2 * np.load(folder / "inputs" / "x.npy") + 4000)


def test_equal_outputs_are_equal_bytes(folder):
    models = [model(folder, "m")]
    files = []
    for name in ("a.npz", "b.npz"):
        run_agent(request(models, run("m", name)), folder)
        files.append((folder / name).read_bytes())
    assert files[0] == files[1]


def test_time_gives_raw_paired_samples(folder):
    models = [model(folder, "slow", sleep_s=0.004), model(folder, "fast", sleep_s=0.001)]
    result = run_agent(request(models, time(["slow", "fast"])), folder)
    with np.load(folder / "t.npz") as samples:
        slow, fast = samples["slow"], samples["fast"]
    assert slow.dtype == fast.dtype == np.int64
    assert len(slow) == len(fast) == result["tasks"][0]["rounds"] == 20  # no budget: the least
    assert slow.min() >= 4_000_000
    assert 1_000_000 <= fast.min() < 4_000_000
    assert all(note["inferences"] >= 6 for note in result["tasks"][0]["warmup"].values())


def test_time_stops_at_the_most_rounds(folder):
    result = run_agent(request([model(folder, "m")], time(["m"], budget_s=600, max_rounds=50)), folder, timeout_s=120)
    assert result["tasks"][0]["rounds"] == 50


def test_warm_up_gives_up_on_a_model_that_never_settles():
    class Restless(agent.Adapter):
        elapsed_s = 0.0

        def invoke(self, handle):
            self.elapsed_s += 0.0002  # each inference takes longer than the last
            agent.time.sleep(self.elapsed_s)

    class Row:
        adapter = Restless()

        def note_memory(self):
            pass

    note = agent.warm_up(Row(), None, 0.001)
    assert note == {"inferences": 18, "steady": False}  # six blocks of three


def test_memory_is_known_alone_and_unavailable_in_company(folder):
    first, second = model(folder, "a"), model(folder, "b")
    alone = run_agent(request([first], run("a")), folder)
    together = run_agent(request([first, second], run("a")), folder)
    known = alone["models"]["a"]["peak_memory_bytes"]
    assert known is None if agent.memory("VmHWM") is None else 0 <= known < 2**30
    assert together["models"]["a"]["peak_memory_bytes"] is None


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"sha256": "0" * 64}, "hash", "model 'm'"),
        ({"runtime": "no_such"}, "protocol", "unknown runtime 'no_such'"),
        ({"path": "nowhere.bin"}, "input", "no file"),
        ({"options": {"batch": 0.5}}, "protocol", "batch 0.5 is no positive whole number"),
    ],
)
def test_a_bad_model_row_is_one_line(folder, change, kind, words):
    with pytest.raises(TargetError, match=words) as caught:
        run_agent(request([{**model(folder, "m"), **change}], run("m")), folder)
    assert "\n" not in str(caught.value)
    assert json.loads((folder / "result.json").read_text())["error"]["kind"] == kind


@pytest.mark.parametrize(
    ("fails", "words"), [("load", "model 'm' on toy.py does not load: bad magic number"), ("run", "kernel exploded")]
)
def test_the_runtimes_own_words_come_back(folder, fails, words):
    with pytest.raises(TargetError, match=words):
        run_agent(request([model(folder, "m", fails=fails)], run("m")), folder)
    assert not (folder / "y.npz").exists()


def test_a_bad_request_says_what(folder):
    good = request([model(folder, "m")], run("m"))
    bad = [
        ({**good, "protocol": 2}, "protocol 2, this agent speaks 1"),
        ({**good, "tasks": [{"do": "dance"}]}, "unknown task 'dance'"),
        ({**good, "tasks": [run("other")]}, "names the model 'other'"),
        ({**good, "tasks": [{"do": "run", "model": "m", "inputs": "inputs"}]}, "lacks 'outputs'"),
        ({**good, "tasks": [{**run("m"), "inputs": "empty"}]}, "expected NAME.npy files"),
    ]
    for one, words in bad:
        with pytest.raises(TargetError, match=words):
            run_agent(one, folder)


def test_inputs_of_different_lengths_are_refused(folder):
    np.save(folder / "inputs" / "z.npy", np.zeros((6, 3), np.float32))
    with pytest.raises(TargetError, match="as many samples each"):
        run_agent(request([model(folder, "m")], run("m")), folder)


def test_the_last_line_is_the_digest_of_the_result(folder):
    (folder / "request.json").write_text(json.dumps(request([model(folder, "m")], run("m"))))
    command = [sys.executable, str(AGENT), str(folder / "request.json")]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    digest = hashlib.sha256((folder / "result.json").read_bytes()).hexdigest()
    assert ended.stdout.splitlines()[-1] == f"DONE {digest}"


def test_a_process_that_dies_is_reported_with_its_last_words(folder):
    (folder / "toy.py").write_text(
        "import os, sys\nprint('no such instruction', file=sys.stderr, flush=True)\nos._exit(7)"
    )
    with pytest.raises(TargetError, match=r"'m' on toy\.py: the agent ended with code 7: no such instruction"):
        run_agent(request([model(folder, "m")], run("m")), folder)


def test_a_stale_result_is_never_taken(folder):
    models = [model(folder, "m")]
    run_agent(request(models, run("m")), folder)
    (folder / "toy.py").write_text("import os\nos._exit(0)")
    with pytest.raises(TargetError, match="ended with code 0"):
        run_agent(request(models, run("m")), folder)


def test_a_timeout_ends_the_process(folder):
    with pytest.raises(TargetError, match="did not finish in 2 s"):
        run_agent(request([model(folder, "m", sleep_s=60)], run("m")), folder, timeout_s=2)


@pytest.mark.parametrize("how", ["stdin", "SIGTERM"])
def test_it_ends_with_its_host_and_leaves_nothing_half_written(folder, how):
    row = model(folder, "m", sleep_s=0.05)
    (folder / "request.json").write_text(json.dumps(request([row], time(["m"], min_rounds=10**6, max_rounds=10**6))))
    process = subprocess.Popen(
        [sys.executable, str(AGENT), str(folder / "request.json")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(2)
    if how == "stdin":
        process.stdin.close()
    else:
        process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM
    assert all(line.startswith(b"PROGRESS ") for line in process.stdout)
    process.stdout.close()
    if not process.stdin.closed:
        process.stdin.close()
    assert not [path for path in folder.iterdir() if "result" in path.name or path.suffix in (".npz", ".tmp")]


def test_the_digest_is_the_one_of_base(tmp_path):
    for name in ("model.xml", "model.bin", "model.json", "other.bin"):
        (tmp_path / name).write_bytes(os.urandom(100))
    path = tmp_path / "model.xml"
    assert agent.sha256_model(path) == sha256_files(model_files(path))


def test_it_is_python_3_9_and_imports_nothing_of_ours():
    source = AGENT.read_text()
    tree = ast.parse(source, feature_version=(3, 9))
    names = [
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    ]
    assert not {"targets", "pipeline", "calibration", "torch"} & set(names)
    imports = [node for node in tree.body if isinstance(node, ast.Import)]
    at_top = {alias.name.split(".")[0] for node in imports for alias in node.names}
    assert at_top <= sys.stdlib_module_names | {"numpy"}


def test_the_cold_start_is_no_part_of_what_a_layer_of_openvino_takes():
    """Its counters are means since the model was compiled: 5 ms the first time, 20 us ever after."""

    class Request:
        spent, count = 0, 0

        def infer(self, **_):
            self.spent, self.count = self.spent + (20 if self.count else 5000), self.count + 1

        @property
        def profiling_info(self):
            mean = timedelta(microseconds=self.spent // max(self.count, 1))
            ran = {"node_name": "conv", "node_type": "Convolution", "exec_type": "brgconv_avx512_I8", "real_time": mean}
            idle = SimpleNamespace(status=SimpleNamespace(name="NOT_RUN"))
            return [SimpleNamespace(status=SimpleNamespace(name="EXECUTED"), **ran), idle]

    adapter = agent.OpenVino.__new__(agent.OpenVino)
    adapter.request, adapter.invoked = Request(), 0
    adapter.invoke(None)
    ((op, name, _, precision, ms),) = adapter.layers(None, 50)
    assert (op, name, precision) == ("Convolution", "conv", "int8")
    assert ms == [pytest.approx(0.020, abs=0.0015)]  # the counters' whole microseconds, over 62 inferences
