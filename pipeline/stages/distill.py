"""distill: a pruned model recovers, or a student of its own learns, from teachers or from the labels alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.stages import Job

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.data import Array


def run(job: Job) -> dict[str, Any]:
    """Inputs: model (the student), teacher, data; of an ensemble also teacher1, teacher2, ... Files: a model folder.

    Settings: method ("distill", "finetune", or "auto": both from the same start, the better on the selection split
    stays), temperature, alpha, epochs, lr, batch_size, weight_decay; optional patience (0), penalty, strength, ema
    (compression.training.Schedule), features (student's layer -> teacher's, for "distill") with feature_weight.
    Metadata: metric, loss (selection), epoch, epochs_run, params, macs, teacher_metric (of all teachers together),
    before_metric, teacher_agreement (share of the selection split where student and teachers name the same class; None
    where there are no classes), method (what was kept), tried [{method, metric, loss, epoch}]. Raises StageError when
    training diverges.
    """
    import torch

    from pipeline import models, tasks
    from pipeline.compression import distillation, training
    from pipeline.compression.features import Match
    from pipeline.data import load_split
    from pipeline.interface import first

    settings, data = job.settings, job.inputs["data"]
    schedule, task = training.schedule(settings), tasks.of(job.settings, job.user)
    methods = ("distill", "finetune") if settings["method"] == "auto" else (settings["method"],)
    with training.deterministic(job.seed):
        roles = sorted(role for role in job.inputs if role.startswith("teacher"))
        teachers = [models.load(job.user, job.inputs[role]) for role in roles]
        teacher = teachers[0] if len(teachers) == 1 else distillation.Ensemble(teachers, settings["temperature"])
        before, _ = training.evaluate(models.load(job.user, job.inputs["model"]), load_split(data, "selection"), task)
        # The training samples do not change, so the frozen teacher answers each of them once.
        answers = training.predict(teacher, load_split(data, "train")) if "distill" in methods else torch.empty(0)
        selection = load_split(data, "selection")
        taught, _ = training.evaluate(teacher, selection, task)

        def respond(outputs: Any, labels: Tensor, index: Array, inputs: tuple[Tensor, ...]) -> Tensor:
            if not task.classifies:
                return distillation.match(task, outputs, answers, index, labels, settings["alpha"])
            logits, wanted = first(outputs), first(answers)[index]
            return distillation.loss(logits, wanted, labels, settings["temperature"], settings["alpha"])

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
                features = Match(student, teachers[0], pairs, example)
            fit = training.fit(
                student,
                data,
                schedule,
                learn if method == "finetune" else (match if features else respond),
                job.seed,
                job.emit,
                "distill",
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
        return {
            **training.facts(student, data, fit, task),
            "method": method,
            "teacher_metric": taught,
            "before_metric": before,
            "teacher_agreement": distillation.agreement(
                training.predict(student, selection), training.predict(teacher, selection)
            )
            if task.classifies
            else None,
            "tried": [
                {"method": name, "metric": one.metric, "loss": round(one.loss, 6), "epoch": one.epoch}
                for name, one, _ in tried
            ],
        }
