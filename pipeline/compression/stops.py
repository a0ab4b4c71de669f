"""What a pruning stops at: a budget that is counted, a latency that is measured, or a drop of the metric.

What is counted is met exactly, by the widths. For the others a share of the MACs is searched at which they hold: both
move with the share, so few tries are enough.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

COUNTED = ("macs", "parameters", "bytes")
TIMED = ("latency", "latency_ms")
SHARES = ("macs", "parameters", "latency")  # of what float takes; the others are amounts
STOPS = (*COUNTED, *TIMED, "drop")
TRIES = 7
CLOSE = 0.03  # of the limit: near enough


@dataclass(frozen=True)
class Stop:
    """`part`: how far this pruning goes of several that share one budget, 1 for the last."""

    name: str
    amount: float
    part: float = 1.0

    def limit(self, whole: float) -> float:
        """What may be left of `whole`, float's own; of a drop, what may be lost."""
        if self.name == "drop":
            return self.amount * self.part
        share = self.amount if self.name in SHARES else min(1.0, self.amount / whole)
        return float(whole * share**self.part)

    def says(self) -> str:
        """As the recipe spells it."""
        return f"prune.{self.name} = {self.amount:g}"


def of(settings: Mapping[str, Any]) -> Stop:
    """The stop that a stage's settings name."""
    name = next(name for name in STOPS if settings.get(name) is not None)
    return Stop(name, float(settings[name]), float(settings.get("part", 1.0)))


@dataclass(frozen=True)
class Try:
    """At this share of the MACs the value was `value`; `excess`: how far above the limit, 0.1 for a tenth."""

    share: float
    value: float
    excess: float


def search(value: Callable[[float], float], limit: float, first: float, rising: bool) -> tuple[Try | None, list[Try]]:
    """The try that holds `value(share) <= limit` and wastes least, and all tries; None where none holds.

    `rising`: the value grows with the share (a latency: the largest share is wanted), or falls (a drop: the smallest).
    Between two tries the next is interpolated, between a tenth and nine tenths of the way.
    """
    tries: list[Try] = []
    good: Try | None = None if rising else Try(1.0, 0.0, -1.0)
    bad: Try | None = None
    share = first
    for _ in range(TRIES):
        found = value(share)
        now = Try(share, found, found / limit - 1)
        tries.append(now)
        if now.excess <= 0:
            good = now
        else:
            bad = now
        if -CLOSE <= now.excess <= 0:
            break
        if good is None or (bad is None and not rising):
            share /= 2
        elif bad is None:
            share += (1 - share) / 2
        else:
            way = -good.excess / (bad.excess - good.excess)
            share = good.share + (bad.share - good.share) * min(0.9, max(0.1, way))
        if good is not None and bad is not None and abs(bad.share - good.share) < CLOSE * good.share:
            break
    return (good if good in tries else None), tries
