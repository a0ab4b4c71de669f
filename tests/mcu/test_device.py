"""Boards as devices of the road: requests answered, ports that are wrong, gone or somebody else's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")
pytest.importorskip("serial")

import serial

from targets.agent import decode, sha256_model
from targets.base import TargetError
from targets.channels import ChannelError, open_device
from targets.cortex_m import emulator, protocol
from targets.cortex_m.session import place
from tests.mcu import host, random_graphs


def request(folder: Path) -> dict:
    model = folder / "model.tflite"
    options = {"precision": "int8", "batch": 1}
    return {
        "protocol": 1,
        "models": [
            {"id": "m", "runtime": "cortex-m", "path": str(model), "sha256": sha256_model(model), "options": options}
        ],
        "tasks": [
            {"do": "run", "model": "m", "inputs": "inputs", "outputs": "out.npz"},
            {"do": "time", "models": ["m"], "inputs": "inputs", "samples": "samples.npz"},
        ],
        "result": "result.json",
    }


def prepared(folder: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """A request, and the outputs that TFLite Micro gives."""
    made = host.generate(random_graphs.graph(1), folder)
    codes = host.samples(made, 3, 0)
    answers = host.tflm(folder / "model.tflite", made, codes)
    (folder / "inputs").mkdir()
    ports = [*made.graph.inputs, *made.graph.outputs]
    details = {v.name: {"dtype": np.int8, "quantization": (float(v.scale[0]), int(v.zero_point[0]))} for v in ports}
    for value, array in zip(made.graph.inputs, codes, strict=True):
        np.save(
            folder / "inputs" / f"{value.name}.npy", decode(array.reshape(-1, *value.shape[1:]), details[value.name])
        )
    cuts = np.cumsum([value.size for value in made.graph.outputs])[:-1]
    wanted = {
        value.name: decode(part.reshape(-1, *value.shape[1:]), details[value.name])
        for value, part in zip(made.graph.outputs, np.split(answers, cuts, axis=1), strict=True)
    }
    return request(folder), wanted


@pytest.mark.usefixtures("arm_tools")
@pytest.mark.parametrize("machine", ["mps2-an385", "mps2-an500"])
def test_a_board_answers_the_agents_requests(machine: str, tmp_path: Path) -> None:
    asked, wanted = prepared(tmp_path)
    device = open_device(f"qemu://{machine}?cpi=2&clock=100e6")
    result = device.run(asked, tmp_path)
    with np.load(tmp_path / "out.npz") as found:
        assert set(found.files) == set(wanted)
        for name, values in wanted.items():
            assert np.array_equal(found[name], values), name
    with np.load(tmp_path / "samples.npz") as timed:
        assert timed.files == []  # an emulator's clock is no latency
    counts = next(task for task in result["tasks"] if task["do"] == "time")["counts"]["m"]
    assert counts["unit"] == "instructions"
    assert counts["count"] > 10_000
    assert counts["estimate"] == pytest.approx({"ms": counts["count"] * 2 / 100e6 * 1e3, "cpi": 2, "clock_hz": 100e6})
    assert result["device"]["machine"] == emulator.MACHINES[machine].core == device.identity()["machine"]
    assert device.run(asked, tmp_path)["tasks"] == result["tasks"]  # the same count, always


@contextmanager
def at_a_pty(folder: Path, machine: str) -> Iterator[str]:
    made = host.program.compile_file(folder / "model.tflite")
    elf = emulator.build(made, machine, folder)
    command = ["qemu-system-arm", *emulator.options(elf, machine), "-serial", "pty"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"/dev/pts/\d+", process.stdout.readline())
        assert found is not None
        yield found[0]
    finally:
        process.kill()
        process.communicate()


@pytest.mark.usefixtures("arm_tools")
def test_a_serial_port_answers_and_another_model_is_refused(tmp_path: Path) -> None:
    asked, wanted = prepared(tmp_path)
    with at_a_pty(tmp_path, "mps2-an386") as port:
        result = open_device(f"serial://{port}").run(asked, tmp_path)
        with np.load(tmp_path / "out.npz") as found:
            assert all(np.array_equal(found[name], values) for name, values in wanted.items())
        counts = next(task for task in result["tasks"] if task["do"] == "time")["counts"]["m"]
        assert (counts["unit"], counts["estimate"]) == ("ticks", None)
        (tmp_path / "model.tflite").write_bytes(random_graphs.graph(2))
        with pytest.raises(ChannelError, match=r"the board runs the model .*, not .*: build and flash") as caught:
            open_device(f"serial://{port}").run(asked, tmp_path)
        assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("arm_tools")
def test_a_session_that_broke_off_is_found_again(tmp_path: Path) -> None:
    """Half a request lies at the board, and noise in its way out: the next session still gets its answers."""
    asked, wanted = prepared(tmp_path)
    with at_a_pty(tmp_path, "mps2-an386") as port:
        with serial.Serial(port) as broken:
            whole = protocol.frame(
                b"R", bytes(host.program.compile_file(tmp_path / "model.tflite").graph.inputs[0].size)
            )
            broken.write(whole[: len(whole) // 2])
            broken.flush()
        open_device(f"serial://{port}").run(asked, tmp_path)
        with np.load(tmp_path / "out.npz") as found:
            assert all(np.array_equal(found[name], values) for name, values in wanted.items())


def test_a_busy_port_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(random_graphs.graph(1))
    master, slave = os.openpty()
    try:
        with (
            serial.Serial(os.ttyname(slave), exclusive=True),
            pytest.raises(ChannelError, match=r"cannot open the port .*lock.*: check the cable, and who") as caught,
        ):
            open_device(f"serial://{os.ttyname(slave)}").run(request(tmp_path), tmp_path)
        assert "\n" not in str(caught.value)
    finally:
        os.close(master)
        os.close(slave)


def test_a_port_that_goes_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(random_graphs.graph(1))
    master, slave = os.openpty()
    name = os.ttyname(slave)
    timer = threading.Timer(1.0, os.close, [master])
    timer.start()
    try:
        with pytest.raises(ChannelError, match=rf"the port {name} is gone: .*: check the cable") as caught:
            open_device(f"serial://{name}").run(request(tmp_path), tmp_path)
        assert "\n" not in str(caught.value)
    finally:
        timer.join()
        os.close(slave)


def test_a_missing_emulator_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = host.generate(random_graphs.graph(1), tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(TargetError, match="qemu-system-arm is missing: apt-get install qemu-system-arm") as caught,
        emulator.boot(tmp_path / "firmware.elf", made, "mps2-an386"),
    ):
        pass
    assert caught.value.kind == "missing"


def test_a_port_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(random_graphs.graph(1))
    with pytest.raises(ChannelError, match="there is no port /dev/no-such-port") as caught:
        open_device("serial:///dev/no-such-port").run(request(tmp_path), tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "device", "code", "words"),
    [
        (None, "serial:///dev/no-such-port", 4, "there is no port /dev/no-such-port: check the cable"),
        ("/nowhere", "qemu://mps2-an386", 2, "arm-none-eabi-gcc"),
    ],
    ids=["port", "compiler"],
)
def test_what_is_missing_is_said_before_any_work(
    path: str | None, device: str, code: int, words: str, tmp_path: Path
) -> None:
    """The whole command, on the shipped example: nothing is trained, and nothing written."""
    command = [sys.executable, "-m", "pipeline.cli", "--target", "cortex-m", "--device", device, "--out", "out"]
    places = {"DEPLOY_STORE": str(tmp_path / "store"), **({"PATH": path} if path else {})}
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | places, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("deploy: ")] == done.stderr.splitlines()[1:]
    assert len(done.stderr.splitlines()) == 2  # after "no deploy.toml here: running the shipped example watch"
    assert not (tmp_path / "out").exists()


def test_a_missing_compiler_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.tflite").write_bytes(random_graphs.graph(1))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TargetError, match="arm-none-eabi-gcc is missing: apt-get install gcc-arm-none-eabi") as caught:
        open_device("qemu://mps2-an386").run(request(tmp_path), tmp_path)
    assert caught.value.kind == "missing"


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("qemu://toaster", "boards are qemu://mps2-an385"),
        ("serial://", "boards are qemu://mps2-an385"),
        ("qemu://mps2-an386?speed=9", "no option 'speed'"),
        ("qemu://mps2-an386?cpi=1.3", "an estimate wants both"),
        ("qemu://mps2-an386?cpi=0&clock=1e6", "an estimate wants both"),
        ("qemu://mps2-an386?cpi=fast&clock=1e6", "could not convert"),
    ],
)
def test_a_wrong_uri_is_one_line(uri: str, words: str) -> None:
    with pytest.raises(TargetError, match=re.escape(words)) as caught:
        place(uri)
    assert "\n" not in str(caught.value)
    assert caught.value.kind == "unsupported"
