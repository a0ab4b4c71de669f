"""Prune, distill, quantize, deploy and gate neural networks for microcontrollers, phones and edge CPUs.

>>> import pipeline
>>> report = pipeline.run("deploy.toml", targets=["openvino"])  # doctest: +SKIP
>>> report.verdict  # doctest: +SKIP
'pass'
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline import ours

ours.claim()

if TYPE_CHECKING:
    from pipeline.api import run
    from pipeline.data import Split
    from pipeline.recipe import Recipe
    from pipeline.release.report import Report

__all__ = ["Recipe", "Report", "Split", "run"]

__version__: str
_HOMES = {"run": "api", "Recipe": "recipe", "Report": "release.report", "Split": "data"}


def __getattr__(name: str) -> Any:
    """Names load when used: `deploy --help` must not pay for them."""
    if name == "__version__":
        from importlib.metadata import version

        return version("edge-deploy")
    if name not in _HOMES:
        raise AttributeError(f"module 'pipeline' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(f"pipeline.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """With the names that load when used."""
    return sorted({*globals(), *__all__, "__version__"})
