"""What every command shares: the app, common options, and errors as one line with the right exit code."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from pipeline import boundary, signals, temporary
from pipeline.errors import DeployError

if TYPE_CHECKING:
    from pipeline.release.report import Report

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--target", "-t", metavar="NAME", help="openvino, tflite, onnxruntime, ...; repeatable; 'all': the recipe's."
    ),
]
Device = Annotated[
    str | None,
    typer.Option("--device", "-d", metavar="URI", help="Where it runs: ssh://user@host, adb://SERIAL, local://PYTHON."),
]
Devices = Annotated[
    list[str] | None,
    typer.Option(
        "--device",
        "-d",
        metavar="URI",
        help="Where it runs: ssh://user@host, adb://SERIAL, local://PYTHON; repeatable: raced on the first, what "
        "ships is verified and timed on all.",
    ),
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")]
Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON on stdout.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks and the tools' own messages.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any recipe value; repeatable.")]


def show(result: Report, as_json: bool, out: Path, brief: bool = False) -> None:
    """A report on stdout: as JSON, or as its summary; `brief`: what the gate said alone."""
    from pipeline import console

    if as_json:
        print(result.to_json(), end="")
    else:
        console.summary(result, out, brief)


class one_line_errors:  # noqa: N801  (reads as a statement: with one_line_errors(verbose))
    """One line on stderr and the right exit code for every error that we know; `-v` shows the traceback."""

    def __init__(self, verbose: bool) -> None:
        self.verbose = verbose

    def __enter__(self) -> None:
        self.inside = contextlib.ExitStack()
        self.inside.enter_context(signals.cleaning())
        self.inside.enter_context(temporary.folder())

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        stopped = isinstance(error, KeyboardInterrupt) or (isinstance(error, DeployError) and signals.came())
        if stopped:
            close_connections()
        self.inside.close()
        if stopped:
            signals.leave()
        if isinstance(error, DeployError):
            fail(error, self.verbose)


def close_connections() -> None:
    """What the end of Python would close, and an interruption would not."""
    ssh = sys.modules.get("targets.channels.ssh")
    if ssh is not None:
        ssh.close()


def fail(error: DeployError, verbose: bool = False) -> NoReturn:
    """The error's lines on stderr, then its exit code."""
    raise typer.Exit(boundary.told(error, verbose))


def stored(model: Path, int8: bool, levels: str | None, out: Path | None, json_: bool) -> None:
    """What `deploy storage` and `deploy inspect --storage` say."""
    import dataclasses

    from pipeline import console, stored_weights
    from pipeline.compression import storage as formats
    from pipeline.errors import UsageError
    from pipeline.files import write_whole

    weights, sqnr_db = stored_weights.reshape(stored_weights.read(model), levels, int8)
    rows = stored_weights.rows(weights)
    if out is not None:
        try:
            write_whole(out, formats.pack(weights))
        except OSError as error:
            raise UsageError(f"cannot write {out}: {error.strerror}; name another file with --out") from error
    totals, saves = stored_weights.totals(rows), stored_weights.saves()
    if json_:
        tensors = [dataclasses.asdict(row) for row in rows]
        console.print_json({"tensors": tensors, "totals": totals, "sqnr_db": sqnr_db, "saves": saves})
    else:
        console.storage(rows, totals, sqnr_db, saves)
