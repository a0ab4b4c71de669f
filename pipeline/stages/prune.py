"""prune: whole channels taken out, in one shot, until the network meets its MACs budget."""

from __future__ import annotations

from typing import Any

from pipeline.errors import StageError, UsageError
from pipeline.stages import Job


def run(job: Job) -> dict[str, Any]:
    """Inputs: model, float (the original, whose MACs the budget is a share of), data. Files: a model folder.

    Settings: macs (share of the original's MACs to leave, 0..1), criterion ("l1" or "l2"), align. Metadata: metric and
    loss right after pruning (selection), params, macs, float_macs, budget_macs, macs_share; layers [{name, before,
    after}] (channels), kept [{name, width, reason}] for every group that stays whole. Raises UsageError when the budget
    cannot be met or the model cannot be traced.
    """
    from pipeline import models
    from pipeline.compression import importance, macs, structure, training, widths
    from pipeline.data import load_split

    share = float(job.settings["macs"])
    with training.deterministic(job.seed):
        # Two samples: enough to compare outputs, and a batch axis that cannot be mistaken for a size of 1.
        example = training.tensors(load_split(job.inputs["data"], "train").inputs, slice(0, 2))
        original = macs.count(models.load(job.user, job.inputs["float"]), example).macs
        model = models.load(job.user, job.inputs["model"])
        counted = macs.count(model, example)
        groups, kept = structure.groups(model, example)
        cost = structure.cost(model, groups, counted.layers)
        sizes, budget = [group.width for group in groups], int(share * original)
        try:
            leave = widths.solve(sizes, cost, budget, int(job.settings["align"]))
        except ValueError as error:
            whole = "; ".join(f"'{one.name}': {one.reason}" for one in kept)
            raise UsageError(f"prune.macs = {share:g} cannot be met: {error}. These stay whole: {whole}") from error
        removed = []
        for group, count in zip(groups, leave, strict=True):
            order = importance.magnitude(model, group, job.settings["criterion"]).argsort(stable=True).tolist()
            removed.append((group, order[: group.width - count]))
        edits = structure.edits_for(model, removed)
        structure.apply(model, edits)
        now = macs.count(model, example).macs
        if now != cost(leave):
            raise StageError(f"prune: the pruned model takes {now} MACs where {cost(leave)} were planned")
        models.save(model, [*models.edits_of(job.inputs["model"]), edits], job.out)
        return {
            **training.facts(model, job.inputs["data"]),
            "float_macs": original,
            "budget_macs": budget,
            "macs_share": round(now / original, 6),
            "layers": [
                {"name": group.name, "before": group.width, "after": count}
                for group, count in zip(groups, leave, strict=True)
            ],
            "kept": [{"name": one.name, "width": one.width, "reason": one.reason} for one in kept],
        }
