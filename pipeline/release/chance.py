"""Is the float model shown to beat an answer that looks at no input? A model that is not is no evidence of anything.

The rival of accuracy and top-k is always the largest class (the k largest). Shares of classes, 1 / n of them, would be
weaker wherever classes are not alike in size. Float's own share gets the exact binomial bound (Clopper and Pearson
1934) against it: were the answers drawn whatever the input, with any shares of classes, the number of right ones would
be a sum of independent draws with a mean of at most the rival's, whose tail a binomial bounds (Hoeffding 1956). Where
float is right in every sample, the number of ways to shuffle its answers tells how likely that is by chance.

All other metrics have two rivals: the best constant answer (CONSTANTS) and float's own answers dealt to other samples,
which spread over the classes as F1 and mean IoU reward. Against each float must win by the gate's own paired bootstrap.
A score of the user's own, and `cosine_to_float`, which has no targets, are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.release import metrics, scores
from pipeline.release.evidence import CLASS_METRICS, Chance
from pipeline.release.samples import Answers, Samples
from pipeline.release.statistics import binomial_lower

Array = npt.NDArray[Any]
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Constant:
    """A constant answer: `says`, in words; `of(targets, output)` -> outputs [n, ...] that are the same for all."""

    says: str
    of: Callable[[Array, Array], Array]


def _all(value: Array, targets: Array) -> Array:
    return np.broadcast_to(value, targets.shape).astype(np.float32)


def _direction(targets: Array) -> Array:
    rows = targets.reshape(len(targets), -1).astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0).mean(axis=0))


def _commonest(targets: Array, output: Array) -> Array:
    """Scores that name one class everywhere, [n, classes, ...]."""
    scored = np.zeros(output.shape[1], np.float32)
    there = targets[targets >= 0]
    scored[np.bincount(there.reshape(-1)).argmax() if there.size else 0] = 1
    return np.broadcast_to(scored.reshape(-1, *(1,) * (output.ndim - 2)), output.shape)


MEAN = Constant("the mean of the targets", lambda t, o: _all(t.mean(axis=0), t))
CONSTANTS: Mapping[str, Constant] = {
    "mae": Constant("the median of the targets", lambda t, o: _all(np.median(t, axis=0), t)),
    "mse": MEAN,
    "rmse": MEAN,
    "cosine": Constant("the mean direction of the targets", lambda t, o: _all(_direction(t).reshape(t.shape[1:]), t)),
    "f1": Constant("yes to everything", lambda t, o: np.ones(t.shape, np.float32)),
    "auc": Constant("the same score for everything", lambda t, o: np.zeros(t.shape, np.float32)),
    "mean_iou": Constant("the largest class everywhere", _commonest),
    "word_error_rate": Constant("no word at all", lambda t, o: np.full((len(t), 1), -1, np.int64)),
}


def beside(metric: str, targets: Array, output: Array, groups: Array | None = None) -> Chance | None:
    """Float's answers [n, ...] beside the best constant answer; None for a metric without one.

    `targets` as the task has them (tasks.fitted), `output`: the judged one. `groups` [n] are drawn whole.
    """
    if CLASS_METRICS.fullmatch(metric):
        share = metric == "accuracy" or metric.startswith("top")
        return _shares(metric, targets, output) if share else _counted(metric, targets, output, groups)
    constant = CONSTANTS.get(metric)
    if constant is None:
        return None
    row, dealt = scores.SCORES[metric], output[_dealt(len(targets))]
    try:
        own = row.of(targets, output)
        rivals = {constant.says: row.of(targets, constant.of(targets, output)), DEALT: row.of(targets, dealt)}
    except ValueError:
        return Chance(math.nan, math.nan, None, constant.says, f"{metric} has no value on these samples")
    return _least(
        _resampled(metric, Samples(len(targets), None, {metric: scores.Pair(rival, own)}, groups), says)
        for says, rival in rivals.items()
    )


DEALT = "its own answers dealt to other samples"


def _dealt(n: int) -> Array:
    """An order of n samples, the same each time, in which none is at its place (n > 1)."""
    order = np.random.default_rng(0).permutation(n)
    to = np.empty(n, np.int64)
    to[order] = np.roll(order, 1)
    return to


def _least(seen: Iterable[Chance]) -> Chance:
    """The rival that is beaten by least, or not shown to be."""
    return min(seen, key=lambda one: -math.inf if one.gain_low is None else one.gain_low)


def _shares(metric: str, targets: Array, output: Array) -> Chance:
    k, n = 1 if metric == "accuracy" else int(metric[3:]), len(targets)
    own = output[np.arange(n), targets][:, None]
    before = np.arange(output.shape[1]) < targets[:, None]  # ties go to the first class
    right = int((((output > own) | ((output == own) & before)).sum(axis=1) < k).sum())
    counts = np.sort(np.bincount(targets))[::-1]
    constant, says = float(counts[:k].sum() / n), f"always the {'largest class' if k == 1 else f'{k} largest classes'}"
    low = binomial_lower(right, n, CONFIDENCE)
    if k == 1 and right == n and constant < 1:
        shuffles = math.lgamma(n + 1) - sum(math.lgamma(int(count) + 1) for count in counts)
        if shuffles >= -math.log(1 - CONFIDENCE):
            return Chance(1.0, constant, 1 - constant, says, "exact: no shuffle of its answers is all right")
    return Chance(right / n, constant, low - constant, says, f"exact binomial bound {low:.1%}")


def _counted(metric: str, targets: Array, output: Array, groups: Array | None) -> Chance:
    """Balanced accuracy and macro F1, from answers alone."""
    own, nobody = output.argmax(axis=1), np.zeros(len(targets), np.int64)
    names = np.arange(output.shape[1]).astype(str)
    largest = np.full(len(targets), np.bincount(targets).argmax())
    rivals = {"always the largest class": largest, DEALT: own[_dealt(len(targets))]}
    return _least(
        _resampled(metric, Samples(len(targets), Answers(targets, rival, own, nobody, nobody, names), {}, groups), says)
        for says, rival in rivals.items()
    )


def _resampled(metric: str, samples: Samples, says: str) -> Chance:
    """The gate's own bound on what is lost from a rival to float: below zero, float is better."""
    found = metrics.measure(metric, samples, CONFIDENCE)
    if found.high is None or found.float_value is None or found.value is None:
        return Chance(math.nan, math.nan, None, says, found.method)
    scale = 100 if found.unit == "points" else 1
    return Chance(found.value / scale, found.float_value / scale, -found.high / scale, says, found.method)


def recorded(chance: Chance | None) -> dict[str, Any] | None:
    """The record of a stage or a report, without NaN."""
    if chance is None:
        return None
    kept = replace(chance, value=_number(chance.value), constant=_number(chance.constant))
    return vars(kept) | {"gain_low": _number(chance.gain_low)}


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 6)
