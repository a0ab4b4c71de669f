"""kill -9, damage, company and a full disk: finished work is kept, results are the same bytes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline import api, order, recipe
from pipeline.store import Store
from tests.road.newcomer import Folder

pytestmark = pytest.mark.slow
TARGET = "onnxruntime"
ARGUMENTS = ("--target", TARGET, "-v")


def clean_environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "DEPLOY_STORE"}


def interrupt(folder: Folder, stage: str, by: signal.Signals) -> tuple[int, str]:
    """Run until `stage` has begun, let it work for a moment, then send a signal: exit code, what stderr said after."""
    with subprocess.Popen(
        # a test run in a shell's background ignores ctrl-C, and so would what it starts
        ["env", "--default-signal=INT", sys.executable, "-u", "-m", "pipeline.cli", *ARGUMENTS],
        cwd=folder.path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(),
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.strip() == f"{stage} ...":
                break
        else:
            pytest.fail(f"{stage} never began")
        time.sleep(0.7)
        process.send_signal(by)
        rest = process.stderr.read()
    assert not (folder.path / "deploy-out" / "report.json").exists()
    return process.returncode, rest


def digests(report: dict[str, Any]) -> dict[str, str]:
    return {row["id"]: row["sha256"] for row in report["targets"][TARGET]["candidates"]}


def test_killed_again_and_again_it_goes_on_where_it_was(folder: Folder, finished: Folder) -> None:
    for stage in ("distill", "export-onnx", f"lower {TARGET}", f"race {TARGET}", f"profile {TARGET}"):
        assert interrupt(folder, stage, signal.SIGKILL)[0] == -signal.SIGKILL
    store = folder.path / ".deploy"
    race = next(p for p in store.glob("entries/*/entry.json") if json.loads(p.read_text())["stage"] == "race")
    stored = race.read_bytes()
    done = folder.deploy(*ARGUMENTS)
    assert done.returncode == 0, done.stderr
    report = folder.report()
    made_now = [row["name"] for row in report["stages"] if not row["cached"]]
    assert made_now == [f"profile {TARGET}"]
    assert race.read_bytes() == stored
    assert digests(report) == digests(finished.report())  # uninterrupted, in another folder: the same bytes


def test_given_the_race_the_delivered_files_are_the_same_bytes(finished: Folder, tmp_path: Path) -> None:
    """Everything but the race is lost; what is made again is what was there before."""
    work = tmp_path / "copy"
    shutil.copytree(finished.path, work)
    copy = Folder(work)
    for entry in (work / ".deploy" / "entries").iterdir():
        if json.loads((entry / "entry.json").read_text())["stage"] not in ("race", "data", "train", "load"):
            shutil.rmtree(entry)
    shutil.rmtree(work / "deploy-out")
    done = copy.deploy("--target", "all")
    assert done.returncode == 0, done.stderr
    before, after = finished.report(), copy.report()
    for name in before["targets"]:
        assert after["targets"][name]["shipped"] == before["targets"][name]["shipped"]
        shipped = finished.path / "deploy-out" / name
        files = [file for file in shipped.rglob("*") if file.is_file()]
        assert len(files) >= 3  # model, manifest, declared labels; the evidence beside them
        for file in files:
            assert (work / "deploy-out" / name / file.relative_to(shipped)).read_bytes() == file.read_bytes(), file
    made = {row["name"].split()[0] for row in after["stages"] if not row["cached"]}
    assert made == {row["name"].split()[0] for row in after["stages"]} - {"race", "data", "load"}


def test_a_damaged_result_is_made_again_and_nothing_else(finished: Folder, tmp_path: Path) -> None:
    work = tmp_path / "copy"
    shutil.copytree(finished.path, work)
    for entry in (work / ".deploy" / "entries").iterdir():
        if json.loads((entry / "entry.json").read_text())["stage"] == "export-onnx":
            file = entry / "files" / "program.onnx"
            file.write_bytes(file.read_bytes()[:-1])
    done = Folder(work).deploy("--target", "all")
    assert done.returncode == 0, done.stderr
    after = Folder(work).report()
    assert {row["name"].split()[0] for row in after["stages"] if not row["cached"]} == {"export-onnx"}
    for name, row in finished.report()["targets"].items():
        assert after["targets"][name]["sha256"] == row["sha256"]


def test_two_runs_at_once_share_the_work(folder: Folder) -> None:
    command = [sys.executable, "-m", "pipeline.cli", "--target", TARGET, "--only", "export-pt2", "-v"]
    runs = [
        subprocess.Popen(command, cwd=folder.path, stderr=subprocess.PIPE, text=True, env=clean_environment())
        for _ in range(2)
    ]
    said = [run.communicate()[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    for stage in ("load", "distill", "export-pt2"):
        assert sum(f"  {stage} ..." in text for text in said) == 1, stage


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_ends_in_one_line_and_keeps_the_store(folder: Folder) -> None:
    small = folder.path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(small)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount here: {mounted.stderr.strip()}")
    try:
        full = folder.deploy("--target", TARGET, DEPLOY_STORE=str(small))
        assert full.returncode == 5, full.stderr
        blame = [line for line in full.stderr.splitlines() if line.startswith("deploy: ")]
        assert len(blame) == 1
        assert "no space left for results" in blame[0]
        assert list((small / "building").iterdir()) == []
        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
        done = folder.deploy("--target", TARGET, "--only", "data", "-v", DEPLOY_STORE=str(small))
        assert done.returncode == 0, done.stderr
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_ctrl_c_exits_130_and_keeps_what_is_done(folder: Folder) -> None:
    code, rest = interrupt(folder, "distill", signal.SIGINT)
    assert code == 130, rest
    assert "Traceback" not in rest
    again = folder.deploy("--target", TARGET, "--only", "prune", "-v")
    assert "prune ..." not in again.stderr


def test_only_ends_with_the_stage_that_it_names_and_says_so_of_no_other(finished: Folder, tmp_path: Path) -> None:
    asked = recipe.load(finished.path / "deploy.toml")
    stages = order.of(asked, asked.targets).stages
    for at, stage in enumerate(stages):
        if stage == "older-cpus":  # only where int8 ships
            continue
        events: list[dict[str, Any]] = []
        store = Store(finished.path / ".deploy")
        assert api.run(asked, only=stage, store=store, out=tmp_path, emit=events.append) is None
        made = [event["stage"] for event in events if event["event"] == "done"]
        assert stage in made
        assert set(made) <= set(stages[: at + 1])
