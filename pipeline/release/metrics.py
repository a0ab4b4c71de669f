"""Metrics from per-sample evidence: what deployment lost of each, with one-sided bounds.

Metrics that are right or wrong for each sample (accuracy, top-k) get the paired score bound. All others get a paired
BCa bootstrap: of counts over (label, float class, deployed class) for balanced accuracy and macro F1, of each sample's
statistics for those of `scores`. Units are drawn whole: groups where the split has enough of them, else samples,
conditional on the groups that are there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.release import scores
from pipeline.release.bootstrap import bca
from pipeline.release.evidence import CLASS_METRICS, RELATIVE, Metric, metric_unit
from pipeline.release.samples import Answers, Samples
from pipeline.release.statistics import tango_lower, tango_upper

Array = npt.NDArray[Any]
ENOUGH_GROUPS = 20  # below it, groups drawn with replacement say little about groups that were not drawn
ENOUGH_CHANGES = 10  # samples with another answer, below which resampling cannot see the tail


def measure(name: str, samples: Samples, confidence: float, relative: bool = False) -> Metric:
    """One metric of the policy, in its unit or in percent of what float reaches.

    Never raises for a known name: what cannot be had says why.
    """
    plain, _, output = name.partition("@")
    if output and output == samples.judged:
        name = plain
    if CLASS_METRICS.fullmatch(plain) and name != plain:
        return Metric(None, None, None, f"classes are told apart by the judged output, '{samples.judged}', alone")
    if not CLASS_METRICS.fullmatch(name):
        return _scored(name, samples, confidence, relative)
    answers = samples.answers
    if answers is None:
        return Metric(None, None, None, "the task is no classification")
    if name == "accuracy" or name.startswith("top"):
        found = _top(1 if name == "accuracy" else int(name[3:]), samples, answers, confidence)
        return _of_float(found) if relative else found
    if not ((answers.deployed_class < answers.classes).all() and (answers.labels < answers.classes).all()):
        return Metric(None, None, None, "classes beyond the model's outputs")
    return _counted(name, samples, answers, confidence, relative)


def _top(k: int, samples: Samples, answers: Answers, confidence: float) -> Metric:
    if k >= answers.classes:
        return Metric(None, None, None, f"top{k} is always right with {answers.classes} classes")
    before, after = answers.float_rank < k, answers.deployed_rank < k
    lost, gained, n = int((before & ~after).sum()), int((after & ~before).sum()), len(before)
    bounds = tango_lower(lost, gained, n, confidence), tango_upper(lost, gained, n, confidence)
    method = f"paired score bound, lost {lost:,}, gained {gained:,} of {n:,}{_condition(samples)}"
    points = (100 * (lost - gained) / n, 100 * bounds[0], 100 * bounds[1])
    return Metric(*points, method, "points", 100 * float(before.mean()), 100 * float(after.mean()))


def _of_float(found: Metric) -> Metric:
    """Points as percent of the float model's own, taken as it was seen here."""
    if not found.float_value:
        return replace(found, drop=None, low=None, high=None, unit=RELATIVE) if found.drop is not None else found
    assert found.drop is not None
    assert found.low is not None
    assert found.high is not None
    drop, low, high = (100 * value / found.float_value for value in (found.drop, found.low, found.high))
    return replace(found, drop=drop, low=low, high=high, unit=RELATIVE)


@dataclass(frozen=True)
class _Resampled:
    """What is drawn, and what it makes: `figures(weights [r, u])` -> the metric before and after, each [r]."""

    times: Array
    figures: Callable[[Array], tuple[Array, Array]]
    method: str


def _counted(name: str, samples: Samples, answers: Answers, confidence: float, relative: bool) -> Metric:
    """Balanced accuracy or macro F1 by a bootstrap of counts."""
    score = balanced_accuracy if name == "balanced_accuracy" else macro_f1
    (label, before, after), cell_of, counts = _cells(answers.labels, answers.float_class, answers.deployed_class)
    group_of = _groups(samples)
    if group_of is None:
        units, times = np.eye(len(counts)), counts
    else:
        units, times = np.zeros((group_of.max() + 1, len(counts))), np.ones(group_of.max() + 1, np.int64)
        np.add.at(units, (group_of, cell_of), 1)

    def figures(weights: Array) -> tuple[Array, Array]:
        drawn = weights @ units
        return score(drawn, label, before), score(drawn, label, after)

    def worst(hidden: int) -> tuple[Array, Array]:
        deployed = answers.deployed_class.copy()
        right = np.flatnonzero((answers.float_class == answers.labels) & (deployed == answers.labels))
        sizes = np.bincount(answers.labels)[answers.labels[right]]
        rarest = right[np.argsort(sizes, kind="stable")][:hidden]
        deployed[rarest] = (answers.labels[rarest] + 1) % answers.classes
        (label, before, after), _, counts = _cells(answers.labels, answers.float_class, deployed)
        return score(counts[None], label, before), score(counts[None], label, after)

    drawn = _Resampled(times, figures, _says(samples, group_of))
    changed = int((answers.float_class != answers.deployed_class).sum())
    return _bounded(drawn, _loss("points", True, relative), confidence, samples.n, changed, worst)


def _scored(name: str, samples: Samples, confidence: float, relative: bool) -> Metric:
    """A row of `scores`, or a score of the user's, by a bootstrap of what was kept of each sample."""
    pair, row, unit = samples.scores.get(name), scores.row_of(name), metric_unit(name) or ""
    if pair is None:
        return Metric(None, None, None, f"the gate split and the model's outputs do not have it; it takes {row.takes}")
    group_of = _groups(samples)

    def figures(weights: Array) -> tuple[Array, Array]:
        each = weights if group_of is None else weights[:, group_of]
        return row.value(each, pair.before), row.value(each, pair.after)

    def worst(hidden: int) -> tuple[Array, Array]:
        spoiled = pair.after.copy()
        at = _most_damaging(row, pair.after, hidden)
        spoiled[at] = row.worst(np.concatenate([pair.before, pair.after]))[len(pair.before) :][at]
        everyone = np.ones((1, samples.n))
        return row.value(everyone, pair.before), row.value(everyone, spoiled)

    times = np.ones(samples.n if group_of is None else group_of.max() + 1, np.int64)
    drawn = _Resampled(times, figures, _says(samples, group_of))
    changed = int((pair.before != pair.after).any(axis=1).sum())
    return _bounded(drawn, _loss(unit, row.higher, relative), confidence, samples.n, changed, worst)


@dataclass(frozen=True)
class _Loss:
    """How two figures become what was lost, and the unit."""

    unit: str
    sign: float
    scale: float

    def of(self, figures: tuple[Array, Array]) -> Array:
        """[r] before and after -> [r]."""
        before, after = figures
        lost = self.sign * (before - after)
        if self.unit != RELATIVE:
            return np.asarray(self.scale * lost)
        return 100 * np.divide(lost, np.abs(before), out=np.full_like(lost, np.nan), where=before != 0)


def _loss(unit: str, higher: bool, relative: bool) -> _Loss:
    return _Loss(RELATIVE if relative else unit, 1.0 if higher else -1.0, 100.0 if unit == "points" else 1.0)


def _bounded(
    drawn: _Resampled,
    loss: _Loss,
    confidence: float,
    n: int,
    changed: int,
    worst: Callable[[int], tuple[Array, Array]],
) -> Metric:
    """The loss with its bootstrap bounds; where too few samples changed, with the worst that chance could hide."""
    before, after = drawn.figures(drawn.times[None].astype(np.float64))
    drop = float(loss.of((before, after))[0])
    if not math.isfinite(drop):
        return Metric(None, None, None, "it has no value on these samples", loss.unit)
    low, high = bca(drawn.times, lambda weights: loss.of(drawn.figures(weights)), confidence)
    method = drawn.method
    if changed < ENOUGH_CHANGES:
        hidden = math.ceil(n * tango_upper(changed, 0, n, confidence)) - changed
        high, low = max(high, float(loss.of(worst(hidden))[0])), min(low, 0.0)  # too few to be shown worse
        method += f"; only {changed} answers changed, so the bound is that of the worst place for more"
    return Metric(drop, low, high, method, loss.unit, loss.scale * float(before[0]), loss.scale * float(after[0]))


def _most_damaging(row: scores.Score, after: Array, hidden: int) -> Array:
    """The samples in which as bad an answer as can be costs most, to first order."""
    change = row.worst(after) - after
    if row.by_rank:
        damage = 1 / np.bincount(after[:, 1].astype(int))[after[:, 1].astype(int)]
    else:
        sums, one = after.sum(axis=0), np.ones((1, 1))
        steps = 1e-3 * np.maximum(np.abs(sums), 1)
        slopes = [
            (row.value(one, (sums + step)[None]) - row.value(one, (sums - step)[None]))[0] for step in np.diag(steps)
        ]
        damage = (-1 if row.higher else 1) * change @ (np.nan_to_num(np.array(slopes)) / (2 * steps))
    return np.asarray(np.argsort(-damage, kind="stable")[:hidden])


def _cells(*columns: Array) -> tuple[Array, Array, Array]:
    """Distinct rows of several columns [n]: the rows [columns, cells], each sample's cell [n], counts [cells]."""
    cells, cell_of, counts = np.unique(np.stack(columns), axis=1, return_inverse=True, return_counts=True)
    return cells, cell_of.reshape(-1), counts


def balanced_accuracy(counts: Array, label: Array, answer: Array) -> Array:
    """Mean recall over the classes that have samples; counts [r, cells] -> share [r]."""
    right, there, _ = _by_class(counts, label, answer)
    return _mean(right, there, there)


def macro_f1(counts: Array, label: Array, answer: Array) -> Array:
    """Mean F1, 2 TP / (samples + answers), over the classes that have samples; counts [r, cells] -> share [r]."""
    right, there, answered = _by_class(counts, label, answer)
    return _mean(2 * right, there + answered, there)


def _by_class(counts: Array, label: Array, answer: Array) -> tuple[Array, Array, Array]:
    """Right answers, samples and answers of each class that some sample has, each [r, classes]."""
    classes = np.unique(label)
    of_label, of_answer = label[:, None] == classes, answer[:, None] == classes
    numbers = counts.astype(np.float64)
    sums = (of_label & of_answer, of_label, of_answer)
    right, there, answered = (numbers @ column.astype(np.float64) for column in sums)
    return right, there, answered


def _mean(above: Array, below: Array, there: Array) -> Array:
    """Mean of above / below over the classes that are there; a draw without any sample cannot be."""
    shares = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
    return np.asarray((shares * (there > 0)).sum(axis=1) / (there > 0).sum(axis=1))


def _groups(samples: Samples) -> Array | None:
    """Each sample's group, 0, 1, ... where there are enough to be drawn; else None."""
    if samples.groups is None:
        return None
    names, group_of = np.unique(samples.groups, return_inverse=True)
    return group_of.reshape(-1) if len(names) >= ENOUGH_GROUPS else None


def _says(samples: Samples, group_of: Array | None) -> str:
    if group_of is not None:
        return f"paired BCa bootstrap over {group_of.max() + 1} groups"
    return f"paired BCa bootstrap over {samples.n:,} samples{_condition(samples)}"


def _condition(samples: Samples) -> str:
    return "" if samples.groups is None else f"; conditional on these {len(np.unique(samples.groups))} groups"
