"""What a student learns from: the labels and the teacher's softened answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline import interface, tasks
from pipeline.errors import UsageError


def loss(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, alpha: float) -> Tensor:
    """alpha * CE(labels, student) + (1 - alpha) * T^2 * KL(softmax(teacher / T) || softmax(student / T)).

    Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network". `student`, `teacher`: logits
    [n, classes]; `labels`: int64 [n]. T^2 keeps the size of the soft term's gradients when T changes. Mean over n.
    """
    hard = F.cross_entropy(student, labels)
    soft = F.kl_div(
        F.log_softmax(student / temperature, dim=1),
        F.log_softmax(teacher / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return alpha * hard + (1 - alpha) * temperature**2 * soft


class Ensemble(nn.Module):
    """Several teachers as one: logits whose softmax at `temperature` is the mean of theirs; other outputs averaged.

    Hinton, Vinyals, Dean 2015 distil an ensemble by the mean of its softened answers.
    """

    def __init__(self, teachers: Sequence[nn.Module], temperature: float) -> None:
        super().__init__()
        self.teachers, self.temperature = nn.ModuleList(teachers), temperature

    def forward(self, *inputs: Tensor) -> interface.Outputs:
        """One answer, in the shape of a teacher's. Raises UsageError where theirs differ in shape."""
        answers = [interface.by_name(teacher(*inputs)) for teacher in self.teachers]
        shapes = [{name: list(values.shape[1:]) for name, values in answer.items()} for answer in answers]
        if any(one != shapes[0] for one in shapes):
            raise UsageError(f"distill.teachers: their outputs differ, {shapes}: all must answer alike")
        together = {name: self._mean([answer[name] for answer in answers]) for name in answers[0]}
        return together if len(together) > 1 else next(iter(together.values()))

    def _mean(self, answers: list[Tensor]) -> Tensor:
        if answers[0].ndim != 2:
            return torch.stack(answers).mean(0)
        soft = torch.stack([F.log_softmax(one.float() / self.temperature, dim=1) for one in answers])
        return self.temperature * (soft.logsumexp(0) - math.log(len(answers)))


def agreement(student: Tensor, teacher: Tensor) -> float:
    """Share of samples where both name the same class, from logits [n, classes]."""
    same = student.argmax(1) == teacher.argmax(1)
    return round(float(same.float().mean()), 6)


def match(task: tasks.Task, student: Any, teacher: Any, targets: Tensor, alpha: float) -> Tensor:
    """alpha * the task's loss + (1 - alpha) * the squared error to the teacher's outputs: where there are no classes.

    `student`, `teacher`: their outputs for a batch. Every output of real numbers counts alike.
    """
    taught = interface.by_name(teacher)
    pairs = [(values.float(), taught[name]) for name, values in interface.by_name(student).items()]
    errors = [F.mse_loss(values, wanted) for values, wanted in pairs if values.requires_grad]
    return alpha * tasks.loss(task, student, targets) + (1 - alpha) * torch.stack(errors).mean()
