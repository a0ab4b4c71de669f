"""Pruned must equal zeroed; what cannot be pruned so must stay whole and be named."""

import copy

import pytest
import torch
from torch import Tensor, nn

from pipeline.compression import channels, importance, macs, structure, widths
from pipeline.errors import UsageError


class Chain(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.na = nn.Conv2d(3, 24, 3, bias=False), nn.BatchNorm2d(24)
        self.b, self.act = nn.Conv2d(24, 32, 3, stride=2), nn.PReLU(32)
        self.head = nn.Linear(32 * 6 * 6, 5)

    def forward(self, x):
        return self.head(self.act(self.b(torch.relu(self.na(self.a(x))))).flatten(1))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv1d(4, 16, 3, padding=1), nn.BatchNorm1d(16)
        self.inner, self.outer = nn.Conv1d(16, 40, 3, padding=1), nn.Conv1d(40, 16, 1)
        self.last, self.head = nn.Conv1d(16, 32, 3), nn.Linear(32, 5)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        return self.head(self.last(x + self.outer(torch.relu(self.inner(x)))).mean(2))


class Depthwise(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.deep, self.norm = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, groups=16), nn.BatchNorm2d(16)
        self.point, self.head = nn.Conv2d(16, 48, 1), nn.Linear(48, 5)

    def forward(self, x):
        x = self.norm(self.deep(torch.relu(self.stem(x))))
        return self.head(torch.relu(self.point(x)).mean((2, 3)))


class Concat(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.norm = nn.Conv1d(4, 16, 1), nn.Conv1d(4, 24, 3, padding=1), nn.BatchNorm1d(40)
        self.c, self.head = nn.Conv1d(40, 32, 3), nn.Linear(32, 5)

    def forward(self, x):
        both = torch.relu(self.norm(torch.cat([self.a(x), self.b(x)], 1)))
        return self.head(self.c(both).amax(2))


class Transposed(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv1d(4, 16, 4, stride=2), nn.ConvTranspose1d(16, 24, 4, stride=2)
        self.norm, self.head = nn.BatchNorm1d(24), nn.Linear(24, 5)

    def forward(self, x):
        return self.head(self.norm(self.up(torch.relu(self.down(x)))).mean(2))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.gru = nn.Conv1d(4, 24, 3), nn.GRU(24, 12, batch_first=True)
        self.mid, self.lstm = nn.Linear(12, 24), nn.LSTM(24, 8, batch_first=True, bidirectional=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.mid(self.gru(torch.relu(self.a(x)).transpose(1, 2))[0])
        return self.head(self.lstm(torch.relu(x))[0][:, -1])


class Grouped(nn.Module):
    """ResNeXt's block, and one whose groups read as many channels as they make twice of."""

    def __init__(self):
        super().__init__()
        self.stem, self.a, self.na = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 24, 1), nn.BatchNorm2d(24)
        self.b, self.nb = nn.Conv2d(24, 24, 3, padding=1, groups=3), nn.BatchNorm2d(24)
        self.c, self.d, self.head = nn.Conv2d(24, 16, 1), nn.Conv2d(16, 32, 3, groups=2), nn.Linear(32, 5)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        y = torch.relu(self.nb(self.b(torch.relu(self.na(self.a(x))))))
        return self.head(torch.relu(self.d(x + self.c(y))).mean((2, 3)))


class Excited(nn.Module):
    """Squeeze and excitation, by convolutions as in MobileNetV3 and by linear layers as in the paper."""

    def __init__(self):
        super().__init__()
        self.a, self.na, self.b = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 24, 3)
        self.down, self.up = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 16, 1)
        self.less, self.more, self.head = nn.Linear(24, 6), nn.Linear(6, 24), nn.Linear(24, 5)

    def forward(self, x):
        x = nn.functional.hardswish(self.na(self.a(x)))
        x = x * nn.functional.hardsigmoid(self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True)))))
        x = torch.relu(self.b(x))
        scale = torch.sigmoid(self.more(torch.relu(self.less(x.mean((2, 3))))))
        return self.head((x * scale[:, :, None, None]).mean((2, 3)))


class Twice(nn.Module):
    """The same two layers run twice: shared weights."""

    def __init__(self):
        super().__init__()
        self.stem, self.inner, self.outer = nn.Conv1d(4, 16, 1), nn.Conv1d(16, 24, 3, padding=1), nn.Conv1d(24, 16, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        for _ in range(2):
            x = x + self.outer(torch.relu(self.inner(x)))
        return self.head(x.mean(2))


IMAGE, SIGNAL = (3, 16, 16), (4, 30)
NETS = {
    Chain: IMAGE, Residual: SIGNAL, Depthwise: IMAGE, Concat: SIGNAL, Transposed: SIGNAL, Recurrent: SIGNAL,
    Grouped: IMAGE, Excited: IMAGE, Twice: SIGNAL,
}  # fmt: skip


def made(kind, shape):
    torch.manual_seed(0)
    model = kind()
    x = torch.randn(6, *shape)
    model.train()(x)  # so that running statistics are not the identity
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model.eval(), x


@pytest.mark.parametrize(("kind", "shape"), NETS.items(), ids=lambda v: getattr(v, "__name__", ""))
def test_pruned_equals_the_original_whose_consumers_ignore_the_channels(kind, shape):
    model, x = made(kind, shape)
    groups, _ = channels.groups(model, (x[:2],))
    generator = torch.Generator().manual_seed(1)
    removed = [(g, torch.randperm(g.width, generator=generator)[: g.width // 3].tolist()) for g in groups]
    edits = structure.edits_for(model, removed)
    cut = copy.deepcopy(model)
    structure.apply(cut, edits)

    # Independent reference: zero the read channels with forward pre-hooks on the original's consumers.
    for edit in edits:
        if edit["axis"] == "in":
            mask = torch.ones(edit["width"])
            mask[edit["removed"]] = 0
            reader = model.get_submodule(edit["module"])
            if getattr(reader, "groups", 1) > 1:  # a column of the weight is a channel of every group
                mask = mask.repeat(reader.groups)

            def hook(module: nn.Module, args: tuple[Tensor], mask: Tensor = mask) -> tuple[Tensor]:
                last = isinstance(module, (nn.RNNBase, nn.Linear))
                return (args[0] * (mask if last else mask.view(1, -1, *[1] * (args[0].ndim - 2))),)

            reader.register_forward_pre_hook(hook)
    with torch.no_grad():
        torch.testing.assert_close(cut(x), model(x), atol=1e-5, rtol=1e-5)
    assert sum(p.numel() for p in cut.parameters()) < sum(p.numel() for p in model.parameters())


def test_groups_hold_every_layer_that_falls_together():
    model, x = made(Residual, SIGNAL)
    groups, kept = channels.groups(model, (x[:2],))
    reach = {frozenset((m.module, m.axis) for m in group.members) for group in groups}
    assert frozenset({("inner", "out"), ("outer", "in")}) in reach
    stream = {("stem", "out"), ("norm", "through"), ("inner", "in"), ("outer", "out"), ("last", "in")}
    assert frozenset(stream) in reach
    assert [(one.name, one.reason) for one in kept] == [("head", "its channels are the model's output")]


@pytest.mark.parametrize(
    ("kind", "share"),
    # The recurrent net's hidden states stay whole: they alone are a quarter of its MACs.
    [(kind, share) for kind in NETS for share in (0.75, 0.5, 0.25, 0.1) if kind is not Recurrent or share > 0.25],
    ids=lambda v: getattr(v, "__name__", str(v)),
)
def test_budget_is_met_from_below_and_planned_macs_are_the_real_ones(kind, share):
    model, x = made(kind, NETS[kind])
    counted = macs.count(model, (x[:2],))
    groups, _ = channels.groups(model, (x[:2],))
    plan = structure.cost(model, groups, counted.layers)
    assert plan([g.width for g in groups]) == counted.macs
    left = widths.solve([g.width for g in groups], plan, int(share * counted.macs))
    removed = [(g, range(g.width - n)) for g, n in zip(groups, left, strict=True)]
    structure.apply(model, structure.edits_for(model, removed))
    now = macs.count(model, (x[:2],)).macs
    assert now == plan(left)
    assert 0.95 * share * counted.macs <= now <= share * counted.macs


class Normalised(nn.Module):
    """LayerNorm mixes channels: removing one is not zeroing it."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b, self.head = nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 24), nn.Linear(24, 5)

    def forward(self, x):
        return self.head(torch.relu(self.b(self.norm(self.a(x)))))


class Softmaxed(nn.Module):
    """Softmax over channels has no weights that a table could refuse; only trying shows it."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 5)

    def forward(self, x):
        return self.b(torch.softmax(self.a(x), dim=1))


class Flipped(nn.Module):
    """The tracer takes the flip for an element-wise op and pairs the wrong channels."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv1d(4, 16, 1), nn.Conv1d(16, 5, 1)

    def forward(self, x):
        x = self.a(x)
        return self.b(x * x.flip(1)).mean(2)


class Hardcoded(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv1d(4, 16, 1), nn.Linear(16 * 30, 5)

    def forward(self, x):
        return self.b(self.a(x).transpose(1, 2).reshape(-1, 16 * 30))


class InputSkip(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv1d(4, 4, 3, padding=1), nn.Conv1d(4, 5, 1)

    def forward(self, x):
        return self.b(x + self.a(x)).mean(2)


class Multiplied(nn.Module):
    """Depthwise, with two outputs of each channel."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv1d(4, 16, 1), nn.Conv1d(16, 32, 1, groups=16), nn.Conv1d(32, 5, 1)

    def forward(self, x):
        return self.c(self.b(self.a(x))).mean(2)


class Parted(nn.Module):
    """What one layer makes is read by one group of a convolution only."""

    def __init__(self):
        super().__init__()
        self.a, self.other = nn.Conv1d(4, 8, 1), nn.Conv1d(4, 8, 3, padding=1)
        self.b, self.c = nn.Conv1d(16, 16, 1, groups=2), nn.Conv1d(16, 5, 1)

    def forward(self, x):
        return self.c(self.b(torch.cat([self.a(x), self.other(x)], 1))).mean(2)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 5)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))))


@pytest.mark.parametrize(
    ("kind", "shape", "name", "reason"),
    [
        (Normalised, (8,), "a", "'norm' (LayerNorm), which cannot be cut"),
        (Softmaxed, (8,), "a", "is not the same as zeroing"),
        (Flipped, SIGNAL, "a", "is not the same as zeroing"),
        (Hardcoded, SIGNAL, "a", "does not run: mat1 and mat2 shapes"),
        (InputSkip, SIGNAL, "a", "does not run: The size of tensor a (4)"),
        (Multiplied, SIGNAL, "a", "'b' (Conv1d), which cannot be cut"),
        (Parted, SIGNAL, "a", "the groups of convolution 'b' read it and something else"),
        (Tied, (8,), "a", "shares a parameter with another layer"),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_what_cannot_be_cut_stays_whole_and_says_why(kind, shape, name, reason):
    model, x = made(kind, shape)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    groups, kept = channels.groups(model, (x[:2],))
    assert name not in {group.name for group in groups}
    assert reason in next(one.reason for one in kept if one.name == name)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_replay_gives_the_pruned_architecture_and_refuses_a_changed_one():
    model, x = made(Chain, IMAGE)
    groups, _ = channels.groups(model, (x[:2],))
    steps = []
    for _ in range(2):  # pruned twice: the second record counts in the channels that the first one left
        groups, _ = channels.groups(model, (x[:2],))
        steps.append(structure.edits_for(model, [(g, range(0, g.width, 3)) for g in groups]))
        structure.apply(model, steps[-1])
    fresh = Chain()
    structure.replay(fresh, steps, "net:build")
    assert {k: v.shape for k, v in fresh.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}
    fresh.load_state_dict(model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(fresh.eval()(x), model.eval()(x), atol=0, rtol=0)
    other = Chain()
    other.a = nn.Conv2d(3, 25, 3, bias=False)
    with pytest.raises(UsageError, match=r"layer 'a' has 25 channels \(out\), the record says 24"):
        structure.replay(other, steps, "net:build")
    with pytest.raises(UsageError, match="layer 'a' has None channels"):
        structure.replay(Residual().stem, steps, "net:build")


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_magnitude_is_the_written_out_mean_of_normalised_norms(norm):
    model, x = made(Chain, IMAGE)
    groups, _ = channels.groups(model, (x[:2],))
    group = next(g for g in groups if g.name == "b")
    order = 1 if norm == "l1" else 2
    rows = [torch.linalg.vector_norm(model.b.weight[c].flatten(), order) for c in range(32)]
    slopes = [model.act.weight[c].abs() for c in range(32)]
    columns = [
        torch.linalg.vector_norm(model.head.weight[:, 36 * c : 36 * (c + 1)].flatten(), order) for c in range(32)
    ]
    expected = sum(torch.stack(part) / torch.stack(part).mean() for part in (rows, slopes, columns))
    torch.testing.assert_close(importance.magnitude(model, group, norm), expected.detach())


def test_magnitude_finds_the_channels_that_do_nothing():
    model, x = made(Residual, SIGNAL)
    dead = [1, 5, 20]
    with torch.no_grad():
        model.inner.weight[dead] = 0
        model.outer.weight[:, dead] = 0
    group = next(g for g in channels.groups(model, (x[:2],))[0] if g.name == "inner")
    assert sorted(importance.magnitude(model, group).argsort()[:3].tolist()) == dead


def test_channels_last_stays_as_the_user_chose():
    model = Chain().to(memory_format=torch.channels_last)
    found, _ = channels.groups(model, (torch.zeros(2, 3, 15, 15),))
    structure.apply(model, structure.edits_for(model, [(group, range(8)) for group in found]))
    assert model.b.weight.shape == (24, 16, 3, 3)
    assert model.b.weight.is_contiguous(memory_format=torch.channels_last)
    assert not model.b.weight.is_contiguous()
