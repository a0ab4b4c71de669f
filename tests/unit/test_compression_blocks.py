"""Whole layers: without its blocks a network is the original whose blocks add nothing."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipeline import models
from pipeline.compression import blocks, macs, structure
from pipeline.compression.sight import Sight
from pipeline.errors import UsageError


class Basic(nn.Module):
    """ResNet's block: relu(x + f(x)) of an x that is not negative."""

    def __init__(self, before=8, after=8, stride=1):
        super().__init__()
        self.a, self.na = nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after)
        self.b, self.nb = nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after)
        self.side = nn.Identity() if before == after else nn.Conv2d(before, after, 1, stride)

    def forward(self, x):
        return torch.relu(self.side(x) + self.nb(self.b(torch.relu(self.na(self.a(x))))))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.stages = nn.Sequential(
            nn.Sequential(Basic(), Basic()), nn.Sequential(Basic(8, 12, 2), Basic(12, 12), Basic(12, 12))
        )
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        return self.head(self.stages(self.stem(x)).mean((2, 3)))


class Former(nn.Module):
    """A transformer, by PyTorch's own layers, called with masks and words."""

    def __init__(self, norm_first=True):
        super().__init__()
        self.embed = nn.Linear(4, 16)
        self.layers = nn.ModuleList(
            [nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=norm_first) for _ in range(3)]
        )
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x, src_mask=torch.triu(torch.ones(x.shape[1], x.shape[1], dtype=torch.bool), 1))
        return self.head(x.mean(1))


class Twice(nn.Module):
    """One block used twice; it goes from both places."""

    def __init__(self):
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 8, 1), Basic(), nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.block(self.block(torch.relu(self.stem(x)))).mean((2, 3)))


NETS = {
    Residual: ["stages.0.0", "stages.0.1", "stages.1.1", "stages.1.2"],
    Former: ["layers.0", "layers.1", "layers.2"],
}
NETS |= {Twice: ["block"]}


def made(kind, **options):
    torch.manual_seed(0)
    model = kind(**options)
    x = torch.randn(6, 7, 4) if kind is Former else torch.randn(6, 3, 8, 8)
    model.train()(x)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model.eval(), x


@pytest.mark.parametrize("kind", NETS)
def test_without_blocks_is_the_original_whose_blocks_add_nothing(kind):
    model, x = made(kind)
    found, _ = blocks.find(model, (x[:2],))
    assert found == NETS[kind]
    for gone in itertools.chain(((name,) for name in found), [tuple(found)]):
        cut, silent = copy.deepcopy(model), copy.deepcopy(model)
        structure.apply(cut, blocks.edits_for(gone))
        for name in gone:  # independent of zeroed weights: what goes in comes out
            silent.get_submodule(name).forward = lambda x, *args, **kwargs: x
        with torch.no_grad():
            torch.testing.assert_close(cut(x), silent(x), atol=1e-5, rtol=1e-5)
        assert macs.count(cut, (x,)).macs < macs.count(model, (x,)).macs
        fresh = kind()
        structure.replay(fresh, [blocks.edits_for(gone)], "net:build")
        models.load_state(fresh, cut.state_dict(), "cut")
        with torch.no_grad():
            torch.testing.assert_close(fresh.eval()(x), cut(x), atol=0, rtol=0)
        with pytest.raises(UsageError, match=f"layer '{gone[0]}' has None channels"):
            structure.replay(fresh, [blocks.edits_for(gone)], "net:build")


def test_zeroed_blocks_are_removed_blocks():
    model, x = made(Residual)
    cut, zeroed = copy.deepcopy(model), copy.deepcopy(model)
    structure.apply(cut, blocks.edits_for(["stages.1.1"]))
    with torch.no_grad():
        for parameter in zeroed.get_submodule("stages.1.1").parameters():
            parameter.zero_()
        torch.testing.assert_close(cut(x), zeroed(x), atol=1e-5, rtol=1e-5)


def test_what_cannot_go_is_named():
    model, x = made(Residual)
    reasons = {one.name: one.reason for one in blocks.find(model, (x[:2],))[1]}
    assert reasons["stages.1.0"] == "it changes the shape from [2, 8, 8, 8] to [2, 12, 4, 4]"
    assert reasons["stem"] == "it changes the shape from [2, 3, 8, 8] to [2, 8, 8, 8]"
    model, x = made(Former, norm_first=False)
    found, kept = blocks.find(model, (x[:2],))
    assert not found
    reasons = {one.name: one.reason for one in kept}
    assert reasons["layers.0"] == "it is not x + f(x): with its weights zero it does not say what it is given"
    assert not any(module._forward_hooks for module in model.modules())


def seen(model, x):
    return Sight(model, [], (x,), torch.arange(6) % 5)


def test_a_contribution_is_the_loss_without_the_block():
    model, x = made(Residual)
    sight, names = seen(model, x), NETS[Residual]
    found = blocks.SCORES["contribution"](sight, names)
    with torch.no_grad():
        base = F.cross_entropy(model(x), sight.labels)
        for name, score in zip(names, found, strict=True):
            cut = copy.deepcopy(model)
            cut.get_submodule(name).forward = lambda x: x
            assert score == pytest.approx(float(F.cross_entropy(cut(x), sight.labels) - base), abs=1e-5)


@pytest.mark.parametrize("name", [name for name in blocks.SCORES if name not in ("random", "contribution")])
def test_a_block_that_does_nothing_goes_first(name):
    model, x = made(Residual)
    with torch.no_grad():
        for parameter in model.get_submodule("stages.0.1").parameters():
            parameter.zero_()
    whole = macs.count(model, (x,)).macs
    gone, rounds = blocks.choose(seen(model, x), (x[:2],), whole - 1, name, greedy=False)
    assert (gone, rounds) == (["stages.0.1"], 1)


def test_greedy_scores_the_network_that_is_left():
    model, x = made(Residual)
    sight, whole = seen(model, x), macs.count(model, (x,)).macs
    gone, rounds = blocks.choose(sight, (x[:2],), int(0.5 * whole), "contribution", greedy=True)
    assert rounds == len(gone) > 1
    cut, expected = copy.deepcopy(model), []
    while macs.count(cut, (x,)).macs > 0.5 * whole:
        left = [name for name in NETS[Residual] if name not in expected]
        scores = blocks.SCORES["contribution"](seen(cut, x), left)
        expected.append(left[scores.index(min(scores))])
        structure.apply(cut, blocks.edits_for(expected[-1:]))
    assert gone == expected
    with pytest.raises(ValueError, match="without its 4 blocks the model still takes"):
        blocks.choose(sight, (x[:2],), int(0.05 * whole), "l2", greedy=False)
