"""Quantization schemes as data: how many bits, signed or not, symmetric or not, per tensor or per channel."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Granularity(StrEnum):
    """How many scales one tensor has."""

    PER_TENSOR = "per_tensor"
    PER_CHANNEL = "per_channel"


@dataclass(frozen=True)
class TensorScheme:
    """Integers that one kind of tensor (activations or weights) is stored in.

    `narrow` drops the lowest code, so that the range is symmetric around zero (-127..127 for signed 8 bit).
    """

    bits: int
    signed: bool
    symmetric: bool
    granularity: Granularity
    narrow: bool = False

    @property
    def qmin(self) -> int:
        """The lowest code."""
        lowest = -(1 << (self.bits - 1)) if self.signed else 0
        return lowest + 1 if self.narrow else lowest

    @property
    def qmax(self) -> int:
        """The highest code."""
        return (1 << (self.bits - 1 if self.signed else self.bits)) - 1


@dataclass(frozen=True)
class Scheme:
    """Activations and weights together; `id` is the name used in recipes and reports."""

    id: str
    activation: TensorScheme
    weight: TensorScheme


_WEIGHT = TensorScheme(8, signed=True, symmetric=True, granularity=Granularity.PER_CHANNEL, narrow=True)

_WHOLE = TensorScheme(8, signed=True, symmetric=True, granularity=Granularity.PER_TENSOR, narrow=True)

# "-dynamic": the runtime finds the ranges of activations anew at each inference; nothing is calibrated.
SCHEMES: dict[str, Scheme] = {
    scheme.id: scheme
    for scheme in (
        Scheme("u8s8", TensorScheme(8, False, False, Granularity.PER_TENSOR), _WEIGHT),
        Scheme("u8s8-dynamic", TensorScheme(8, False, False, Granularity.PER_TENSOR), _WHOLE),
        Scheme("s8s8", TensorScheme(8, True, False, Granularity.PER_TENSOR), _WEIGHT),
    )
}
