"""AdaRound: which neighbour each weight is rounded to, by gradient: the slow rival of calibration.weights.rounded.

Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training Quantization" (arXiv:2004.10568), eq. 20 to 25: each
weight has a variable V, its code is floor(w / s) + h(V) with the rectified sigmoid h, and a penalty drives h to 0 or 1.
The layer's squared error is the expected one, e' S e, by the second moments S of its inputs, in place of batches.
"""

from __future__ import annotations

import numpy as np
import torch

from calibration.qparams import Float64
from calibration.weights import DAMPING, LARGEST_CODE, Codes, nearest, scales

STEPS, RATE = 1000, 0.1
STRETCH = 1.1, -0.1  # zeta and gamma of the rectified sigmoid
PENALTY = 0.2
SHARPNESS = 20.0, 2.0  # beta, from first to last; the first fifth of the steps goes without a penalty


def rounded(weight: np.ndarray, second: Float64, largest: int = LARGEST_CODE, steps: int = STEPS) -> Codes:
    """Codes whose error e has a small e' S e: int8, same shape; no channel worse than `nearest` by it.

    `weight` [out, K...], `second` [groups, K, K] and `largest` as in calibration.weights.rounded.
    """
    groups, inputs = second.shape[:2]
    array = np.asarray(weight, np.float32)
    plain = nearest(array, largest).astype(np.float64).reshape(groups, -1, inputs)
    exact = torch.from_numpy((array.reshape(len(array), -1) / scales(array, largest)[:, None]).reshape(plain.shape))
    size = np.maximum(np.diagonal(second, axis1=1, axis2=2).mean(axis=1), 1e-30)[:, None, None]
    moments = torch.from_numpy((second / size + DAMPING * np.eye(inputs)).astype(np.float32))
    floor = exact.floor()
    free = torch.from_numpy(np.abs(plain) < largest) & (floor >= 1 - largest) & (floor + 1 < largest)
    zeta, gamma = STRETCH
    start = ((exact - floor - gamma) / (zeta - gamma)).clamp(1e-4, 1 - 1e-4)
    variable = torch.log(start / (1 - start)).requires_grad_()
    fixed = torch.from_numpy(plain.astype(np.float32))
    optimizer = torch.optim.Adam([variable], RATE)
    for step in range(steps):
        up = (torch.sigmoid(variable) * (zeta - gamma) + gamma).clamp(0, 1)
        error = torch.where(free, floor + up, fixed) - exact
        loss = (torch.matmul(error, moments) * error).sum(dim=2).mean()
        done = step / steps
        if done >= 0.2:
            first, last = SHARPNESS
            sharp = last + (first - last) * 0.5 * (1 + np.cos(np.pi * (done - 0.2) / 0.8))
            penalty = (1 - (2 * up - 1).abs().pow(sharp)) * free
            loss = loss + PENALTY * penalty.sum(dim=2).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        learned = torch.where(free, floor + (variable >= 0), fixed).double().numpy()
    target = exact.double().numpy()
    cost = [np.sum(np.matmul(codes - target, second) * (codes - target), axis=2) for codes in (learned, plain)]
    return np.where((cost[0] < cost[1])[:, :, None], learned, plain).reshape(array.shape).astype(np.int8)
