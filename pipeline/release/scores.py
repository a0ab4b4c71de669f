"""Metrics of any task as data: what is kept of each sample, and the figure that weighted samples give.

A row of SCORES says what a metric keeps of one sample (its statistics, float64 [n, k]) and how weights [r, n] over
samples and these make r figures. Weights of one are the metric itself; drawn weights are its bootstrap. Every output
that a metric can be had from is kept, so that a policy may ask for it later without another measurement.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.release.evidence import SCORES as UNITS

Array = npt.NDArray[Any]
Value = Callable[[Array, Array], Array]
Shape = tuple[int, ...]


def ratio(weights: Array, statistics: Array) -> Array:
    """sum(w a) / sum(w b) of statistics (a, b)."""
    above, below = (weights @ statistics).T
    return np.asarray(np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0))


def _like_the_worst(statistics: Array) -> Array:
    """As bad as the worst sample seen: of a metric without an end of its own."""
    return np.repeat(statistics[[np.argmax(statistics[:, 0])]], len(statistics), axis=0)


@dataclass(frozen=True)
class Score:
    """One metric. `takes`: what its targets and outputs must be, in words. `of(targets, outputs)` -> statistics
    [n, k]; raises ValueError for other shapes or types. `worst(statistics)`: what they would be had the model answered
    as badly as can be. `against_float`: the float model's outputs take the targets' place. `fits(targets, output)`: may
    a sample's targets and output have these shapes?
    """

    takes: str
    of: Callable[[Array, Array], Array]
    value: Value = ratio
    worst: Callable[[Array], Array] = _like_the_worst
    higher: bool = True
    against_float: bool = False
    by_rank: bool = False  # the first statistic is a rank, the second the truth: no function of sums
    fits: Callable[[Shape, Shape], bool] = lambda targets, output: True


@dataclass(frozen=True)
class Pair:
    """Statistics [n, k] of one metric: of the float model, and of the deployed one."""

    before: Array
    after: Array


# ------------------------------------------------------------------------------------------------------- each metric


def _same(targets: Array, outputs: Array) -> tuple[Array, Array]:
    if targets.size != outputs.size or outputs.dtype.kind != "f":  # [n] and [n, 1] are the same numbers
        raise ValueError
    n = len(targets)
    return targets.reshape(n, -1).astype(np.float64), outputs.reshape(n, -1).astype(np.float64)


def _mean(each: Array) -> Array:
    return np.stack([each, np.ones(len(each))], axis=1)


def _absolute(targets: Array, outputs: Array) -> Array:
    wanted, found = _same(targets, outputs)
    return _mean(np.abs(wanted - found).mean(axis=1))


def _squared(targets: Array, outputs: Array) -> Array:
    wanted, found = _same(targets, outputs)
    return _mean(np.square(wanted - found).mean(axis=1))


def _cosine(targets: Array, outputs: Array) -> Array:
    wanted, found = _same(targets, outputs)
    if wanted.shape[1] < 2:
        raise ValueError
    length = np.linalg.norm(wanted, axis=1) * np.linalg.norm(found, axis=1)
    product = (wanted * found).sum(axis=1)
    # Two vectors of zeros are the same; one beside another has no direction in common with it.
    alike = (wanted == found).all(axis=1)
    return _mean(np.where(alike, 1.0, np.divide(product, length, out=np.zeros_like(product), where=length > 0)))


def _positives(targets: Array, outputs: Array) -> tuple[Array, Array, Array]:
    """Truth and answer, bool [n, labels], and scores [n, labels]: two classes, or several labels a sample."""
    if targets.dtype.kind not in "iub" or outputs.dtype.kind != "f" or not np.isin(targets, (0, 1)).all():
        raise ValueError
    n = len(targets)
    if targets.ndim == 1 and outputs.shape == (n, 2):
        scores = np.diff(outputs.astype(np.float64), axis=1)
    elif outputs.size == targets.size:
        scores = outputs.reshape(n, -1).astype(np.float64)
    else:
        raise ValueError
    return targets.reshape(n, -1).astype(bool), scores > 0, scores


def _confusion(targets: Array, outputs: Array) -> Array:
    truth, answer, _ = _positives(targets, outputs)
    counts = (truth & answer, truth & ~answer, ~truth & answer)
    return np.stack([one.sum(axis=1) for one in counts], axis=1).astype(np.float64)


def _f1(weights: Array, statistics: Array) -> Array:
    hit, missed, wrong = (weights @ statistics).T
    below = 2 * hit + missed + wrong
    return np.asarray(np.divide(2 * hit, below, out=np.full_like(hit, np.nan), where=below > 0))


def _all_missed(statistics: Array) -> Array:
    return np.stack([0 * statistics[:, 0], statistics[:, 0] + statistics[:, 1], statistics[:, 2] + 1], axis=1)


def _ranked(targets: Array, outputs: Array) -> Array:
    truth, _, scores = _positives(targets, outputs)
    if truth.shape[1] != 1 or truth.all() or not truth.any():
        raise ValueError
    return np.stack([scores[:, 0], truth[:, 0]], axis=1)


def _auc(weights: Array, statistics: Array) -> Array:
    """Share of (positive, negative) pairs in the right order, ties half: Mann and Whitney's U, weighted."""
    _, tied = np.unique(statistics[:, 0], return_inverse=True)
    order = np.argsort(tied, kind="stable")
    first = np.flatnonzero(np.diff(tied[order], prepend=-1))
    truth = statistics[order, 1]
    positive, negative = (np.add.reduceat(weights[:, order] * side, first, axis=1) for side in (truth, 1 - truth))
    above = (positive * (np.cumsum(negative, axis=1) - negative / 2)).sum(axis=1)
    below = positive.sum(axis=1) * negative.sum(axis=1)
    return np.asarray(np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0))


def _misranked(statistics: Array) -> Array:
    low, high = statistics[:, 0].min() - 1, statistics[:, 0].max() + 1
    return np.stack([np.where(statistics[:, 1] > 0, low, high), statistics[:, 1]], axis=1)


def _overlap(targets: Array, outputs: Array) -> Array:
    """Intersections and unions of each class; a negative target is no class and does not count."""
    n = len(targets)
    if targets.dtype.kind not in "iu" or targets.ndim < 2 or outputs.ndim != targets.ndim + 1:
        raise ValueError
    if outputs.shape[:1] + outputs.shape[2:] != targets.shape:
        raise ValueError
    truth = targets.reshape(n, -1)
    answer = np.where(truth < 0, -1, outputs.argmax(axis=1).reshape(n, -1))
    both, either = [], []
    for label in range(outputs.shape[1]):
        is_true, is_answer = truth == label, answer == label
        both.append((is_true & is_answer).sum(axis=1))
        either.append((is_true | is_answer).sum(axis=1))
    return np.stack([*both, *either], axis=1).astype(np.float64)


def _mean_iou(weights: Array, statistics: Array) -> Array:
    both, either = np.split(weights @ statistics, 2, axis=1)
    shares = np.divide(both, either, out=np.zeros_like(both), where=either > 0)
    there = (either > 0).sum(axis=1)
    return np.asarray(np.divide(shares.sum(axis=1), there, out=np.full(len(there), np.nan), where=there > 0))


def _no_overlap(statistics: Array) -> Array:
    both, either = np.split(statistics, 2, axis=1)
    return np.concatenate([0 * both, either + both], axis=1)


def _edits(targets: Array, outputs: Array) -> Array:
    """Edits to the words said, and words: integers [n, words], negative where there is none. Outputs are such integers
    too, or scores [n, steps, words], read greedily as CTC does: repeats are one word, word 0 is silence.
    """
    if targets.dtype.kind not in "iu" or targets.ndim != 2:
        raise ValueError
    if outputs.ndim == 3 and outputs.dtype.kind == "f":
        said = [_ctc(row) for row in outputs.argmax(axis=2)]
    elif outputs.ndim == 2 and outputs.dtype.kind in "iu":
        said = [row[row >= 0] for row in outputs]
    else:
        raise ValueError
    words = [row[row >= 0] for row in targets]
    return np.array([[_distance(a, b), len(a)] for a, b in zip(words, said, strict=True)], np.float64)


def _ctc(path: Array) -> Array:
    kept = path[np.insert(np.diff(path) != 0, 0, True)]
    return np.asarray(kept[kept != 0])


def _distance(first: Array, second: Array) -> int:
    """Levenshtein's, a row of its table at a time."""
    row = np.arange(len(second) + 1)
    steps = np.arange(len(second) + 1)
    for i, word in enumerate(first, 1):
        best = np.minimum(row[1:] + 1, row[:-1] + (second != word))
        # The third way, from the left, is a running minimum once each place's own distance is taken off.
        row = np.minimum.accumulate(np.concatenate([[i], best]) - steps) + steps
    return int(row[-1])


def _as_many(targets: Shape, output: Shape) -> bool:
    return math.prod(targets) == math.prod(output)


def _two_sided(targets: Shape, output: Shape) -> bool:
    return _as_many(targets, output) or (targets == () and output == (2,))


def _a_score_each(targets: Shape, output: Shape) -> bool:
    return len(output) == len(targets) + 1 and output[1:] == targets


SAME = "numbers of the output's shape"
SCORES: dict[str, Score] = {
    "f1": Score(
        "targets of 0 and 1, logits [n, 2] or of the targets' shape", _confusion, _f1, _all_missed, fits=_two_sided
    ),
    "auc": Score(
        "targets [n] of 0 and 1 (both), scores [n] or logits [n, 2]",
        _ranked, _auc, _misranked, by_rank=True, fits=_two_sided,
    ),
    "mean_iou": Score(
        "classes [n, ...], scores [n, classes, ...]", _overlap, _mean_iou, _no_overlap, fits=_a_score_each
    ),
    "word_error_rate": Score(
        "words [n, most], words or scores [n, steps, words]",
        _edits, higher=False, fits=lambda targets, output: len(targets) == 1 and len(output) in (1, 2),
    ),
    "cosine": Score(SAME, _cosine, worst=lambda kept: _mean(np.full(len(kept), -1.0)), fits=_as_many),
    "cosine_to_float": Score(
        "float outputs", _cosine, worst=lambda kept: _mean(-np.ones(len(kept))), against_float=True
    ),
    "mae": Score(SAME, _absolute, higher=False, fits=_as_many),
    "mse": Score(SAME, _squared, higher=False, fits=_as_many),
    "rmse": Score(SAME, _squared, lambda w, s: np.sqrt(ratio(w, s)), higher=False, fits=_as_many),
}  # fmt: skip
assert SCORES.keys() == UNITS.keys()


@dataclass(frozen=True)
class Own:
    """A score of the user's: `function(outputs, targets)` -> [n], higher is better. Outputs and targets as the data
    and the model have them: an array, or a dict of arrays by name where there are several.
    """

    name: str
    function: Callable[[Any, Any], Any] = field(repr=False)


def keep(
    targets: Array | Mapping[str, Array],
    original: Mapping[str, Array],
    deployed: Mapping[str, Array],
    own: tuple[Own, ...] = (),
    judged: str = "",
) -> dict[str, Pair]:
    """Statistics of every metric that these targets and outputs (all [n, ...], by name) can be had for.

    The metrics of the output `judged` (empty: the first) go by their own names, another's by "METRIC@OUTPUT". Targets:
    one array, for that output, or a dict by the outputs' names. Raises ValueError where a score of the user's is none.
    """
    found, judged = {}, judged or next(iter(original))
    for output, before in original.items():
        wanted = targets.get(output) if isinstance(targets, Mapping) else targets if output == judged else None
        for name, row in SCORES.items():
            truth = before if row.against_float else wanted
            if truth is None:
                continue
            try:
                pair = Pair(row.of(truth, before), row.of(truth, deployed[output]))
            except ValueError:
                continue  # not a metric of such targets
            found[name if output == judged else f"{name}@{output}"] = pair
    for score in own:
        rows = [_own(score, _alone(outputs), _alone(targets)) for outputs in (original, deployed)]
        found[score.name] = Pair(*rows)
    return found


def _alone(named: Array | Mapping[str, Array]) -> Any:
    if not isinstance(named, Mapping):
        return named
    return next(iter(named.values())) if len(named) == 1 else dict(named)


def _own(score: Own, outputs: Any, targets: Any) -> Array:
    each = np.asarray(score.function(outputs, targets), np.float64)
    n = len(next(iter(outputs.values())) if isinstance(outputs, dict) else outputs)
    if each.shape != (n,):
        raise ValueError(f"{score.name} returned shape {list(each.shape)}, expected one score a sample: [{n}]")
    if not np.isfinite(each).all():
        raise ValueError(f"{score.name} returned NaN or infinity for {int((~np.isfinite(each)).sum())} of {n} samples")
    return _mean(each)


OWN_ROW = Score("any", lambda targets, outputs: outputs, worst=lambda kept: _lowest(kept))


def _lowest(statistics: Array) -> Array:
    return np.repeat(statistics[[np.argmin(statistics[:, 0])]], len(statistics), axis=0)


def row_of(name: str) -> Score:
    """The row of a metric's name; a name with a module is a score of the user's."""
    return SCORES.get(name.partition("@")[0], OWN_ROW)


def each(name: str, targets: Array, outputs: Array) -> Array:
    """The metric of every sample by itself, [n], turned so that more is better; NaN where one has none.

    Raises ValueError where targets and outputs are not what it takes.
    """
    row = SCORES[name]
    try:
        kept = row.of(outputs if row.against_float else targets, outputs)
    except ValueError:
        raise ValueError(f"{name} takes {row.takes}") from None
    one = np.ones((1, 1))
    found = np.array([row.value(one, kept[i : i + 1])[0] for i in range(len(kept))])
    return found if row.higher else -found


def value(name: str, statistics: Array) -> float:
    """The metric over all samples; NaN where it has no value."""
    return float(row_of(name).value(np.ones((1, len(statistics))), statistics)[0])
