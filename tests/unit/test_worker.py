"""What a stage's own process tells of its end."""

from pathlib import Path

import pytest

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
