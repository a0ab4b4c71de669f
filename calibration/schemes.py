"""Quantization schemes as data: how many bits, signed or not, symmetric or not, per tensor or per channel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
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


_ACTIVATION = {base: TensorScheme(8, base == "s8s8", False, Granularity.PER_TENSOR) for base in ("u8s8", "s8s8")}
_LONG = TensorScheme(16, signed=True, symmetric=True, granularity=Granularity.PER_TENSOR, narrow=True)
_WEIGHT = TensorScheme(8, signed=True, symmetric=True, granularity=Granularity.PER_CHANNEL, narrow=True)
_WHOLE = replace(_WEIGHT, granularity=Granularity.PER_TENSOR)

# Strategy -> what it changes of a base scheme. "half_range": weights of 7 bits, so that two products fit into 16.
# "signed": activations signed where the base has them unsigned. "int16": activations of 16 bits, symmetric.
# "dynamic": the runtime finds the ranges of activations anew at each inference; nothing is calibrated.
_STRATEGIES: dict[str, Callable[[Scheme], Scheme]] = {
    "symmetric": lambda scheme: replace(scheme, activation=replace(scheme.activation, symmetric=True)),
    "per_tensor": lambda scheme: replace(scheme, weight=_WHOLE),
    "half_range": lambda scheme: replace(scheme, weight=replace(_WEIGHT, bits=7)),
    "signed": lambda scheme: replace(scheme, activation=replace(scheme.activation, signed=True)),
    "int16": lambda scheme: replace(scheme, activation=_LONG),
    "dynamic": lambda scheme: replace(scheme, weight=_WHOLE),
}
STRATEGIES = ("default", *_STRATEGIES)


def scheme_id(base: str, strategy: str) -> str:
    """The id of a base scheme under a strategy of STRATEGIES: "u8s8", "u8s8-symmetric", ..."""
    return base if strategy == "default" else f"{base}-{strategy}"


_BASES = [Scheme(base, activation, _WEIGHT) for base, activation in _ACTIVATION.items()]
SCHEMES: dict[str, Scheme] = {scheme.id: scheme for scheme in _BASES} | {
    made.id: made
    for scheme in _BASES
    for name, change in _STRATEGIES.items()
    for made in [replace(change(scheme), id=scheme_id(scheme.id, name))]
}
