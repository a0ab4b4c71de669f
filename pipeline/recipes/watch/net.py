"""A small 1-D convolutional network for windows of a 6-axis motion sensor."""

from torch import Tensor, nn


class WatchNet(nn.Module):
    """Input float32 [n, 6, 100] (2 s at 50 Hz, standardised); output logits [n, 7].

    No padding: a pad becomes an operator of its own on some runtimes, and the window's edges carry nothing special.
    """

    def __init__(self, widths: tuple[int, ...] = (48, 64, 64, 80)) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for i, (before, after) in enumerate(zip((6, *widths), widths, strict=False)):
            blocks += [
                nn.Conv1d(before, after, kernel_size=5, stride=1 if i == 0 else 2, bias=False),
                nn.BatchNorm1d(after),
                nn.ReLU(),
            ]
        self.features = nn.Sequential(*blocks)
        self.head = nn.Linear(widths[-1], 7)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, from the mean of the features over time."""
        logits: Tensor = self.head(self.features(x).mean(dim=2))
        return logits


def build() -> nn.Module:
    """The float model, with fresh weights."""
    return WatchNet()
