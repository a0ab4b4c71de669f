"""Two processes train one model: the same network as one process would make, to within noise."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.stages import prune, train
from tests.unit.test_compression_stages import DISTILL, FLOAT, PRUNE, digest, do, place  # noqa: F401

PLAIN = """
from torch import nn

def build():  # no batch statistics, no dropout: averaged gradients of halves are those of the whole batch
    return nn.Sequential(nn.Flatten(), nn.Linear(40, 32), nn.ReLU(), nn.Linear(32, 3))
"""
TOGETHER = """
    import sys
    from pathlib import Path
    from pipeline import helpers
    from tests.unit.test_compression_resume import job
    import json
    place, out, function, settings, inputs, model = json.loads(sys.argv[1])
    if helpers.is_helper():
        helpers.help_out()
    else:
        from dataclasses import replace
        work = job(Path(place), out, settings, inputs, Path(place) / f"scratch-{out}", lambda event: None)
        told = helpers.lead(function, replace(work, user=work.user | {"model": model}))
        (Path(place) / f"{out}.json").write_text(json.dumps(told))
        helpers.dismiss()
"""


def two(place, out, stage, settings, inputs=None, model="net:build"):  # noqa: F811
    script = place / "together.py"
    script.write_text(textwrap.dedent(TOGETHER))
    arguments = json.dumps([str(place), out, f"pipeline.stages.{stage}:run", settings, inputs or {}, model])
    code = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", script, arguments]
    done = subprocess.run(
        code, env=os.environ | {"PYTHONPATH": str(Path.cwd())}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((place / f"{out}.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_two_processes_make_the_weights_of_one(place, optimizer):  # noqa: F811
    (place / "plain.py").write_text(PLAIN)
    settings = FLOAT | {"batch_size": 50, "ema": 0.5, "optimizer": optimizer, "warmup": 0.2}
    alone = do(train, place, "alone", settings, model="plain:build")
    both = two(place, "both", "train", settings, model="plain:build")
    assert both["epoch"] == alone["epoch"]
    assert both["metric"] == pytest.approx(alone["metric"], abs=0.01)
    one, other = (load_file(place / out / "weights.safetensors") for out in ("alone", "both"))
    for name, values in one.items():
        torch.testing.assert_close(other[name], values, atol=2e-4, rtol=1e-3)


@pytest.mark.slow
def test_a_network_with_batch_statistics_recovers_as_well_and_always_alike(place):  # noqa: F811
    do(train, place, "float", FLOAT)
    do(prune, place, "small", PRUNE, {"model": "float", "float": "float"})
    inputs = {"model": "small", "teacher": "float"}
    settings = DISTILL | {"features": {"b": "b"}, "feature_weight": 0.1}  # adapters are averaged too
    both = two(place, "both", "distill", settings, inputs)
    assert both["metric"] > 0.8
    again = two(place, "again", "distill", settings, inputs)
    assert (again, digest(place / "again")) == (both, digest(place / "both"))
