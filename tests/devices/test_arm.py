"""ARM instructions: a Debian arm64 userland under qemu-user behind its own sshd and adbd. No time of it is a figure."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from targets import base
from targets.channels import open_device
from tests.devices import made
from tests.devices.brief import brief_folder
from tests.devices.servers import Adbd, Sshd
from tests.road.newcomer import Folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@dataclass
class Board:
    """Two ways to one ARM userland, and a newcomer's folder from which `deploy` goes there."""

    ssh: str
    adb: str
    user: Folder

    def deploy(self, *arguments: str) -> str:
        done = self.user.deploy(*arguments)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout


@pytest.fixture(scope="module")
def board(
    arm64: Path, adb_server: None, lacking: Callable[[str], None], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Board]:
    if why := made.adbd_lacks():
        lacking(why)
    user = brief_folder(tmp_path_factory.mktemp("user") / "bars")
    sshd = Sshd(tmp_path_factory.mktemp("arm-sshd"), root=arm64)
    os.environ["DEPLOY_SSH_CONFIG"] = str(sshd.folder / "config")
    adbd = Adbd(made.made("adbd", made.ADBD) / "adbd", tmp_path_factory.mktemp("arm-adbd"), root=arm64)
    yield Board(sshd.uri, adbd.uri, user)
    del os.environ["DEPLOY_SSH_CONFIG"]
    sshd.kill()
    adbd.kill()


def test_a_board_says_what_it_is_and_what_it_lacks(board: Board) -> None:
    subprocess.run(["adb", "disconnect"], check=True, capture_output=True)  # what other tests left
    rows = json.loads(board.deploy("devices", board.ssh, board.adb, "--json"))
    for row in rows:
        assert row["machine"] == "aarch64"
        assert set(row["lacking"]) == {"onnxruntime", "openvino", "tflite"}
    found = json.loads(board.deploy("devices", "--json"))
    assert [row["uri"] for row in found] == ["local://", board.adb]  # this machine, and what adb knows


def test_onnxruntime_over_adb_runs_the_whole_road(board: Board) -> None:
    board.deploy("provision", board.adb, "--target", "onnxruntime")
    board.deploy("--target", "onnxruntime", "--device", board.adb)
    report = board.user.report()
    runs = report["targets"]["onnxruntime"]["runs"]
    assert {run["device"]["machine"] for run in runs} == {"aarch64"}
    assert runs[0]["latency_ms"]["n"] >= 1000
    assert report["environment"]["attached"] == board.adb


def test_tflite_over_ssh_runs_the_whole_road_and_gives_the_bits_of_here(board: Board, tmp_path: Path) -> None:
    """tflite-runtime there, LiteRT here: int8 outputs of the plain built-in kernels are equal bit by bit."""
    packages = ("--package", "tflite-runtime", "--package", "numpy<2")
    board.deploy("provision", board.ssh, "--target", "tflite", *packages)
    board.deploy("--target", "tflite", "--device", board.ssh)
    report = board.user.report()
    row = report["targets"]["tflite"]
    assert row["runs"][0]["runtime_version"].startswith("tflite_runtime")
    assert {run["device"]["machine"] for run in row["runs"]} == {"aarch64"}
    candidate = next(c for c in row["candidates"] if c["id"] == "ours-mse")
    model = base.read_manifest(Path(candidate["artifact"]))
    (tmp_path / "inputs").mkdir()
    rng = np.random.default_rng(5)
    for spec in model.inputs:
        np.save(tmp_path / "inputs" / f"{spec.name}.npy", rng.normal(0, 1, (64, *spec.shape[1:])).astype(np.float32))
    request = {
        "protocol": 1,
        "models": [
            {
                "id": "m",
                "runtime": "tflite",
                "path": str(model.path),
                "sha256": model.sha256,
                "options": {"threads": 1, "precision": "int8", "batch": 1, "resolver": "reference"},
            }
        ],
        "tasks": [{"do": "run", "model": "m", "inputs": "inputs", "outputs": "y.npz"}],
        "result": "result.json",
    }
    answers = []
    for uri in ("local://", board.ssh):
        open_device(uri).run(request, tmp_path)
        with np.load(tmp_path / "y.npz") as outputs:
            answers.append({name: outputs[name] for name in outputs.files})
    assert answers[0].keys() == answers[1].keys()
    for name in answers[0]:
        assert np.array_equal(answers[0][name], answers[1][name])
        assert len(np.unique(answers[0][name])) > 8
    board.deploy("provision", board.ssh, "--remove")
    assert "tflite" in json.loads(board.deploy("devices", board.ssh, "--json"))[0]["lacking"]
