"""`torchrun` starts several processes: the first goes the road, the others help where a stage trains.

    torchrun --nproc-per-node 2 -m pipeline.cli --target tflite

What helpers do there: `compression.parallel`. They see the same folders as the first, so all run on one machine, or on
several that share the store and the recipe.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from pipeline.errors import DeployError
from pipeline.stages import Job, silent
from pipeline.worker import invoke

PATIENCE = timedelta(days=7)  # helpers wait while the first measures


def several() -> bool:
    """Whether torchrun started this process beside others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def is_helper() -> bool:
    """Whether this process is one of those that only help."""
    return several() and os.environ["RANK"] != "0"


def lead(function: str, job: Job) -> dict[str, Any]:
    """A stage that trains, run by all processes at once."""
    if several():
        _tell((function, replace(job, emit=silent)))
    return invoke(function, job)


def dismiss() -> None:
    """The road has ended: helpers end too."""
    if several():
        _tell(None)


def help_out() -> None:
    """Run what the first process says, until it is through. Results and errors are the first one's to tell."""
    while (order := _tell(None)) is not None:
        function, job = order
        with tempfile.TemporaryDirectory() as aside:
            try:
                invoke(function, replace(job, out=Path(aside)))
            except DeployError:
                continue


def _tell(order: tuple[str, Job] | None) -> tuple[str, Job] | None:
    """What the first process says, in all of them."""
    from torch import distributed

    if not distributed.is_initialized():
        distributed.init_process_group("gloo", timeout=PATIENCE)
    said = [order]
    distributed.broadcast_object_list(said)
    return said[0]
