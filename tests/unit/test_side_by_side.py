"""Measurements on several devices: who works at the same time, and in which order it is told."""

import threading
from pathlib import Path

import pytest

from pipeline import side_by_side
from pipeline.errors import DeviceError
from pipeline.locks import Holder
from pipeline.runner import Runner
from pipeline.store import Store

DEVICES = ["ssh://b", "local://", "adb://a", "qemu://m"]


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(Store(tmp_path), tmp_path, {}, "", 0)


def test_devices_elsewhere_work_at_once_and_those_of_here_one_by_one(runner: Runner) -> None:
    meet = threading.Barrier(2, timeout=30)

    def work(uri: str, own: Runner) -> str:
        own.rows.append({"name": uri, "apart": own.apart})
        own.emit({"event": "progress", "done": 1, "total": 2, "of": uri})
        if own.apart:
            meet.wait()
        return uri

    heard: list[object] = []
    runner.emit = lambda event: heard.append(event["of"])
    assert side_by_side.measure(DEVICES, work, runner) == DEVICES
    assert [(row["name"], row["apart"]) for row in runner.rows] == [
        ("local://", False),
        ("qemu://m", False),
        ("ssh://b", True),
        ("adb://a", True),
    ]
    assert sorted(map(str, heard)) == ["local://", "qemu://m", "ssh://b"]


def test_an_error_comes_when_the_others_have_ended(runner: Runner) -> None:
    failed, ended = threading.Event(), []

    def work(uri: str, own: Runner) -> None:
        if uri == "ssh://b":
            failed.set()
            raise DeviceError(f"{uri}: it is gone")
        if own.apart:
            failed.wait(30)
        ended.append(uri)

    with pytest.raises(DeviceError, match="ssh://b: it is gone"):
        side_by_side.measure(DEVICES, work, runner)
    assert ended == ["local://", "qemu://m", "adb://a"]


@pytest.mark.parametrize("devices", [[], ["ssh://b"], ["local://", "ssh://b"]])
def test_one_elsewhere_needs_no_process_of_its_own(runner: Runner, devices: list[str]) -> None:
    assert side_by_side.measure(devices, lambda uri, own: own is runner, runner) == [True] * len(devices)


def test_who_waits_for_another_run_says_for_whom_once(runner: Runner) -> None:
    heard: list[str] = []
    runner.emit = lambda event: heard.append(f"{event['event']}: {event['message']}")
    for holder in (Holder(7, "1", "bars: train", 0.0), None, Holder(7, "1", "bars: distill", 9.0)):
        runner.waits(holder)
    (said,) = heard
    assert said.startswith("waiting: waiting for process 7 (bars: train, since ")
