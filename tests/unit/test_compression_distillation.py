"""The distillation loss against the formula written out in NumPy, and its gradient against the closed form."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.compression.distillation import loss

LOGITS = arrays(np.float64, (5, 4), elements=st.floats(-20, 20))
LABELS = arrays(np.int64, 5, elements=st.integers(0, 3))


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@given(LOGITS, LOGITS, LABELS, st.floats(0.5, 10), st.floats(0, 1))
@settings(deadline=None)
def test_value_and_gradient(student, teacher, labels, temperature, alpha):
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    with np.errstate(divide="ignore", invalid="ignore"):
        kl = np.where(p > 0, p * (np.log(p) - np.log(q)), 0).sum(axis=1)
    ce = -np.log(softmax(student)[np.arange(5), labels])
    expected = alpha * ce.mean() + (1 - alpha) * temperature**2 * kl.mean()
    onehot = np.eye(4)[labels]
    gradient = (alpha * (softmax(student) - onehot) + (1 - alpha) * temperature * (q - p)) / 5

    x = torch.tensor(student, requires_grad=True)
    value = loss(x, torch.tensor(teacher), torch.tensor(labels), temperature, alpha)
    value.backward()
    np.testing.assert_allclose(value.item(), expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(x.grad.numpy(), gradient, rtol=1e-7, atol=1e-9)


def test_a_student_that_equals_its_teacher_has_only_the_label_term():
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    assert loss(logits, logits, labels, 4.0, 0.0).abs().item() < 1e-6
    torch.testing.assert_close(
        loss(logits, logits, labels, 4.0, 1.0), torch.nn.functional.cross_entropy(logits, labels)
    )
