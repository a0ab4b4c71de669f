"""What is installed and what each target lacks: the facts behind `deploy doctor`."""

from __future__ import annotations

import os
import platform
from typing import Any

from pipeline.outcome import environment
from pipeline.runner import version


def examine() -> dict[str, Any]:
    """Python, machine, versions, and for each known target its missing distributions and the command for them."""
    from targets import registry

    targets = {}
    for name in registry.names():
        target = registry.load(name)
        lacking = registry.missing(target)
        targets[name] = {
            "ready": not lacking,
            "missing": list(lacking),
            "remedy": str(registry.missing_error(target, lacking)) if lacking else "",
            "packages": {package: version(package) for package in target.packages},
        }
    return {
        **environment(),
        "cores": os.cpu_count(),
        "python_supported": platform.python_version_tuple() >= ("3", "11"),
        "targets": targets,
    }
