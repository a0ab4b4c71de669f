"""What is installed and what each target lacks: the facts behind `deploy doctor`."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
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
        "model_libraries": {"transformers": _transformers(), "timm": _timm()},
    }


def _transformers() -> str:
    found = version("transformers")
    return found if found != "missing" else f"not installed: {sys.executable} -m pip install transformers"


def _timm() -> str:
    """timm imports torchvision, and that fails beside a torch that it was not built for."""
    if version("timm") == "missing":
        return "not installed"
    done = subprocess.run([sys.executable, "-P", "-c", "import timm"], capture_output=True, text=True, check=False)
    last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
    torch = version("torch")
    return (
        version("timm")
        if done.returncode == 0
        else f"does not import: {last}: install the torchvision of torch {torch}"
    )
