"""How often the gate is right: `make bench-gate`. Exact: every outcome (lost, gained) is weighted, nothing is drawn.

Two questions. Coverage: how often is the true drop inside the one-sided 95 % bounds (the upper one that proves parity,
and its mirror image, the lower one that proves harm)? Errors: how often does a gate pass a model that loses the whole
margin, and how often does it refuse one that loses nothing, beside a plain gate (observed drop below the margin) and
MLPerf's rule (deployed accuracy at least 99 % of float's)?

Writes `results/gate.json` beside this file and the tables between the markers of README.md.
"""

import json
import sys
from pathlib import Path

import numpy as np
from scipy import special, stats

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from pipeline.release.statistics import tango_upper  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "gate.json"
SIZES = (50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)
FLIPS = (0.0, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.10, 0.125, 0.15, 0.175, 0.20)  # shares of the samples
STEPS = 21  # true drops from -flips to +flips
EXPECTED = 10  # discordant samples on each side, from which the bounds are held to within a point
GATES = (200, 1_000, 10_000)
MARGINS = (0.005, 0.01, 0.02)
GATE_FLIPS = (0.02, 0.05, 0.10)
FLOAT_ACCURACY = 0.90  # MLPerf's rule is relative, so it depends on this
CUT = 1e-12  # probability left out at each end of a binomial


def outcomes(n: int, lost_rate: float, gained_rate: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All outcomes that matter: lost [m], gained [k], probability [k, m] (trinomial)."""
    lost, gained = (
        np.arange(int(stats.binom.ppf(CUT, n, rate).clip(0)), int(stats.binom.ppf(1 - CUT, n, rate)) + 1)
        for rate in (lost_rate, gained_rate)
    )
    neither = n - lost - gained[:, None]
    log_weight = (
        special.gammaln(n + 1) - special.gammaln(lost + 1) - special.gammaln(gained + 1)[:, None]
        - special.gammaln(np.maximum(neither, 0) + 1) + special.xlogy(lost, lost_rate)
        + special.xlogy(gained, gained_rate)[:, None] + special.xlogy(neither, 1 - lost_rate - gained_rate)
    )  # fmt: skip
    return lost, gained, np.where(neither >= 0, np.exp(log_weight), 0.0)


def below(n: int, lost: np.ndarray, gained: np.ndarray, drop: float) -> np.ndarray:
    """[k, m]: is the package's own upper bound below `drop`? Monotone: more gained allows more lost."""
    found = np.zeros((len(gained), len(lost)), bool)
    most = 0  # how many of `lost`, from the least, are below
    for row, g in enumerate(gained.tolist()):
        while most < len(lost) and lost[most] + g <= n and tango_upper(int(lost[most]), g, n) < drop - 1e-12:
            most += 1
        found[row, :most] = True
    return found


def rates(drop: float, flips: float) -> tuple[float, float]:
    return max(0.0, (flips + drop) / 2), max(0.0, (flips - drop) / 2)


def coverage(n: int) -> dict[str, object]:
    """The least coverage over the grid, everywhere and where both sides have samples enough.

    The upper bound only: the lower bound is the upper one with lost and gained exchanged, and the grid is symmetric.
    """
    rows = []
    for flips in FLIPS:
        for drop in np.unique(np.linspace(-flips, flips, STEPS)).tolist():
            lost_rate, gained_rate = rates(drop, flips)
            lost, gained, weight = outcomes(n, lost_rate, gained_rate)
            covered = 1 - weight[below(n, lost, gained, drop)].sum() / weight.sum()
            rows.append((float(covered), flips, drop, n * min(lost_rate, gained_rate) >= EXPECTED))
    dense = [row[0] for row in rows if row[3]]
    worst = min(rows)
    return {
        "n": n,
        "least": round(worst[0], 4),
        "least_at": {"flips": worst[1], "drop": round(worst[2], 5)},
        "dense_points": len(dense),
        "dense_least": round(min(dense), 4) if dense else None,
        "dense_most": round(max(dense), 4) if dense else None,
    }


def errors(n: int, margin: float, flips: float, drop: float) -> dict[str, object]:
    """How each rule decides a model whose true drop this is."""
    lost_rate, gained_rate = rates(drop, flips)
    lost, gained, weight = outcomes(n, lost_rate, gained_rate)
    total = weight.sum()
    passes = below(n, lost, gained, margin)
    fails = below(n, gained, lost, -margin).T  # the drop is shown to be above: the gain is shown to be below
    point = lost - gained[:, None] < margin * n - 1e-9
    # Right in both: binomial among the samples that did not flip; deployed >= 99 % of float, in whole samples.
    both = (FLOAT_ACCURACY - lost_rate) / (1 - lost_rate - gained_rate)
    needed = 99 * lost - 100 * gained[:, None]  # both + gained >= 0.99 (both + lost)
    mlperf = stats.binom.sf(needed - 1, np.maximum(n - lost - gained[:, None], 0), both)
    return {
        "n": n,
        "margin_points": 100 * margin,
        "flips_percent": 100 * flips,
        "drop_points": 100 * drop,
        "gate_pass": round(float(weight[passes].sum() / total), 4),
        "gate_fail": round(float(weight[fails].sum() / total), 4),
        "point_pass": round(float(weight[point].sum() / total), 4),
        "mlperf_pass": round(float((weight * mlperf).sum() / total), 4),
    }


def main() -> None:
    covered = []
    for n in SIZES:
        covered.append(coverage(n))
        print(json.dumps(covered[-1]), flush=True)
    decided = [
        errors(n, margin, flips, drop)
        for margin in MARGINS
        for n in GATES
        for flips in GATE_FLIPS
        for drop in (margin, 0.0)
        if flips >= margin
    ]
    record = {"confidence": 0.95, "float_accuracy": FLOAT_ACCURACY, "coverage": covered, "errors": decided}
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")
    readme = ROOT / "README.md"
    readme.write_text(between(readme.read_text(), "gate simulation", tables(record)))


def tables(record: dict[str, list[dict[str, object]]]) -> str:
    """Both tables as Markdown."""
    lines = [
        "| n | least coverage | where | least and most with 10 expected on each side |",
        "|---|---|---|---|",
    ]
    for row in record["coverage"]:
        at = row["least_at"]
        where = f"{100 * at['flips']:g} % flips, drop {100 * at['drop']:g}"
        dense = "-" if row["dense_least"] is None else f"{percent(row['dense_least'])} to {percent(row['dense_most'])}"
        lines.append(f"| {row['n']:,} | {percent(row['least'])} | {where} | {dense} |")
    lines += [
        "",
        "| margin | n | passes, drop = margin: gate | point | 99 % rule "
        "| drop 0: gate passes | gate fails | point refuses | 99 % rule refuses |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    found = {(r["margin_points"], r["n"], r["flips_percent"], r["drop_points"]): r for r in record["errors"]}
    for margin in MARGINS:
        for n in GATES:
            bad = found[100 * margin, n, 5.0, 100 * margin]
            good = found[100 * margin, n, 5.0, 0.0]
            cells = [bad["gate_pass"], bad["point_pass"], bad["mlperf_pass"], good["gate_pass"], good["gate_fail"]]
            cells += [1 - good["point_pass"], 1 - good["mlperf_pass"]]
            lines.append(f"| {100 * margin:g} | {n:,} | " + " | ".join(percent(cell) for cell in cells) + " |")
    return "\n".join(lines)


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def between(text: str, name: str, new: str) -> str:
    """The text with what stands between a pair of markers replaced."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"README.md lacks the markers '{begin}' and '{end}'")
    return f"{before}{begin}\n{new}\n{end}{after}"


if __name__ == "__main__":
    main()
