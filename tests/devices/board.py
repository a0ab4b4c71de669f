"""A whole ARM board, emulated down to its kernel. Not collected by itself: `make test-board` runs it."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from targets.channels import ChannelError, open_device
from tests.devices import made, toy
from tests.devices.brief import brief_folder
from tests.devices.servers import Board
from tests.road.newcomer import Folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def board(lacking: Callable[[str], None], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    if why := made.board_lacks():
        lacking(why)
    own = Board(tmp_path_factory.mktemp("board"), made.made("board", made.BOARD))
    os.environ["DEPLOY_SSH_CONFIG"] = str(own.folder / "config")
    yield own
    del os.environ["DEPLOY_SSH_CONFIG"]
    own.kill()


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return brief_folder(tmp_path_factory.mktemp("user") / "bars")


@pytest.mark.parametrize("target", ["tflite", "onnxruntime", "openvino"])
def test_the_whole_road_on_the_board(board: Board, user: Folder, target: str) -> None:
    for command in (
        ["provision", board.uri, "--target", target],
        ["--target", target, "--device", board.uri],
    ):
        done = user.deploy(*command)
        assert done.returncode == 0, done.stderr + done.stdout
    runs = user.report()["targets"][target]["runs"]
    assert {run["device"]["machine"] for run in runs} == {"aarch64"}
    assert runs[0]["latency_ms"]["n"] >= 1000


def test_what_takes_more_memory_than_there_is_is_named(board: Board, tmp_path: Path) -> None:
    """The board's own kernel kills the agent."""
    device = open_device(board.uri)
    with pytest.raises(ChannelError, match="was killed there: most likely out of memory"):
        device.run(toy.request(tmp_path, allocates=2_800_000_000), tmp_path)
    assert device.run(toy.request(tmp_path), tmp_path)["error"] is None


def test_the_power_goes_in_mid_run_and_comes_back(board: Board, user: Folder) -> None:
    """One line and exit 4; then the same command works on the board that was started again, empty."""
    model = user.path / "m.onnx"
    shutil.copy(next((user.path / "deploy-out" / "onnxruntime").glob("*.onnx")), model)
    command = ["profile", model.name, "--target", "onnxruntime", "--device", board.uri, "--samples", "samples.npz"]
    threading.Timer(20, board.kill).start()
    dead = user.deploy(*command, "--soak", "10m")
    assert dead.returncode == 4
    assert len(dead.stderr.splitlines()) == 1
    assert f"127.0.0.1:{board.port}" in dead.stderr
    assert not (user.path / "samples.npz").exists()
    board.start()
    assert user.deploy("provision", board.uri, "--target", "onnxruntime").returncode == 0
    back = user.deploy(*command)
    assert back.returncode == 0, back.stderr
    assert (user.path / "samples.npz").exists()
