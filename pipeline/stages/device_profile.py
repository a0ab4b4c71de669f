"""device-profile: what layers of some shapes take at some widths on a target and device. Nothing of a model is in its
key but the shapes, so networks with the same shapes share it.
"""

from __future__ import annotations

import json
from typing import Any

from pipeline.stages import Job


def run(job: Job) -> dict[str, Any]:
    """Settings: target, threads, batch, optional device, shapes, and the timing's. Files: `profile.json`, a row a
    shape: {precision: {width: ms}} for the precisions that the target has. Metadata: rows, the same.
    """
    import numpy as np
    import torch

    from pipeline.compression import shapes
    from pipeline.stages.probe import probing

    torch.manual_seed(job.seed)
    rng = np.random.default_rng(job.seed)
    rows = []
    listed = [shapes.of_record(row) for row in job.settings["shapes"]]
    with probing(job.settings, {}, job.seed) as probe:
        for done, shape in enumerate(listed):
            made: dict[str, dict[str, Any]] = {}
            for width in shape.widths():
                inputs = rng.normal(size=(8, *shape.input_shape(width))).astype(np.float32)
                for precision, entrant in probe.every(shape.module(width), {"x": inputs}).items():
                    made.setdefault(precision, {})[str(width)] = entrant
            row = {
                precision: dict(zip(at, probe.latency_ms(list(at.values())), strict=True))
                for precision, at in made.items()
            }
            rows.append(row)
            job.emit({"event": "progress", "done": done + 1, "total": len(listed)})
    (job.out / shapes.FILE).write_text(json.dumps(rows, indent=1) + "\n")
    return {"rows": rows}
