"""The short form of `make test-kills`, and what becomes of the user's own files, on a network of one layer."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.road.kills import Ground, at_once, campaign

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """A folder with a finished run in it."""
    made = Ground(tmp_path_factory.mktemp("ground") / "user", ("one",))
    made.undisturbed("one")
    return made


def deploy(ground: Ground, out: str) -> tuple[int, list[str]]:
    """Exit code, and the lines of blame."""
    run = ground.start("one", out=out)
    _, said = run.communicate()
    return run.returncode, [line for line in said.splitlines() if line.startswith("deploy: ")]


def fill(file: Path) -> None:
    """The rest of a disk."""
    with file.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))


def test_killed_at_random_moments_nothing_is_lost_and_nothing_left_over(ground: Ground) -> None:
    campaign(ground, kills=4, seed=2, cold=0)
    at_once(ground, "one", cold=False)


@pytest.mark.parametrize("name", ["pytorch/train.py", "report.json"])
def test_the_users_own_is_refused_before_any_work(ground: Ground, tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    began = time.time()
    code, blame = deploy(ground, str(tmp_path))
    assert code == 2
    (line,) = blame
    assert line == f"deploy: {file} is not of an earlier run of ours: move it away, or name another folder with --out"
    assert file.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == [name.partition("/")[0]]
    used = [path for path in ground.store.glob("entries/*/entry.json") if path.stat().st_mtime > began]
    assert used == []


def test_what_an_earlier_version_delivered_is_known_and_other_targets_stay(ground: Ground, tmp_path: Path) -> None:
    out = Path(shutil.copytree(ground.out, tmp_path / "out"))
    (out / ".delivered.json").unlink()
    for name in ("tflite/model.tflite", "samples/tflite-race.npz", "samples/onnxruntime-profile-1.npz"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("before")
    assert deploy(ground, str(out)) == (0, [])
    assert (out / ".delivered.json").is_file()
    assert {path.name for path in (out / "samples").iterdir()} == {
        *("tflite-race.npz", "onnxruntime-race.npz", "onnxruntime-profile.npz")
    }
    assert (out / "tflite" / "model.tflite").read_text() == "before"
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_at_out_is_one_line_and_the_result_before_is_whole(ground: Ground, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount here: {mounted.stderr.strip()}")
    try:
        assert deploy(ground, str(small)) == (0, [])
        report = (small / "report.json").read_bytes()
        with pytest.raises(OSError, match="No space left"):
            fill(small / "theirs")
        code, blame = deploy(ground, str(small))
        assert code == 2
        (line,) = blame
        assert f"no space left in {small}: free some" in line
        assert (small / "report.json").read_bytes() == report
        assert {path.name for path in small.glob(".*")} == {".delivered.json"}
        (small / "theirs").unlink()
        assert deploy(ground, str(small)) == (0, [])
    finally:
        subprocess.run(["umount", str(small)], check=True)
