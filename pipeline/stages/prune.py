"""prune: the least important goes; whole channels until a MACs budget is met, or single weights to a share of zeros."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.errors import StageError, UsageError
from pipeline.stages import Job

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from pipeline.compression.schedules import Plan
    from pipeline.compression.structure import Group


def run(job: Job) -> dict[str, Any]:
    """Inputs: model, float (the original, whose MACs the budget is a share of), data. Files: a model folder.

    Settings: granularity (keys of compression.units.KINDS; ["weight"] and ["n:m"] are in `_weights`, ["layer"] is in
    `prune_layers`), macs (share of the original's MACs to leave, 0..1), criterion (a key of
    compression.criteria.CRITERIA), align; optional schedule ("uniform"), samples (256, of the training split, drawn by
    the seed), rescore (0), groups (group -> share to keep, for the schedule "groups", which knows no budget). Metadata:
    metric and loss right after pruning (selection), params, macs, float_macs, budget_macs, macs_share, rounds (of
    scoring); layers [{name, before, after}] (units), kept [{name, width, reason}] for every group that stays whole.
    Raises UsageError when the budget cannot be met, a group is unknown, or the model cannot be traced.
    """
    from pipeline import models, tasks
    from pipeline.compression import macs, structure, training, units, widths
    from pipeline.compression.criteria import CRITERIA
    from pipeline.data import load_split
    from pipeline.stages import prune_layers

    kinds = job.settings.get("granularity", ["channel"])
    if kinds == ["layer"]:
        return prune_layers.run(job)
    if not set(kinds) <= set(units.KINDS):
        return _weights(job)
    share = float(job.settings["macs"])
    with training.deterministic(job.seed):
        # Two samples: enough to compare outputs, and a batch axis that cannot be mistaken for a size of 1.
        example = training.tensors(load_split(job.inputs["data"], "train").inputs, slice(0, 2))
        original = macs.count(models.load(job.user, job.inputs["float"]), example).macs
        model = models.load(job.user, job.inputs["model"])
        rebuilt = units.prepare(kinds, model, example)
        counted = macs.count(model, example)
        groups, kept = units.groups(kinds, model, example)
        cost = structure.cost(model, groups, counted.layers)
        sizes, budget = [group.width for group in groups], int(share * original)
        align, by_groups = int(job.settings["align"]), job.settings.get("schedule") == "groups"
        try:  # before any scoring: can the budget be met at all?
            leave = [] if by_groups else widths.solve(sizes, cost, budget, align)
        except ValueError as error:
            whole = "; ".join(f"'{one.name}': {one.reason}" for one in kept)
            raise UsageError(f"prune.macs = {share:g} cannot be met: {error}. These stay whole: {whole}") from error
        planned = _plan(job, model, groups, cost, budget)
        if by_groups:
            leave = [int(count) for count in planned.wanted]
            budget = cost(leave)
        else:
            leave = widths.solve(sizes, cost, budget, align, wanted=planned.wanted)
        gone = [order[: group.width - count] for group, order, count in zip(groups, planned.orders, leave, strict=True)]
        if update := CRITERIA[job.settings["criterion"]].update:
            update(_sight(job, model, groups), gone)
        edits = structure.edits_for(model, list(zip(groups, gone, strict=True)))
        structure.apply(model, edits)
        now = macs.count(model, example).macs
        if now != cost(leave):
            raise StageError(f"prune: the pruned model takes {now} MACs where {cost(leave)} were planned")
        steps = [*models.edits_of(job.inputs["model"]), *([rebuilt] if rebuilt else []), edits]
        models.save(model, steps, job.out, *models.kept_of(job.inputs["model"]))
        return {
            **training.facts(model, job.inputs["data"], task=tasks.of(job.settings, job.user)),
            "float_macs": original,
            "budget_macs": budget,
            "macs_share": round(now / original, 6),
            "rounds": planned.rounds,
            "layers": [
                {"name": group.name, "before": group.width, "after": count}
                for group, count in zip(groups, leave, strict=True)
            ],
            "kept": [{"name": one.name, "width": one.width, "reason": one.reason} for one in kept],
        }


def _plan(job: Job, model: nn.Module, groups: Sequence[Group], cost: Any, budget: int) -> Plan:
    from pipeline.compression import criteria, schedules

    name, schedule = job.settings["criterion"], job.settings.get("schedule", "uniform")

    def score(cut: nn.Module, left: Sequence[Group]) -> list[Tensor]:
        return criteria.score(name, _sight(job, cut, left))

    rescore = int(job.settings.get("rescore", 0))
    if schedule == "groups":
        try:
            kept = schedules.given(groups, job.settings["groups"], int(job.settings["align"]))
        except KeyError as error:
            names = ", ".join(group.name for group in groups)
            raise UsageError(f"prune.groups: no group {', '.join(error.args)} can be cut; there are {names}") from error
        orders = [values.argsort(stable=True).tolist() for values in score(model, groups)]
        return schedules.Plan([float(count) for count in kept], orders, 1)
    if name == "contribution" and schedule != "greedy" and not rescore:
        # A contribution holds for the network that it was measured in: it is measured again as units go.
        rescore = -(-sum(group.width for group in groups) // schedules.CONTRIBUTION_ROUNDS)

    def progress(done: int, total: int) -> None:
        job.emit({"event": "progress", "done": done, "total": total})

    return schedules.plan(model, groups, cost, budget, score, schedule, rescore, progress)


def _sight(job: Job, model: nn.Module, groups: Sequence[Group]) -> Any:
    """What the criterion sees: `samples` of the training split, the same for every scoring."""
    from pipeline import tasks
    from pipeline.compression import training
    from pipeline.compression.sight import Sight
    from pipeline.data import load_split

    drawn = training.drawn(load_split(job.inputs["data"], "train"), int(job.settings.get("samples", 256)), job.seed)
    return Sight(model, groups, *drawn, job.seed, tasks.of(job.settings, job.user))


def _weights(job: Job) -> dict[str, Any]:
    """Single weights become zero; the network keeps its shape.

    Settings: granularity ("weight" or "n:m"), criterion (a key of compression.masks.SCORES), samples; for "weight"
    sparsity (share of zeros) with schedule "uniform" (of each tensor) or "global" (of all), or threshold (on the score)
    in its place; for "n:m" pattern ("2:4"). Metadata: metric, loss, params, macs, zeros (share), layers [{name, before,
    after}] (weights that are not zero). Raises UsageError for a criterion that has no score for a single weight and for
    a tensor that would lose all of its weights.
    """
    from pipeline import models, tasks
    from pipeline.compression import masks, training

    settings = job.settings
    name = settings["criterion"]
    if name not in masks.SCORES:
        raise UsageError(
            f"prune.criterion = '{name}' has no score for a single weight: take one of {', '.join(masks.SCORES)}, or "
            'granularity = "channel"'
        )
    with training.deterministic(job.seed):
        model = models.load(job.user, job.inputs["model"])
        before = {key: int(weight.count_nonzero()) for key, weight in masks.prunable(model).items()}
        scores = masks.SCORES[name](_sight(job, model, []))
        if bad := [key for key, values in scores.items() if not bool(values.isfinite().all())]:
            raise StageError(f"prune: criterion '{name}' is not finite for '{bad[0]}': look at the model's weights")
        if "n:m" in settings["granularity"]:
            keep, of = map(int, settings["pattern"].split(":"))
            gone = masks.pattern(scores, keep, of)
        elif settings.get("threshold") is not None:
            gone = masks.below(scores, settings["threshold"])
        else:
            gone = masks.lowest(scores, settings["sparsity"], settings.get("schedule") == "global")
        if empty := [key for key, where in gone.items() if bool(where.all())]:
            raise UsageError(f"prune: '{empty[0]}' would lose all of its weights: lower prune.sparsity or .threshold")
        masks.bake(model, gone)
        after = {key: int(weight.count_nonzero()) for key, weight in masks.prunable(model).items()}
        models.save(
            model, models.edits_of(job.inputs["model"]), job.out, sorted(after), models.factory_of(job.inputs["model"])
        )
        return {
            **training.facts(model, job.inputs["data"], task=tasks.of(job.settings, job.user)),
            "zeros": round(
                1 - sum(after.values()) / sum(weight.numel() for weight in masks.prunable(model).values()), 6
            ),
            "layers": [{"name": key, "before": before[key], "after": count} for key, count in after.items()],
        }
