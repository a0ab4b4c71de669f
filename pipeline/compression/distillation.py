"""What a student learns from: the labels and the teacher's softened answers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline import interface, tasks


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


def match(task: tasks.Task, student: Any, teacher: Any, index: Any, targets: Tensor, alpha: float) -> Tensor:
    """alpha * the task's loss + (1 - alpha) * the squared error to the teacher's outputs: where there are no classes.

    `student`: the outputs for a batch; `teacher`: those for all samples, of which `index` are the batch. Every output
    of real numbers counts alike.
    """
    taught = interface.by_name(teacher)
    pairs = [(values.float(), taught[name][index]) for name, values in interface.by_name(student).items()]
    errors = [F.mse_loss(values, wanted) for values, wanted in pairs if values.requires_grad]
    return alpha * tasks.loss(task, student, targets) + (1 - alpha) * torch.stack(errors).mean()
