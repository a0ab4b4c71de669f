"""What every way to a device must do; it names none."""

import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from targets.base import TargetError
from targets.channels.base import ChannelError, Interrupted
from targets.channels.remote import AGENT
from tests.devices import toy
from tests.devices.conftest import Bench


def test_outputs_come_back(bench: Bench) -> None:
    result = bench.device.run(toy.request(bench.work), bench.work)
    with np.load(bench.work / "y.npz") as outputs:
        assert np.array_equal(outputs["y"], 2 * toy.X)
    assert result["error"] is None
    assert result["models"]["m"]["runtime_version"] == "toy 1"


def test_raw_samples_and_progress_come_back(bench: Bench) -> None:
    heard: list[object] = []
    request = toy.request(bench.work, toy.timing(min_rounds=150, max_rounds=150), sleep_s=0.01)
    result = bench.device.run(request, bench.work, listen=heard.append)
    with np.load(bench.work / "t.npz") as samples:
        assert len(samples["m"]) == 150
        assert samples["m"].min() >= 10_000_000
    assert [line for line in heard if line["median_ms"] >= 10]
    conditions = result["tasks"][0]["conditions"]
    assert conditions[0]["rounds"] == 0
    assert conditions[-1]["rounds"] == 150


def test_a_models_fault_is_the_runtimes_own_words_and_is_not_tried_again(bench: Bench) -> None:
    with pytest.raises(TargetError, match="kernel exploded"):
        bench.device.run(toy.request(bench.work, fails="kernel exploded"), bench.work)
    assert not (bench.work / "y.npz").exists()


def test_a_missing_runtime_says_what_brings_it(bench: Bench) -> None:
    with pytest.raises(ChannelError, match=r"No module named 'no_such_runtime'.*(provision|pip)"):
        bench.device.run(toy.request(bench.work, needs="no_such_runtime"), bench.work)


def test_out_of_memory_there_is_named(bench: Bench) -> None:
    with pytest.raises(ChannelError, match="out of memory there"):
        bench.device.run(toy.request(bench.work, allocates=2**62), bench.work)


def test_identity_holds_what_results_depend_on(bench: Bench) -> None:
    identity = bench.device.identity()
    assert identity["machine"]
    assert identity["cores"] >= 1
    assert identity["runtimes"]["numpy"] == np.__version__
    assert identity == bench.device.identity()


def test_ctrl_c_ends_the_job_there_and_keeps_what_was_measured(bench: Bench) -> None:
    """The first progress line stands for the user's patience."""
    request = toy.request(bench.work, toy.long(), sleep_s=0.01)

    patience = [None]

    def interrupt(line: object) -> None:
        if patience:
            patience.pop()
            threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()

    with pytest.raises(Interrupted) as caught:
        bench.device.run(request, bench.work, listen=interrupt)
    assert caught.value.result["tasks"][0]["interrupted"]
    with np.load(bench.work / "t.npz") as samples:
        assert len(samples["m"]) == caught.value.result["tasks"][0]["rounds"] > 20


def test_a_request_is_pushed_once_and_leaves_nothing(remote: Bench) -> None:
    request = toy.request(remote.work)
    remote.device.run(request, remote.work)
    kept = sorted(path.name for path in (remote.folder / "cache").iterdir())
    remote.device.run(request, remote.work)
    assert sorted(path.name for path in (remote.folder / "cache").iterdir()) == kept
    assert len(kept) == 4  # the agent, the runtime, the model, the inputs
    assert remote.runs() == []


def test_a_full_device_is_named_before_anything_is_pushed(remote: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("targets.channels.remote.SPARE_BYTES", 2**60)
    with pytest.raises(ChannelError, match=r"MiB free below .* needed"):
        remote.device.run(toy.request(remote.work), remote.work)
    assert list((remote.folder / "cache").iterdir()) == []


def test_no_python_there_is_named(remote: Bench) -> None:
    remote.remote.channel.python = "/no/such/python"
    with pytest.raises(ChannelError, match=r"no /no/such/python there.*install Python"):
        remote.device.run(toy.request(remote.work), remote.work)


def test_a_program_for_another_processor_is_named(remote: Bench) -> None:
    wrong = remote.work / "python"
    wrong.write_bytes(b"\x7fELF\x02\x01\x01" + b"\0" * 9 + b"\x02\0\xf3\0" + b"\0" * 44)  # RISC-V, and nothing in it
    wrong.chmod(0o755)
    remote.remote.channel.python = str(wrong)
    with pytest.raises(ChannelError, match=r"(Exec format error|cannot execute).*'\?python='"):
        remote.device.run(toy.request(remote.work), remote.work)


def test_a_job_that_hangs_is_ended_there(remote: Bench) -> None:
    with pytest.raises(ChannelError, match="did not end in 3 s"):
        remote.device.run(toy.request(remote.work, sleep_s=600), remote.work, timeout_s=3)
    assert remote.runs() == []


def test_two_runs_on_one_device_wait_for_each_other(remote: Bench) -> None:
    other = remote.work.parent / "other"
    other.mkdir()
    heard: list[object] = []
    first = toy.request(remote.work, toy.long(), sleep_s=0.01)
    begun = threading.Event()
    thread = threading.Thread(target=remote.device.run, args=(first, remote.work, None, lambda line: begun.set()))
    thread.start()
    assert begun.wait(60)
    one = str(remote.runs()[0])

    def let_go(line: object) -> None:
        heard.append(line)
        remote.remote.signal(one, "INT")

    remote.device.run(toy.request(other), other, listen=let_go)
    thread.join(60)
    assert heard == [{"waiting": True}]


def test_a_killed_agent_is_reported(remote: Bench) -> None:
    request = toy.request(remote.work, toy.long(), sleep_s=0.01)

    def kill(line: object) -> None:
        runs = remote.runs()
        if runs:
            remote.remote.signal(str(runs[0]), "KILL")

    with pytest.raises(ChannelError, match="was killed there"):
        remote.device.run(request, remote.work, listen=kill)
    assert remote.runs() == []
    assert remote.device.run(toy.request(remote.work), remote.work)["error"] is None


def test_the_agent_of_the_device_is_the_agent_of_here(remote: Bench) -> None:
    assert (Path(remote.remote.place([AGENT])) / AGENT.name).read_bytes() == AGENT.read_bytes()
