"""`deploy fit`: does an int8 .tflite fit a microcontroller?"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import bounds, delivery, worker
from pipeline.errors import UsageError
from pipeline.release.html import arena
from pipeline.stages import Job
from targets import registry
from targets.base import TargetError


def fit(
    model: Path,
    board: str | None,
    flash: str | None,
    ram: str | None,
    stack: str = "4K",
    out: Path | None = None,
    states: Sequence[str] = (),
    vendor: Path | None = None,
) -> dict[str, Any]:
    """Flash and RAM by cause, and the memory plan, as JSON; where the model fits, its C goes to `out`.

    `states`: "OUTPUT=INPUT" for what one run hands to the next. `vendor`: a CMSIS-NN, whose convolutions are taken.
    For a board, a compiler that is there says what code and stack take. The file is read in a process of its own,
    within limits. Raises UsageError.
    """
    settings = {
        "model": str(model),
        "board": board,
        "flash": flash,
        "ram": ram,
        "stack": stack,
        "out": str(out) if out else None,
        "states": list(states),
        "vendor": str(vendor) if vendor else None,
    }
    return worker.run_isolated("pipeline.fits:of_job", Job("fit", settings, {}, Path(), 0), bounds.of_model(model))


def of_job(job: Job) -> dict[str, Any]:
    """What `fit` says, in this process. Settings: its arguments, paths as text."""
    given = dict(job.settings)
    model, out, vendor = (Path(given[name]) if given[name] else None for name in ("model", "out", "vendor"))
    assert model is not None
    return _fit(model, out, vendor, **{name: given[name] for name in ("board", "flash", "ram", "stack", "states")})


def _fit(
    model: Path,
    out: Path | None,
    vendor: Path | None,
    board: str | None,
    flash: str | None,
    ram: str | None,
    stack: str,
    states: Sequence[str],
) -> dict[str, Any]:
    if importlib.util.find_spec("ai_edge_litert") is None:
        raise UsageError(f"reading a .tflite needs ai-edge-litert: {registry.remedy(['ai-edge-litert'])}")
    from targets.cortex_m import cmsis_nn, compiled, emit, program
    from targets.cortex_m import fit as fits
    from targets.cortex_m.boards import BOARDS

    try:
        flash_bytes, ram_bytes = fits.memory(board, flash, ram)
        stack_bytes = fits.size(stack, "--stack")
        core, handed_on = None if board is None else BOARDS[board].core, dict(map(_state, states))
        if vendor is None:
            made, others = program.compile_file(model, states=handed_on), {}
        else:
            checkout = cmsis_nn.read(vendor)
            made = program.compile_file(model, checkout.kernels(core), states=handed_on)
            others = dict(checkout.files)
        measured = compiled.measure(made, core, others) if core is not None and compiled.there() else None
        found = fits.fit(made, flash_bytes, ram_bytes, stack_bytes, board, measured)
        if out is not None and found.fits:
            drawn = arena.alone(model.name, made.drawn(), made.plan.arena_bytes)
            _write(out, emit.files(made, others={**others, emit.PICTURE: drawn}))
    except TargetError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror}") from error
    return {"model": str(model), "macs": made.macs, **found.record(), "plan": made.drawn()}


def _write(out: Path, texts: Mapping[str, str]) -> None:
    """The C in place of what was generated there before; whatever else lies there stays."""
    with delivery.delivering(delivery.Place(out, "firmware")) as parcel:
        for name, text in texts.items():
            (parcel.new / name).parent.mkdir(parents=True, exist_ok=True)
            (parcel.new / name).write_text(text)
        parcel.keep_only_new()


def _state(text: str) -> tuple[str, str]:
    output, equals, into = text.partition("=")
    if not (output and equals and into):
        raise UsageError(f"--state '{text}' is not OUTPUT=INPUT: name what one run hands to the next, as in h_next=h")
    return output, into
