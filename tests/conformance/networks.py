"""Small networks, one idea each. Seeded, with batch norms that have seen data, so that folding them matters.

Heights and widths differ, so that a swapped layout cannot pass unseen.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 5


class Residual(nn.Module):
    """x + f(x): both inputs of the addition are activations."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


def conv2d(before: int, after: int, size: int = 3, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(before, after, size, stride, size // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(after)]


def head(width: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES)]


def conv_bn_relu() -> nn.Module:
    layers = [*conv2d(3, 16), nn.ReLU(), *conv2d(16, 32, stride=2), nn.ReLU(), *head(32)]
    return seeded(layers, (3, 12, 10), 0)


def depthwise() -> nn.Module:
    separable = [*conv2d(32, 32, groups=32), nn.ReLU6(), *conv2d(32, 96, size=1), nn.ReLU6()]
    return seeded([*conv2d(3, 32, size=5, stride=2), nn.ReLU6(), *separable, *head(96)], (3, 12, 10), 1)


def residual() -> nn.Module:
    body = nn.Sequential(*conv2d(16, 16), nn.ReLU(), *conv2d(16, 16))
    return seeded([*conv2d(3, 16), nn.ReLU(), Residual(body), *head(16)], (3, 12, 10), 2)


def linear() -> nn.Module:
    layers = [nn.Linear(24, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, CLASSES)]
    return seeded(layers, (24,), 3)


def conv1d() -> nn.Module:
    features = [nn.Conv1d(6, 16, 5, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.MaxPool1d(2)]
    features += [nn.Conv1d(16, 48, 3, bias=False), nn.BatchNorm1d(48), nn.ReLU()]
    return seeded([*features, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(48, CLASSES)], (6, 32), 4)


# Name -> (factory, shape of one sample). The inputs are called "input", the logits "output".
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv_bn_relu": (conv_bn_relu, (3, 12, 10)),
    "depthwise": (depthwise, (3, 12, 10)),
    "residual": (residual, (3, 12, 10)),
    "linear": (linear, (24,)),
    "conv1d": (conv1d, (6, 32)),
}


def seeded(layers: list[nn.Module], shape: tuple[int, ...], seed: int) -> nn.Module:
    """The layers in order, with weights from the seed, in eval mode."""
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(*layers)
        for module in model.modules():  # the layers were made before the seed was set
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.5, 0.5)
        with torch.no_grad():
            for _ in range(8):
                model(torch.randn(32, *shape))
    return model.eval()


class Moves(nn.Module):
    """Convolutions between ops that only move numbers, and outputs whose int8 scale some kernels prescribe."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.loud, self.soft = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.last, self.head = nn.Conv2d(16, 8, 3), nn.Linear(160, CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = functional.max_pool2d(torch.relu(self.first(x)), 2)
        h = torch.cat([3 * self.loud(h), torch.relu(self.soft(h))], 1)
        h = functional.pad(torch.relu(self.last(h)), (1, 0, 0, 1))
        h = self.head(h.transpose(1, 2).flatten(1))
        return h.softmax(-1), torch.sigmoid(h)


def moves() -> nn.Module:
    """No member of NETWORKS: its outputs are no logits."""
    return seeded([Moves()], (3, 12, 10), 5)


class Ends(nn.Module):
    """Outputs of every kind: scores beside pixels, an inner tensor, one output twice, an input, an index."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.boxes, self.scores = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        inside = torch.relu(self.body(x))
        rows = []
        for scale in (inside, functional.max_pool2d(inside, 2)):
            scores = (self.scores(scale).flatten(2) * 2 - 3).sigmoid()
            rows.append(torch.cat([self.boxes(scale).flatten(2).sigmoid() * 640, scores], 1))
        logits = self.head(inside.mean((2, 3)))
        return {
            "rows": torch.cat(rows, 2).transpose(1, 2),
            "logits": logits,
            "same": logits,
            "inside": inside,
            "echo": x,
            "top": logits.argmax(1),
        }


def ends() -> nn.Module:
    """No member of NETWORKS: its outputs are no logits."""
    return seeded([Ends()], (3, 12, 10), 6)
