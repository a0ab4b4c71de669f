"""distill: a pruned model recovers, or a student of its own learns, from teachers or from the labels alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.stages import Job

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pipeline.data import Array


def run(job: Job) -> dict[str, Any]:
    """Inputs: model (the student), data, teacher (of an ensemble teacher0, teacher1, ...), perhaps answers. Files: a
    model folder.

    Settings: method ("distill", "finetune", or "auto": both from the same start, the better on the selection split
    stays), temperature, alpha, epochs, lr, batch_size, weight_decay; optional what else compression.learner.Schedule
    has, augment (as in `train`; the teacher is then asked anew for every batch), features (student's layer ->
    teacher's, for "distill") with feature_weight.
    Metadata: metric, loss (selection), epoch, epochs_run, params, macs, teacher_metric (of all teachers together),
    before_metric, teacher_agreement (share of the selection split where student and teachers name the same class; None
    where there are no classes), method (what was kept), tried [{method, metric, loss, epoch}]. Raises StageError when
    training diverges.
    """
    import torch

    from pipeline import models, tasks, user
    from pipeline.compression import distillation, learner, training
    from pipeline.compression.features import Match
    from pipeline.data import load_split
    from pipeline.interface import by_name
    from pipeline.stages import soft_labels

    settings, data = job.settings, job.inputs["data"]
    schedule, task = learner.schedule(settings), tasks.of(job.settings, job.user, job.inputs["data"])
    methods = ("distill", "finetune") if settings["method"] == "auto" else (settings["method"],)
    augment = settings.get("augment")
    change = user.resolve(augment, job.user["folder"]) if augment else None
    with training.deterministic(job.seed):
        teacher = soft_labels.teacher(job)
        before, _ = training.evaluate(models.load(job.user, job.inputs["model"]), load_split(data, "selection"), task)
        # Where training samples do not change, the frozen teacher answers each of them once.
        known = _known(job, teacher) if "distill" in methods and not change else {}
        selection = load_split(data, "selection")
        reached, _ = training.evaluate(teacher, selection, task, teaches=True)

        def respond(outputs: Any, labels: Tensor, index: Array, inputs: tuple[Tensor, ...]) -> Tensor:
            if change:
                with torch.no_grad():
                    taught = by_name(teacher(*inputs))
            else:
                taught = {name: values[index] for name, values in known.items()}
            if not task.classifies:
                return distillation.match(task, outputs, taught, labels, settings["alpha"])
            said = tasks.answer(task, outputs, labels)
            wanted = tasks.answer(tasks.teachers(task, taught), taught, labels)
            return distillation.loss(said, wanted, labels, settings["temperature"], settings["alpha"])

        def learn(outputs: Any, labels: Tensor, index: Array, inputs: tuple[Tensor, ...]) -> Tensor:
            return tasks.loss(task, outputs, labels)

        def match(outputs: Any, labels: Tensor, index: Array, inputs: tuple[Tensor, ...]) -> Tensor:
            assert features is not None
            return respond(outputs, labels, index, inputs) + float(settings["feature_weight"]) * features.loss(inputs)

        tried = []
        pairs = settings.get("features") or {}
        for turn, method in enumerate(methods, start=1):
            student = models.load(job.user, job.inputs["model"])
            torch.manual_seed(job.seed)  # the same dropout for both
            features = None
            if method == "distill" and pairs:
                example = training.tensors(load_split(data, "train").inputs, slice(0, 2))
                features = Match(student, _one(teacher), pairs, example)
            fit = training.fit(
                student,
                data,
                schedule,
                learn if method == "finetune" else (match if features else respond),
                job.seed,
                job.emit,
                "distill",
                change,
                turn=(turn, len(methods)),
                zeros=models.zeros_of(job.inputs["model"]),
                beside=list(features.adapters.parameters()) if features else (),
                task=task,
                scratch=job.scratch,
            )
            if features:
                features.close()
            tried.append((method, fit, student))
        method, fit, student = max(tried, key=lambda one: (one[1].metric, -one[1].loss))
        models.save(student, models.edits_of(job.inputs["model"]), job.out, *models.kept_of(job.inputs["model"]))
        said, taught = (by_name(training.predict(model, selection)) for model in (student, teacher))
        return {
            **training.facts(student, data, fit, task),
            "method": method,
            "teacher_metric": tasks.figure(task, reached),
            "before_metric": tasks.figure(task, before),
            "teacher_agreement": distillation.agreement(
                tasks.answer(task, said, selection.labels),
                tasks.answer(tasks.teachers(task, taught), taught, selection.labels),
            )
            if task.classifies
            else None,
            "tried": [
                {
                    "method": name,
                    "metric": tasks.figure(task, one.metric),
                    "loss": round(one.loss, 6),
                    "epoch": one.epoch,
                }
                for name, one, _ in tried
            ],
        }


def _known(job: Job, teacher: nn.Module) -> dict[str, Tensor]:
    """What the teacher says of every training sample: from the stage `answers`, or asked now."""
    import torch

    from pipeline.compression import training
    from pipeline.data import load_named, load_split
    from pipeline.interface import by_name
    from pipeline.stages import soft_labels

    if "soft_labels" in job.inputs:
        said = load_named(job.inputs["soft_labels"] / soft_labels.FILE)
        return {name: torch.from_numpy(values) for name, values in said.items()}
    return by_name(training.predict(teacher, load_split(job.inputs["data"], "train")))


def _one(teacher: nn.Module) -> nn.Module:
    """Whose layers are matched: of several teachers the first."""
    from pipeline.compression.distillation import Ensemble

    return teacher.teachers[0] if isinstance(teacher, Ensemble) else teacher
