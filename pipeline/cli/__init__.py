"""The command line: the only place that prints or exits. Heavy modules are imported inside the commands."""

from __future__ import annotations

from typing import Any, NoReturn

from pipeline import boundary, signals


def main() -> NoReturn:
    """Entry point of the `deploy` command."""
    signals.listen()
    boundary.guard(_run)


def _run() -> int | None:
    from pipeline import helpers

    helpers.quieten()
    if helpers.is_helper():
        signals.listen(quiet=True)
        helpers.help_out()
        return None
    code: int | None = _app()(standalone_mode=False)
    if not code:  # of what failed, torchrun ends the helpers
        helpers.dismiss()
    return code


def _app() -> Any:
    """The application, with the commands that each of these modules adds."""
    from pipeline.cli import road, front, release, report  # noqa: F401, I001
    from pipeline.cli import calibration, devices, model, machine  # noqa: F401
    from pipeline.cli.common import app

    return app


def __getattr__(name: str) -> Any:
    """`app` loads when it is asked for: an error while it loads is `main`'s."""
    if name == "app":
        return _app()
    raise AttributeError(f"module 'pipeline.cli' has no attribute '{name}'")
