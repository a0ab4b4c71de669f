"""What each layer can spare: its units taken out, the rest of the network whole, and the metric measured again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.compression import blocks, masks, structure
from pipeline.compression.copies import copied
from pipeline.compression.criteria import score
from pipeline.compression.sight import Sight

Judge = Callable[[nn.Module], float]
Row = dict[str, Any]  # {"name", "width", "points": [{"ratio", "kept", "metric"}]}


def of_groups(sight: Sight, criterion: str, ratios: Sequence[float], judge: Judge) -> Iterator[Row]:
    """A row for each group of the sight: at each ratio that share of its units goes, the least important first."""
    for group, values in zip(sight.groups, score(criterion, sight), strict=True):
        order = values.argsort(stable=True).tolist()
        points = []
        for ratio in ratios:
            gone = order[: min(group.width - 1, round(ratio * group.width))]
            cut = copied(sight.model)
            structure.apply(cut, structure.edits_for(cut, [(group, gone)]))
            points.append({"ratio": ratio, "kept": group.width - len(gone), "metric": judge(cut)})
        yield {"name": group.name, "width": group.width, "points": points}


def of_weights(sight: Sight, criterion: str, ratios: Sequence[float], judge: Judge) -> Iterator[Row]:
    """A row for each tensor of weights: at each ratio that share of it is zero."""
    scores = masks.SCORES[criterion](sight)
    for name, values in scores.items():
        points = []
        for ratio in ratios:
            cut = copied(sight.model)
            gone = masks.lowest({name: values}, ratio, everywhere=False)
            masks.bake(cut, gone)
            points.append({"ratio": ratio, "kept": values.numel() - int(gone[name].sum()), "metric": judge(cut)})
        yield {"name": name, "width": values.numel(), "points": points}


def of_layers(sight: Sight, example: Sequence[Tensor], judge: Judge) -> Iterator[Row]:
    """A row for each residual block: without it."""
    with torch.no_grad():
        found, _ = blocks.find(sight.model, example)
    for name in found:
        cut = copied(sight.model)
        structure.apply(cut, blocks.edits_for([name]))
        yield {"name": name, "width": 1, "points": [{"ratio": 1.0, "kept": 0, "metric": judge(cut)}]}
