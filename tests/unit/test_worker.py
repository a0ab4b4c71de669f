"""What a stage's own process tells of its end."""

from pathlib import Path

import pytest

from pipeline import worker
from pipeline.errors import DeployError, DeviceError, StageError, UsageError
from pipeline.stages import Job
from pipeline.worker import run_isolated
from targets.base import TargetError
from targets.channels import ChannelError

ENDS: dict[str, Exception] = {
    "away": ChannelError("ssh://b", "it is gone", "plug it in"),
    "wrong": TargetError("no such op", "unsupported"),
    "broken": ValueError("three is four"),
}


def end(job: Job) -> None:
    raise ENDS[job.stage]


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("away", DeviceError, "away: ssh://b: it is gone: plug it in"),
        ("wrong", UsageError, "wrong: no such op"),
        ("broken", StageError, "broken: ValueError: three is four"),
    ],
)
def test_an_error_there_is_the_same_error_here(
    name: str, kind: type[DeployError], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # `tests`, which no worker finds by itself
    job = Job(stage=name, settings={}, inputs={}, out=tmp_path, seed=0, user={})
    with pytest.raises(DeployError) as caught:
        run_isolated("tests.unit.test_worker:end", job)
    assert type(caught.value) is kind
    assert str(caught.value) == says


@pytest.mark.parametrize("last", ["", '{"event": "resu'])
def test_a_process_that_ends_before_it_has_listened_or_spoken_is_told_by_its_code(
    last: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot = tmp_path / "boot.py"
    boot.write_text(f"import sys; sys.stdout.write({last!r}); sys.exit(3)")
    monkeypatch.setattr(worker, "BOOT", str(boot))
    job = Job("data", {"more": "than a pipe holds" * 10_000}, {}, tmp_path, 0)
    with pytest.raises(StageError, match=r"^data: its process ended without a result: exit code 3$"):
        run_isolated("a:b", job)
