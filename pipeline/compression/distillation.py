"""What a student learns from: the labels and the teacher's softened answers."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


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
