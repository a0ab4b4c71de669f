"""What breaks on the way, provoked on the fake and on real servers: a rerun works, and nothing of the job is left."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from onnx import TensorProto, helper, save

from targets.base import TargetError
from targets.channels import open_device
from targets.channels.base import ChannelError
from targets.channels.remote import RemoteDevice
from targets.channels.ssh import Ssh
from tests.devices import toy
from tests.devices.conftest import Bench
from tests.devices.fake import damaged, truncated, unplugged
from tests.devices.servers import Adbd, Cable, Sshd, flipped, keygen, severed


@pytest.mark.parametrize(
    ("where", "fault"), [("push", damaged), ("pull", damaged), ("pull", truncated), ("push", unplugged)]
)
def test_what_arrives_damaged_is_sent_again(
    fake: Bench, quick: None, where: str, fault: Callable[[Path], None]
) -> None:
    fake.remote.channel.faults[where] = [fault]
    assert fake.device.run(toy.request(fake.work), fake.work)["error"] is None
    with np.load(fake.work / "y.npz") as outputs:
        assert np.array_equal(outputs["y"], 2 * toy.X)


@pytest.mark.parametrize(("where", "fault"), [("push", damaged), ("pull", truncated)])
def test_a_link_that_damages_everything_is_named(
    fake: Bench, quick: None, where: str, fault: Callable[[Path], None]
) -> None:
    fake.remote.channel.faults[where] = [fault] * 99
    with pytest.raises(ChannelError, match="damaged") as caught:
        fake.device.run(toy.request(fake.work), fake.work)
    assert caught.value.transient
    assert not (fake.work / "y.npz").exists()
    assert not list(fake.work.glob("*.part"))


def test_a_device_that_stays_away_is_given_up_on(fake: Bench, quick: None) -> None:
    fake.remote.channel.faults["start"] = [unplugged] * 99
    with pytest.raises(ChannelError, match="it is gone: plug it in"):
        fake.device.run(toy.request(fake.work), fake.work)
    fake.remote.channel.faults["start"] = []
    assert fake.device.run(toy.request(fake.work), fake.work)["error"] is None


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("shh://pi@board", "did you mean 'ssh://'"),
        ("ssh://-oProxyCommand=x/", "expected ssh://"),
        ("ssh://pi:secret@board", "expected ssh://"),
        ("ssh://pi@board?pyhton=x", "expected ssh://"),
        ("adb://", "expected adb://"),
        ("local:///no/such/python", "there is no program /no/such/python"),
    ],
)
def test_a_uri_that_is_none_is_refused(uri: str, words: str) -> None:
    with pytest.raises(TargetError, match=words) as caught:
        open_device(uri)
    assert caught.value.kind == "unsupported"


# ------------------------------------------------------------------------------------------------------- real servers


@pytest.fixture
def server(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    """An sshd of this test's own, which may be killed."""
    own = Sshd(tmp_path / "sshd")
    monkeypatch.setenv("DEPLOY_SSH_CONFIG", str(own.folder / "config"))
    yield own
    own.kill()


def attached(uri: str, folder: Path, **query: str) -> RemoteDevice:
    words = {"python": sys.executable, "folder": str(folder), **query}
    device = open_device(uri + "?" + "&".join(f"{key}={quote(value)}" for key, value in words.items()))
    assert isinstance(device, RemoteDevice)
    return device


def still_running(folder: Path) -> list[str]:
    """Processes of this machine that work below a folder."""
    listed = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True)
    return [line for line in listed.stdout.splitlines() if f"{folder}/runs" in line]


def wait_until_gone(folder: Path) -> None:
    for _ in range(150):
        if not still_running(folder):
            return
        threading.Event().wait(0.2)
    pytest.fail(f"left running: {still_running(folder)}")


def test_an_sshd_killed_in_mid_run_is_named_and_its_job_ends(server: Sshd, tmp_path: Path) -> None:
    device = attached(server.uri, tmp_path / "there")
    request = toy.request(tmp_path, toy.long(), sleep_s=0.01)
    with pytest.raises(ChannelError, match="check its power, cable and network"):
        device.run(request, tmp_path, listen=lambda line: server.kill())
    wait_until_gone(tmp_path / "there")
    server.start()
    assert device.run(toy.request(tmp_path), tmp_path)["error"] is None


def test_a_cable_pulled_in_mid_run_is_tried_again_on_its_own(server: Sshd, tmp_path: Path) -> None:
    cable = Cable(server.port)
    server.trust((server.folder / "host.pub").read_text(), cable.port)
    device = attached(f"ssh://root@127.0.0.1:{cable.port}", tmp_path / "there")
    pulled: list[object] = []

    def pull(line: object) -> None:
        if not pulled:
            pulled.append(line)
            cable.cut()

    request = toy.request(tmp_path, toy.timing(min_rounds=200, max_rounds=200), sleep_s=0.01)
    result = device.run(request, tmp_path, listen=pull)
    assert result["tasks"][0]["rounds"] == 200
    assert pulled
    wait_until_gone(tmp_path / "there")
    cable.close()


@pytest.mark.parametrize("harm", [flipped, severed])
@pytest.mark.parametrize("way", ["push", "pull"])
@pytest.mark.parametrize("kind", ["ssh", "adb"])
def test_what_a_cable_harms_is_carried_again(
    kind: str, way: str, harm: Callable[[bytes], bytes], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """adb carries a wrong bit without a word; ssh ends the connection over it."""
    source = request.getfixturevalue({"ssh": "server", "adb": "adbd"}[kind])
    cable = Cable(source.port)
    uri = f"adb://127.0.0.1:{cable.port}"
    if isinstance(source, Sshd):
        source.trust((source.folder / "host.pub").read_text(), cable.port)
        uri = f"ssh://root@127.0.0.1:{cable.port}"
    device = attached(uri, tmp_path / "there")
    big = toy.request(tmp_path)
    x = np.random.default_rng(1).random((16, 2**14), np.float32)
    np.save(tmp_path / "inputs" / "x.npy", x)
    cable.harm[way] = harm
    assert device.run(big, tmp_path)["error"] is None
    assert cable.harm == {}  # it did happen
    with np.load(tmp_path / "y.npz") as outputs:
        assert np.array_equal(outputs["y"], 2 * x)
    assert list((tmp_path / "there" / "runs").iterdir()) == []
    cable.close()


def test_a_link_that_goes_silent_is_noticed(server: Sshd, tmp_path: Path) -> None:
    cable = Cable(server.port)
    server.trust((server.folder / "host.pub").read_text(), cable.port)
    device = attached(f"ssh://root@127.0.0.1:{cable.port}", tmp_path / "there")
    request = toy.request(tmp_path, toy.long(), sleep_s=0.01)
    with pytest.raises(ChannelError, match="check its power"):
        device.run(request, tmp_path, listen=lambda line: cable.frozen.set())
    wait_until_gone(tmp_path / "there")  # the server notices too
    cable.close()


def test_unknown_and_changed_host_keys_and_a_bad_key_are_refused(server: Sshd, tmp_path: Path) -> None:
    def refused() -> str:
        with pytest.raises(ChannelError) as caught:
            RemoteDevice(Ssh(server.uri)).run(toy.request(tmp_path), tmp_path)
        assert not caught.value.transient
        return str(caught.value)

    right = (server.folder / "host.pub").read_text()
    server.trust("")
    assert "its host key is unknown: connect once by hand and check it" in refused()
    keygen(server.folder / "other")
    server.trust((server.folder / "other.pub").read_text())
    assert "its host key is not the known one: was it reinstalled?" in refused()
    server.trust(right)
    for name in ("user", "user.pub"):
        (server.folder / name).unlink()
    keygen(server.folder / "user")
    assert "it refuses our key: bring it your public key" in refused()


@pytest.mark.parametrize("kind", ["ssh", "adb"])
def test_a_full_filesystem_there_is_named(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, lacking: Callable[[str], None]
) -> None:
    """A real one: three megabytes of memory, filled while a request writes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    done = subprocess.run(mount, capture_output=True, check=False)
    if done.returncode:
        lacking("a small filesystem needs root here")
    try:
        source = request.getfixturevalue({"ssh": "server", "adb": "adbd"}[kind])
        device = attached(source.uri, disk)
        with pytest.raises(ChannelError, match=r"MiB free below .* needed"):
            device.run(toy.request(tmp_path), tmp_path)
        request.getfixturevalue("monkeypatch").setattr("targets.channels.remote.SPARE_BYTES", -(2**30))
        (disk / "ballast").write_bytes(b"\0" * (2**21 + 2**19))
        big = toy.request(tmp_path)
        np.save(tmp_path / "inputs" / "x.npy", np.ones((2**20, 1), np.float32))
        with pytest.raises(ChannelError, match="no space left"):
            device.run(big, tmp_path)
        (disk / "ballast").unlink()
        assert device.run(toy.request(tmp_path), tmp_path)["error"] is None
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_device_that_has_too_little_memory_is_named(server: Sshd, tmp_path: Path) -> None:
    """A real limit: what sshd starts inherits it."""
    resource.prlimit(server.process.pid, resource.RLIMIT_AS, (2**31, 2**31))
    device = attached(server.uri, tmp_path / "there")
    with pytest.raises(ChannelError, match=r"127\.0\.0\.1.*out of memory there: a smaller batch"):
        device.run(toy.request(tmp_path, allocates=2**31), tmp_path)
    assert device.run(toy.request(tmp_path), tmp_path)["error"] is None


def test_a_clock_that_goes_backwards_there_changes_nothing(sshd: Sshd, tmp_path: Path, monkeypatch, lacking) -> None:
    """libfaketime takes the device's clock back a day while the agent times; its durations come from another clock."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if not found:
        lacking("no libfaketime here: make test-devices brings it")
    now = tmp_path / "now"
    now.write_text("+0d")
    environment = {
        "LD_PRELOAD": str(found[0]),
        "FAKETIME_TIMESTAMP_FILE": str(now),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    server = Sshd(tmp_path / "sshd", environment=environment)
    monkeypatch.setenv("DEPLOY_SSH_CONFIG", str(server.folder / "config"))
    try:
        device = attached(server.uri, tmp_path / "there")
        assert device.shell("date +%s").code == 0
        before = int(device.shell("date +%s").output)
        request = toy.request(tmp_path, toy.timing(min_rounds=200, max_rounds=200), spin_s=0.01)
        result = device.run(request, tmp_path, listen=lambda line: now.write_text("-1d"))
        assert int(device.shell("date +%s").output) < before - 80000
        with np.load(tmp_path / "t.npz") as samples:
            assert samples["m"].min() >= 10_000_000
            assert samples["m"].max() < 60 * 10**9
        assert 2 <= result["tasks"][0]["elapsed_s"] < 120
    finally:
        server.kill()


def test_an_adbd_killed_in_mid_run_is_named_and_a_rerun_works(adbd: Adbd, tmp_path: Path) -> None:
    own = Adbd(Path(adbd.program), tmp_path / "adbd")
    device = attached(own.uri, tmp_path / "there")
    request = toy.request(tmp_path, toy.long(), sleep_s=0.01)
    with pytest.raises(ChannelError, match="check its cable or network"):
        device.run(request, tmp_path, listen=lambda line: own.kill())
    wait_until_gone(tmp_path / "there")
    own.start()
    assert device.run(toy.request(tmp_path), tmp_path)["error"] is None
    own.kill()


def test_an_adb_device_that_is_dead_but_connected_is_found_out(adbd: Adbd, tmp_path: Path) -> None:
    own = Adbd(Path(adbd.program), tmp_path / "adbd")
    cable = Cable(own.port)
    uri = f"adb://127.0.0.1:{cable.port}"
    assert attached(uri, tmp_path / "there").home
    cable.frozen.set()
    listed = subprocess.run(["adb", "devices"], capture_output=True, text=True, check=True).stdout
    assert f"127.0.0.1:{cable.port}\tdevice" in listed  # adb believes in it
    open_device.cache_clear()
    with pytest.raises(ChannelError, match=r"127\.0\.0\.1"):
        attached(uri, tmp_path / "there").run(toy.request(tmp_path), tmp_path)
    cable.close()
    own.kill()


def test_a_job_ends_with_a_host_that_is_killed(server: Sshd, tmp_path: Path) -> None:
    script = f"""
import sys
from pathlib import Path
from targets.channels import open_device
from tests.devices import toy
work = Path({str(tmp_path)!r})
device = open_device({server.uri + "?python=" + sys.executable + "&folder=" + str(tmp_path / "there")!r})
device.run(toy.request(work, toy.long(), sleep_s=0.01), work, listen=lambda line: print("RUNS", flush=True))
"""
    host = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=Path.cwd())
    assert host.stdout is not None
    assert host.stdout.readline() == b"RUNS\n"
    assert still_running(tmp_path / "there")
    host.kill()
    host.wait()
    host.stdout.close()
    wait_until_gone(tmp_path / "there")
    shutil.rmtree(tmp_path / "there")


def test_what_ignores_a_request_to_end_is_ended_when_the_link_goes_silent(
    server: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runtime that hangs hears nothing: the shell above it holds the lease."""
    monkeypatch.setattr("targets.channels.remote.LEASE_S", 5)
    cable = Cable(server.port)
    server.trust((server.folder / "host.pub").read_text(), cable.port)
    device = attached(f"ssh://root@127.0.0.1:{cable.port}", tmp_path / "there")
    work = f"{device.home}/runs/deaf"
    device.checked(f"mkdir '{work}'")
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
    seen: list[str] = []
    threading.Timer(5, lambda: seen.extend(still_running(tmp_path / "there")) or cable.frozen.set()).start()
    said = device.job(work, f'{sys.executable} -c "{deaf}" "$d"/hears-nothing', 600)
    assert seen
    assert not said.ended  # the client gave up
    wait_until_gone(tmp_path / "there")
    cable.close()


def test_a_job_that_works_on_is_left_alone_beyond_the_lease(remote: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("targets.channels.remote.LEASE_S", 4)
    request = toy.request(remote.work, sleep_s=3)  # four inferences: 12 s without a word of the agent's
    assert remote.device.run(request, remote.work)["error"] is None


def test_a_command_over_a_dead_link_is_one_line_and_exit_4_and_works_once_it_is_back(
    server: Sshd, tmp_path: Path
) -> None:
    model = tmp_path / "m.onnx"
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), model)
    uri = f"{server.uri}?python={sys.executable}&folder={quote(str(tmp_path / 'there'))}"
    command = [sys.executable, "-m", "pipeline.cli", "profile", str(model), "--target", "onnxruntime", "--device", uri]
    command += ["--samples", str(tmp_path / "samples.npz")]
    server.kill()
    dead = subprocess.run(command, capture_output=True, text=True, check=False)
    assert dead.returncode == 4
    assert len(dead.stderr.splitlines()) == 1
    assert f"127.0.0.1:{server.port}" in dead.stderr
    assert "check its power, cable and network" in dead.stderr
    assert not (tmp_path / "samples.npz").exists()
    server.start()
    back = subprocess.run(command, capture_output=True, text=True, check=False)
    assert back.returncode == 0, back.stderr
    assert (tmp_path / "samples.npz").exists()
