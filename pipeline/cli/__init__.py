"""The command line: the only place that prints or exits. Heavy modules are imported inside the commands."""

from __future__ import annotations

from pipeline import helpers

from pipeline.cli import road, front, release, report  # noqa: F401 - each adds its commands; isort: skip
from pipeline.cli import calibration, devices, model, machine  # noqa: F401 - isort: skip
from pipeline.cli.common import app


def main() -> None:
    """Entry point of the `deploy` command."""
    if helpers.is_helper():
        helpers.help_out()
        return
    try:
        app()
    finally:
        helpers.dismiss()
