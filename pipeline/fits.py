"""`deploy fit`: does an int8 .tflite fit a microcontroller?"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import UsageError
from targets.base import TargetError


def fit(
    model: Path,
    board: str | None,
    flash: str | None,
    ram: str | None,
    stack: str = "4K",
    out: Path | None = None,
    states: Sequence[str] = (),
) -> dict[str, Any]:
    """Flash and RAM by cause, as JSON; where the model fits, its C goes to `out`. Raises UsageError.

    `states`: "OUTPUT=INPUT" for what one run hands to the next.
    """
    if importlib.util.find_spec("ai_edge_litert") is None:
        raise UsageError("reading a .tflite needs ai-edge-litert: pip install 'edge-deploy[mcu]'")
    from targets.cortex_m import emit, program
    from targets.cortex_m import fit as fits

    try:
        flash_bytes, ram_bytes = fits.memory(board, flash, ram)
        stack_bytes = fits.size(stack, "--stack")
        made = program.compile_file(model, states=dict(map(_state, states)))
        found = fits.fit(made, flash_bytes, ram_bytes, stack_bytes, board)
        if out is not None and found.fits:
            emit.write(made, out)
    except TargetError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror}") from error
    return {"model": str(model), "macs": made.macs, **found.record()}


def _state(text: str) -> tuple[str, str]:
    output, equals, into = text.partition("=")
    if not (output and equals and into):
        raise UsageError(f"--state '{text}' is not OUTPUT=INPUT: name what one run hands to the next, as in h_next=h")
    return output, into
