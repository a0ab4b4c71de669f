"""Metrics beside top-1, from per-sample evidence: their drop against the float model, with one-sided bounds.

Metrics that are right or wrong for each sample (top-k) get the paired score bound. Balanced accuracy and macro F1 are
functions of counts over (label, float class, deployed class): they get a paired BCa bootstrap, by group where the
split has enough of them, else by sample and conditional on the groups that are there.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.release.bootstrap import bca
from pipeline.release.evidence import Metric
from pipeline.release.samples import Samples
from pipeline.release.statistics import tango_lower, tango_upper

Array = npt.NDArray[Any]
ENOUGH_GROUPS = 20  # below it, groups drawn with replacement say little about groups that were not drawn
ENOUGH_CHANGES = 10  # samples with another answer, below which resampling cannot see the tail


def measure(name: str, samples: Samples, confidence: float) -> Metric:
    """One metric of the policy, in points. Never raises for a known name: what cannot be had says why."""
    if name.startswith("top"):
        return _top(int(name[3:]), samples, confidence)
    if not ((samples.deployed_class < samples.classes).all() and (samples.labels < samples.classes).all()):
        return Metric(None, None, None, "classes beyond the model's outputs")
    return _counted(name, samples, confidence)


def _top(k: int, samples: Samples, confidence: float) -> Metric:
    if k >= samples.classes:
        return Metric(None, None, None, f"top{k} is always right with {samples.classes} classes")
    before, after = samples.float_rank < k, samples.deployed_rank < k
    lost, gained, n = int((before & ~after).sum()), int((after & ~before).sum()), len(before)
    bounds = tango_lower(lost, gained, n, confidence), tango_upper(lost, gained, n, confidence)
    method = f"paired score bound, lost {lost:,}, gained {gained:,} of {n:,}{_condition(samples)}"
    return Metric(100 * (lost - gained) / n, 100 * bounds[0], 100 * bounds[1], method)


def _counted(name: str, samples: Samples, confidence: float) -> Metric:
    """Balanced accuracy or macro F1 by a bootstrap of counts."""
    cells, cell_of, counts = _cells(samples.labels, samples.float_class, samples.deployed_class)
    groups = None if samples.groups is None else np.unique(samples.groups, return_inverse=True)
    if groups is not None and len(groups[0]) >= ENOUGH_GROUPS:
        units = np.zeros((len(groups[0]), cells.shape[1]), np.int64)
        np.add.at(units, (groups[1].reshape(-1), cell_of), 1)
        times = np.ones(len(units), np.int64)
        method = f"paired BCa bootstrap over {len(units)} groups"
    else:
        units, times = np.eye(cells.shape[1], dtype=np.int64), counts
        method = f"paired BCa bootstrap over {len(cell_of):,} samples{_condition(samples)}"
    low, high = bca(units, times, lambda drawn: _drop(name, drawn, cells), confidence)
    changed = int((samples.float_class != samples.deployed_class).sum())
    if changed < ENOUGH_CHANGES:
        high, low = max(high, _worst(name, samples, changed, confidence)), -100.0
        method += f"; only {changed} answers changed, so the bound is that of the worst place for more"
    return Metric(float(_drop(name, counts[None], cells)[0]), low, high, method)


def _cells(*columns: Array) -> tuple[Array, Array, Array]:
    """Distinct rows of several columns [n]: the rows [columns, cells], each sample's cell [n], counts [cells]."""
    cells, cell_of, counts = np.unique(np.stack(columns), axis=1, return_inverse=True, return_counts=True)
    return cells, cell_of.reshape(-1), counts


def _worst(name: str, samples: Samples, changed: int, confidence: float) -> float:
    """The drop if as many more samples were lost as chance could have hidden, in the rarest classes."""
    n = len(samples.labels)
    hidden = math.ceil(n * tango_upper(changed, 0, n, confidence)) - changed
    deployed = samples.deployed_class.copy()
    right = np.flatnonzero((samples.float_class == samples.labels) & (deployed == samples.labels))
    sizes = np.bincount(samples.labels)[samples.labels[right]]
    rarest = right[np.argsort(sizes, kind="stable")][:hidden]
    deployed[rarest] = (samples.labels[rarest] + 1) % samples.classes
    cells, _, counts = _cells(samples.labels, samples.float_class, deployed)
    return float(_drop(name, counts[None], cells)[0])


def _drop(name: str, counts: Array, cells: Array) -> Array:
    """Points lost: counts [r, cells] over (label, float class, deployed class) -> [r]."""
    score = balanced_accuracy if name == "balanced_accuracy" else macro_f1
    label, before, after = cells
    return 100.0 * (score(counts, label, before) - score(counts, label, after))


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


def _condition(samples: Samples) -> str:
    return "" if samples.groups is None else f"; conditional on these {len(np.unique(samples.groups))} groups"
