"""What a gate will be able to decide, before anyone trains: power and sample sizes for an expected drop and flips."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pipeline.errors import UsageError
from pipeline.release.statistics import chances, samples_for

POWERS = (0.80, 0.95)
MOST_SAMPLES = 1_000_000


@dataclass(frozen=True)
class Plan:
    """Chances (shares) of each verdict at the expected drop, and of a false pass at a drop of exactly the margin.

    `samples`: power -> samples that reach it; None: no number does, since the expected drop is not below the margin.
    """

    n: int
    margin_points: float
    drop_points: float
    flips_percent: float
    confidence: float
    chances: dict[str, float]
    false_pass: float | None
    samples: dict[str, int | None]

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON-able data."""
        return asdict(self)


def plan(
    n: int,
    margin_points: float = 1.0,
    drop_points: float = 0.0,
    flips_percent: float = 5.0,
    confidence: float = 0.95,
) -> Plan:
    """The plan for a gate split of `n` samples.

    `drop_points`: true accuracy lost, in percentage points. `flips_percent`: samples whose correctness changes, either
    way, in percent. All probabilities are exact (trinomial enumeration). `false_pass` is None where that many flips
    cannot make a drop of the margin. Raises UsageError for values that no model can have.
    """
    if not 1 <= n <= MOST_SAMPLES:
        raise UsageError(f"gate --plan: --n is {n}, expected 1 to {MOST_SAMPLES:,} samples")
    if not 0 < margin_points < 100:
        raise UsageError(f"gate --plan: --margin is {margin_points}, expected more than 0 and less than 100 points")
    if not 0 <= flips_percent <= 100:
        raise UsageError(f"gate --plan: --flips is {flips_percent}, expected 0 to 100 percent of the samples")
    if not abs(drop_points) <= flips_percent:
        raise UsageError(
            f"gate --plan: a drop of {drop_points:g} points needs at least as many flips, but --flips is "
            f"{flips_percent:g} %: every point lost is one percent of the samples flipped"
        )
    if not 0.5 <= confidence < 1:
        raise UsageError(f"gate --plan: --confidence is {confidence}, expected at least 0.5 and less than 1")
    margin = margin_points / 100
    lost, gained = _rates(drop_points, flips_percent)
    decided = chances(n, margin, lost, gained, confidence)
    possible = flips_percent >= margin_points
    worst = chances(n, margin, *_rates(margin_points, flips_percent), confidence) if possible else None
    return Plan(
        n=n,
        margin_points=margin_points,
        drop_points=drop_points,
        flips_percent=flips_percent,
        confidence=confidence,
        chances={name: round(chance, 6) for name, chance in decided.items()},
        false_pass=None if worst is None else round(worst["pass"], 6),
        samples={f"{power:.2f}": samples_for(lost, gained, margin, power, confidence) for power in POWERS},
    )


def _rates(drop_points: float, flips_percent: float) -> tuple[float, float]:
    """(lost, gained) as shares of all samples."""
    return max(0.0, flips_percent + drop_points) / 200, max(0.0, flips_percent - drop_points) / 200
