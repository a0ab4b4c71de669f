"""A training that was killed goes on to the same bytes; one that breaks keeps what was good."""

import hashlib
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.compression import checkpoint
from pipeline.errors import StageError
from pipeline.stages import Job, distill, train
from tests.unit.test_compression_stages import DISTILL, FLOAT, PRUNE, do, place  # noqa: F401

SLOW = FLOAT | {"epochs": 6, "ema": 0.9, "patience": 5, "penalty": "l1", "strength": 1e-6}


def digest(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


def job(place, out, settings, inputs, scratch, emit):  # noqa: F811
    folders = {"data": place / "data"} | {role: place / name for role, name in inputs.items()}
    owner = {"model": "net:build", "folder": str(place)}
    return Job("stage", settings, folders, place / out, 0, owner, emit, scratch)


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from tests.unit.test_compression_resume import SLOW, job
    from pipeline.stages import train
    place, left = Path(sys.argv[1]), int(sys.argv[2])

    def emit(event):
        global left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    train.run(job(place, "killed", SLOW, {}, place / "scratch", emit))
"""


def test_a_training_killed_twice_ends_in_the_same_bytes(place):  # noqa: F811
    events = []
    whole = train.run(job(place, "whole", SLOW, {}, None, events.append))
    assert len(events) == 6
    for epochs in ("2", "1"):
        code = [sys.executable, "-c", textwrap.dedent(KILLED), str(place), epochs]
        assert subprocess.run(code, cwd=Path.cwd(), check=False).returncode == -signal.SIGKILL
    events.clear()
    again = train.run(job(place, "again", SLOW, {}, place / "scratch", events.append))
    assert [event["done"] for event in events] == [4, 5, 6]
    assert again == whole
    assert digest(place / "again") == digest(place / "whole")


def test_recovery_in_two_turns_goes_on_in_the_second(place):  # noqa: F811
    from pipeline.stages import prune

    do(train, place, "float", FLOAT)
    do(prune, place, "small", PRUNE, {"model": "float", "float": "float"})
    inputs = {"model": "small", "teacher": "float"}
    settings = DISTILL | {"features": {"b": "b"}, "feature_weight": 0.1}
    whole = distill.run(job(place, "whole", settings, inputs, None, lambda event: None))

    class Killed(BaseException):
        pass

    def kill(event):
        if event["done"] == 5:
            raise Killed

    with pytest.raises(Killed):
        distill.run(job(place, "none", settings, inputs, place / "scratch", kill))
    events = []
    again = distill.run(job(place, "again", settings, inputs, place / "scratch", events.append))
    assert [event["done"] for event in events] == [6]
    assert again == whole
    assert digest(place / "again") == digest(place / "whole")


def test_a_checkpoint_that_was_cut_short_is_no_checkpoint(tmp_path):
    checkpoint.save(tmp_path / "a.pt", {"weights": torch.arange(1000.0)})
    whole = (tmp_path / "a.pt").read_bytes()
    assert torch.equal(checkpoint.load(tmp_path / "a.pt")["weights"], torch.arange(1000.0))
    (tmp_path / "a.pt").write_bytes(whole[: len(whole) // 2])
    assert checkpoint.load(tmp_path / "a.pt") is None
    assert checkpoint.load(tmp_path / "none.pt") is None


def test_a_loss_that_is_not_finite_keeps_the_last_good_weights(place):  # noqa: F811
    settings = FLOAT | {"lr": 1e18, "epochs": 3}
    with pytest.raises(StageError, match=r"the loss is .* in epoch \d, batch \d+ of \d: .*; epoch \d is kept in"):
        train.run(job(place, "none", settings, {}, place / "scratch", lambda event: None))
    kept = load_file(place / "scratch" / checkpoint.LAST_GOOD)
    assert all(bool(values.isfinite().all()) for values in kept.values())
