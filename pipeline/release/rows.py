"""Rows of a report that say how a model is beside another: float beside chance, what was deployed beside float."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

EXACT = ConfigDict(extra="forbid", protected_namespaces=(), allow_inf_nan=False)  # no other fields, finite numbers


class _Record(BaseModel):
    model_config = EXACT


class ChanceRow(_Record):
    """The float model beside the best answer that looks at no input, on the gate split (pipeline/release/chance.py).

    `gain_low`: the 95 % lower bound of what it is better by; not above zero, it is not shown to beat chance.
    """

    value: float | None
    constant: float | None
    gain_low: float | None
    says: str
    method: str


class ChannelRow(_Record):
    """A channel of an output: `at`, "[:, 3]" or, counted along the last axis, "[..., 3]". `moved`: what float moves by,
    in the output's unit, where this one stands still.
    """

    at: str
    sqnr_db: float | None
    moved: float | None = None


class OutputRow(_Record):
    """An output against the runtime's own float (calibration/fidelity.py). SQNR of None: identical.

    `channels`: how many there are; `worst`: those furthest from float; `still`: some of the `dead` channels, those that
    move in float and have one value here.
    """

    name: str
    sqnr_db: float | None
    worst_error: float | None
    channels: int
    worst: list[ChannelRow] = []
    still: list[ChannelRow] = []
    dead: int = 0

    @property
    def words(self) -> str:
        """The output and its worst channel."""
        if self.sqnr_db is None:
            return f"'{self.name}' identical"
        worst = next((one for one in self.worst if one.sqnr_db is not None), None) if self.channels > 1 else None
        channel = f", its worst channel {worst.at} {worst.sqnr_db:.1f} dB" if worst else ""
        return f"'{self.name}' {self.sqnr_db:.1f} dB{channel}"
