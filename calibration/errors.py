"""The one error of this package."""

from __future__ import annotations


class CalibrationError(ValueError):
    """Numbers from which no range follows: what, where, what to do, in one line."""


def label(name: str | None) -> str:
    """How a message names a tensor."""
    return "tensor (name not known here)" if name is None else f"tensor '{name}'"
