"""Heads of attention: what is cut equals the original whose heads say nothing; an unfolded attention is the same."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipeline import models
from pipeline.compression import attention, channels, criteria, heads, macs, structure, units, widths
from pipeline.compression.sight import Sight

WIDTH, HEADS, EACH = 24, 4, 6


class Fused(nn.Module):
    """One projection for all; rows by query, key and value first, then by head."""

    def __init__(self):
        super().__init__()
        self.num_heads = HEADS
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def split(self, x):
        return self.qkv(x).view(*x.shape[:2], 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)

    def forward(self, x):
        q, k, v = self.split(x)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class ByHead(Fused):
    """The same with rows by head first."""

    def split(self, x):
        return self.qkv(x).view(*x.shape[:2], self.num_heads, 3, -1).permute(3, 0, 2, 1, 4)


class Chunked(Fused):
    """The same, taken apart by chunk."""

    def split(self, x):
        parts = self.qkv(x).chunk(3, dim=-1)
        return [part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in parts]


class Separate(nn.Module):
    """Three projections, scores written out, a width that the module remembers."""

    def __init__(self):
        super().__init__()
        self.heads, self.all_head_size = HEADS, WIDTH
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH, bias=i == 3) for i in range(4))

    def forward(self, x):
        q, k, v = (layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        said = (q @ k.mT / EACH**0.5).softmax(-1) @ v
        return self.out(said.transpose(1, 2).reshape(*x.shape[:2], self.all_head_size))


class Builtin(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, dropout=0.1, batch_first=True)

    def forward(self, x):
        return self.attn(x, x, x)[0]


class Former(nn.Module):
    """A pre-norm transformer of one attention kind."""

    def __init__(self, kind):
        super().__init__()
        self.embed, self.attn = nn.Linear(5, WIDTH), nn.ModuleList([kind(), kind()])
        self.norm, self.up, self.down = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 48), nn.Linear(48, WIDTH)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x):
        x = self.embed(x)
        for attn in self.attn:
            x = x + attn(self.norm(x))
        return self.head((x + self.down(F.gelu(self.up(x)))).mean(1))


class Encoder(nn.Module):
    """PyTorch's own layers, steps first, with a padding mask and a causal one."""

    def __init__(self, norm_first=False):
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 48, norm_first=norm_first)
        self.embed = nn.Linear(5, WIDTH)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x):
        steps = x.shape[1]
        causal = torch.triu(torch.ones(steps, steps, dtype=torch.bool), 1)
        hidden = torch.arange(steps).expand(len(x), -1) > steps - 2
        return self.head(self.encoder(self.embed(x).transpose(0, 1), causal, hidden)[-3])


NETS = {kind.__name__: (lambda kind=kind: Former(kind)) for kind in (Fused, ByHead, Chunked, Separate, Builtin)}
NETS |= {"Encoder": Encoder, "EncoderNormFirst": lambda: Encoder(norm_first=True)}


def made(name):
    torch.manual_seed(0)
    model = NETS[name]().eval()
    for parameter in model.parameters():  # PyTorch starts biases at zero: they must be carried along too
        if parameter.ndim == 1:
            nn.init.normal_(parameter)
    return model, torch.randn(6, 7, 5)


@pytest.mark.parametrize("name", NETS)
def test_pruned_equals_the_original_whose_heads_and_mlp_units_say_nothing(name):
    model, x = made(name)
    with torch.no_grad():
        original = model(x)
    record = units.prepare(["head"], model, (x[:2],))
    with torch.no_grad():
        torch.testing.assert_close(model(x), original, atol=1e-5, rtol=1e-5)
    groups, kept = units.groups(["head", "channel"], model, (x[:2],))
    attentions = [group for group in groups if group.width == HEADS]
    assert len(attentions) == 2
    assert not [one for one in kept if "attn" in one.name]
    wide = [group for group in groups if group.width == 48]
    assert len(wide) == (2 if "Encoder" in name else 1)
    removed = [*zip(attentions, ([1, 2], [3]), strict=True), *((group, [0, 7, 30]) for group in wide)]
    edits = structure.edits_for(model, removed)
    cut = copy.deepcopy(model)
    structure.apply(cut, edits)

    # Independent of the edits' rows: silence the heads where they lie side by side, before the last projection, and
    # what the second layer of an MLP reads.
    for group, gone in removed[2:]:
        second = next(member.module for member in group.members if member.axis == "in")
        mask = torch.ones(48)
        mask[gone] = 0
        model.get_submodule(second).register_forward_pre_hook(lambda module, args, mask=mask: (args[0] * mask,))
        assert cut.get_submodule(second).in_features == 45
    for group, gone in removed[:2]:
        module = model.get_submodule(group.name)
        reader = [layer for layer in module.children() if isinstance(layer, nn.Linear)][-1]
        mask = torch.ones(HEADS, EACH)
        mask[gone] = 0
        reader.register_forward_pre_hook(lambda module, args, mask=mask: (args[0] * mask.flatten(),))
        smaller = cut.get_submodule(group.name)
        columns = [layer for layer in smaller.children() if isinstance(layer, nn.Linear)][-1].in_features
        assert columns == EACH * (HEADS - len(gone))
    with torch.no_grad():
        torch.testing.assert_close(cut(x), model(x), atol=1e-5, rtol=1e-5)
        fresh = NETS[name]()
        structure.replay(fresh, [record, edits] if record else [edits], "net:build")
        models.load_state(fresh, cut.state_dict(), "cut")
        torch.testing.assert_close(fresh.eval()(x), cut(x), atol=0, rtol=0)
    x = torch.randn(1, 4, 5)  # other sizes still run, in training too
    assert cut.train()(x).shape == (1, 3)


@pytest.mark.parametrize("name", NETS)
def test_heads_and_mlp_width_meet_a_budget_and_planned_macs_are_the_real_ones(name):
    model, x = made(name)
    whole = macs.count(model, (x[:2],)).macs
    units.prepare(["head", "channel"], model, (x[:2],))
    counted = macs.count(model, (x[:2],))
    assert counted.macs == whole
    groups, _ = units.groups(["head", "channel"], model, (x[:2],))
    cost = structure.cost(model, groups, counted.layers)
    left = widths.solve([g.width for g in groups], cost, int(0.6 * whole), tolerance=0.2)
    removed = [(g, range(g.width - n)) for g, n in zip(groups, left, strict=True)]
    structure.apply(model, structure.edits_for(model, removed))
    assert macs.count(model, (x[:2],)).macs == cost(left) <= 0.6 * whole


@pytest.mark.parametrize("name", [name for name in criteria.CRITERIA if name not in ("bn_scale", "random", "fpgm")])
def test_every_criterion_scores_heads(name):
    model, x = made("Separate")
    (first, _), _ = heads.groups(model, (x[:2],))
    layer = model.attn[0]
    with torch.no_grad():  # the third head says nothing
        for projection in (layer.q, layer.k, layer.v):
            projection.weight[2 * EACH : 3 * EACH] = 0
        layer.out.weight[:, 2 * EACH : 3 * EACH] = 0
    scores = criteria.score(name, Sight(model, [first], (x,), torch.arange(6) % 3))[0]
    assert scores.shape == (HEADS,)
    assert name == "contribution" or scores[2] == scores.min()
    assert name != "contribution" or abs(scores[2]) < 1e-6


def test_the_graph_of_channels_is_traced_through_every_attention():
    for name in NETS:
        model, x = made(name)
        found, _ = channels.groups(model, (x[:2],))
        assert {group.width for group in found} == {48}, name


class Grouped(Separate):
    """Two heads share a key and a value."""

    def __init__(self):
        super().__init__()
        self.k, self.v = nn.Linear(WIDTH, WIDTH // 2), nn.Linear(WIDTH, WIDTH // 2)

    def forward(self, x):
        q, k, v = (layer(x).unflatten(2, (-1, EACH)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        said = F.scaled_dot_product_attention(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1))
        return self.out(said.transpose(1, 2).flatten(2))


class Rigid(Separate):
    """The usual spelling that takes the width from the input."""

    def forward(self, x):
        n, t, c = x.shape
        q, k, v = (
            layer(x).view(n, t, self.heads, c // self.heads).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, c))


class Keys(Builtin):
    def __init__(self):
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, add_bias_kv=True, batch_first=True)


class Weighed(Builtin):
    """It looks at the attention weights themselves."""

    def forward(self, x):
        said, weights = self.attn(x, x, x)
        return said * weights.amax(-1, keepdim=True)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Grouped, "rows of 'attn.0.k' serve several heads, or none"),
        (Rigid, "without some of its channels the model does not run: shape"),
        (Keys, "it adds keys of its own"),
        (Weighed, "the model looks at its weights"),
    ],
)
def test_what_cannot_be_cut_stays_whole_and_says_why(kind, reason):
    torch.manual_seed(0)
    model, x = Former(kind).eval(), torch.randn(2, 7, 5)
    units.prepare(["head"], model, (x[:2],))
    groups, kept = heads.groups(model, (x,))
    assert not groups
    assert [one.name.split(".")[:2] for one in kept] == [["attn", "0"], ["attn", "1"]]
    assert reason in kept[0].reason


@pytest.mark.parametrize("options", [{}, {"kdim": 9, "vdim": 11}, {"bias": False}], ids=str)
@pytest.mark.parametrize("batch_first", [True, False])
def test_an_unfolded_attention_says_the_same(options, batch_first):
    torch.manual_seed(0)
    origin = nn.MultiheadAttention(WIDTH, HEADS, batch_first=batch_first, **options).eval()
    q, k, v = (
        torch.randn(3, 5, WIDTH),
        torch.randn(3, 7, options.get("kdim", WIDTH)),
        torch.randn(3, 7, options.get("vdim", WIDTH)),
    )
    padding = torch.zeros(3, 7, dtype=torch.bool)
    padding[1, 5:] = True
    mask = torch.randn(5, 7)
    given = (q, k, v) if batch_first else tuple(one.transpose(0, 1) for one in (q, k, v))
    for masks in (
        {},
        {"attn_mask": mask},
        {"key_padding_mask": padding},
        {"attn_mask": mask > 1, "key_padding_mask": padding},
    ):
        expected = origin(*given, **masks)[0]
        torch.testing.assert_close(attention.Attention(origin)(*given, **masks)[0], expected, atol=1e-5, rtol=1e-5)
    single = tuple(one[0] for one in (q, k, v))
    torch.testing.assert_close(attention.Attention(origin)(*single)[0], origin(*single)[0], atol=1e-5, rtol=1e-5)


def test_channels_between_heads_stay_even_where_no_input_would_tell():
    """Attention that is nearly even says the same without half of each query: only the heads know."""
    model, x = made("Builtin")
    units.prepare(["head"], model, (x[:2],))
    with torch.no_grad():
        for name, module in model.named_modules():
            if name.endswith((".q", ".k")):
                module.weight *= 1e-4
                module.bias *= 1e-4
    groups, kept = channels.groups(model, (x[:2],))
    made_of = {member.module for group in groups for member in group.members if member.axis == "out"}
    assert not [name for name in made_of if name.endswith((".q", ".k", ".v"))]
    assert [one.reason for one in kept if "heads of" in one.reason]
    found, _ = units.groups(["head", "channel"], model, (x[:2],))
    cut = [(one.module, one.axis, channel) for group in found for one in group.members for channel in one.channels]
    assert len(cut) == len(set(cut))
