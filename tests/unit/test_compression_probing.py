"""Networks that nobody can trace or copy: what can go goes and equals its mask, the rest is named."""

import copy
import threading
import warnings

import pytest
import torch
from torch import Tensor, nn

from pipeline.compression import channels, probing, structure
from pipeline.compression.copies import copied
from pipeline.errors import UsageError
from tests.unit.test_compression_structure import NETS, made


class Unit(nn.Module):
    """ShuffleNet's: half of the channels go past the branch, then all are shuffled."""

    def __init__(self, width):
        super().__init__()
        half = width // 2
        self.branch = nn.Sequential(
            nn.Conv2d(half, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(),
            nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False),
            nn.BatchNorm2d(half),
            nn.Conv2d(half, half, 1, bias=False),
        )

    def forward(self, x):
        past, rest = x.chunk(2, dim=1)
        n, c, h, w = x.shape
        both = torch.cat([past, self.branch(rest)], 1).view(n, 2, c // 2, h, w)
        return both.transpose(1, 2).contiguous().view(n, c, h, w)


class Shuffle(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.units, self.last = (
            nn.Conv2d(3, 16, 3),
            nn.Sequential(Unit(16), Unit(16), Unit(16)),
            nn.Conv2d(16, 32, 1),
        )
        self.fc = nn.Linear(32, 5)

    def forward(self, x):
        return self.fc(self.last(self.units(self.stem(x).relu())).relu().mean((2, 3)))


class Uneven(nn.Module):
    """A split whose sizes are written down, and a chunk of which one part is dropped."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 16, 3, padding=1, groups=1), nn.Conv2d(10, 8, 3), nn.Conv2d(6, 8, 3)
        self.bag, self.d, self.e, self.fc = (
            nn.EmbeddingBag(8, 6),
            nn.Conv2d(16, 12, 1),
            nn.Conv2d(6, 8, 1),
            nn.Linear(14, 5),
        )

    def forward(self, x):
        p, q = torch.split(self.a(x), [10, 6], 1)
        x = self.d(torch.cat([self.b(p * torch.sigmoid(p)), self.c(torch.tanh(q))], 1))
        bag = self.bag(torch.arange(6).expand(len(x), 6))
        return self.fc(torch.cat([self.e(x.relu().chunk(2, 1)[1]).relu().mean((2, 3)), bag], 1))


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.first, self.bag = nn.Conv2d(3, 32, 3, groups=1), nn.Conv2d(32, 24, 3), nn.EmbeddingBag(8, 16)
        self.fc = nn.Linear(40, 5)

    def forward(self, x):
        a, b = torch.split(self.first(self.conv(x).relu()), [16, 8], 1)
        x = torch.cat([a * torch.sigmoid(a), torch.tanh(b)], 1).mean((2, 3))
        return self.fc(torch.cat([self.bag(torch.arange(6).expand(len(x), 6)), x], 1))


class Holder(nn.Module):
    """Three layers, the first made anew by whatever is asked for."""

    def __init__(self, first):
        super().__init__()
        self.a, self.b, self.c, self.fc = first, nn.Conv2d(16, 24, 3), nn.Conv2d(24, 16, 3), nn.Linear(16, 5)

    def forward(self, x):
        x = self.a(x.to(next(self.a.parameters()).dtype)).float().relu()
        return self.fc(self.c(self.b(x).relu()).relu().mean((2, 3)))


def old_norm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Holder(nn.utils.weight_norm(nn.Conv2d(3, 16, 3)))


def locked():
    net = Holder(nn.Conv2d(3, 16, 3))
    net.lock, net.draws = threading.Lock(), torch.Generator()
    net.b.scale = net.b.weight.mean()  # computed: no leaf
    return net


CASES = {
    "shuffle": (Shuffle, {"units.0.branch.0", "units.1.branch.0", "last"}, "stem"),
    "uneven": (Uneven, {"b", "c", "e"}, "a"),
    "bag": (Bag, {"conv"}, "first"),
    "weight_norm": (old_norm, {"b", "c"}, "a"),
    "parametrizations": (
        lambda: Holder(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 16, 3))),
        {"b", "c"},
        "a",
    ),
    "bf16": (lambda: Holder(nn.Conv2d(3, 16, 3).bfloat16()), {"b", "c"}, None),
    "locked": (locked, {"a", "b", "c"}, None),
}


def masked(model: nn.Module, edits: list[structure.Edit]) -> nn.Module:
    """The model whose readers see zeros where channels went."""
    for edit in edits:
        if edit["axis"] != "in":
            continue
        mask = torch.ones(edit["width"])
        mask[edit["removed"]] = 0

        def hook(module: nn.Module, args: tuple[Tensor], mask: Tensor = mask) -> tuple[Tensor]:
            return (args[0] * (mask if isinstance(module, nn.Linear) else mask.view(1, -1, 1, 1)),)

        model.get_submodule(edit["module"]).register_forward_pre_hook(hook)
    return model


@pytest.mark.parametrize(("make", "goes", "stays"), CASES.values(), ids=CASES)
def test_what_can_be_followed_goes_and_equals_its_mask(make, goes, stays):
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(3, 3, 12, 12)
    groups, kept = channels.groups(model, (x[:2],))
    assert goes <= {group.name for group in groups}
    whole = {one.name: one.reason for one in kept}
    assert stays is None or whole[stays]
    assert whole["fc"] == "its channels are the model's output"
    assert not goes & set(whole)
    edits = structure.edits_for(model, [(group, range(0, group.width, 2)) for group in groups])
    cut = copied(model)
    structure.apply(cut, edits)
    with torch.no_grad():
        torch.testing.assert_close(cut(x), masked(model, edits)(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("make", [Shuffle, Bag])
def test_these_are_the_networks_that_torch_pruning_cannot_trace(make):
    import torch_pruning

    def trace():
        graph = torch_pruning.DependencyGraph().build_dependency(model, (torch.randn(2, 3, 12, 12),), verbose=False)
        return list(graph.get_all_groups())

    model = make().eval()
    with pytest.raises((ZeroDivisionError, IndexError)):
        trace()


def parts(groups) -> set[frozenset[tuple[str, str, int]]]:
    """The sets of channels that go together, whatever their groups are called."""
    found: dict[tuple[str, int], set[tuple[str, str, int]]] = {}
    for group in groups:
        if isinstance(group, structure.Kept):
            continue
        for one in group.members:
            for channel, root in zip(one.channels, one.roots, strict=True):
                found.setdefault((group.name, root), set()).add((one.module, one.axis, channel))
    return {frozenset(slots) for slots in found.values()}


@pytest.mark.parametrize(("kind", "shape"), NETS.items(), ids=lambda v: getattr(v, "__name__", ""))
def test_trying_finds_what_the_graph_says(kind, shape):
    model, x = made(kind, shape)
    with torch.no_grad():
        tried, seen = channels._probed(model, (x[:2],), set())
    traced, _ = channels._dependencies(model, (x[:2],))
    assert parts(tried) == {one for one in parts(traced) if not any(slot[:2] == ("head", "out") for slot in one)}
    assert seen == {
        name for name, module in model.named_modules() if {"in", "through"} & set(structure.layouts(module))
    }


def test_a_place_that_sees_several_channels_keeps_them_all():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.fc = nn.Linear(8, 16), nn.Linear(8, 6), nn.Linear(6, 5)

        def forward(self, x):
            one, two = self.a(x).chunk(2, 1)
            return self.fc(self.b(one * two.sigmoid()).softmax(1))

    with torch.no_grad():
        found, _ = channels._probed(Gated().eval(), (torch.randn(2, 8),), set())
    reasons = {one.name: one.reason for one in found if isinstance(one, structure.Kept)}
    assert reasons == {
        "a": "'b' sees several of its channels at once",
        "b": "'fc' sees several of its channels at once",
        "fc": "its channels are the model's output",
    }


def test_a_model_that_does_not_run_on_nan_stays_whole():
    class Careful(Holder):
        def forward(self, x):
            x = self.a(x)
            if x.isnan().any():
                raise ValueError("no numbers")
            return self.fc(self.c(self.b(x)).mean((2, 3)))

    with torch.no_grad():
        found, _ = channels._probed(Careful(nn.Conv2d(3, 16, 3)).eval(), (torch.randn(2, 3, 9, 9),), set())
    whole = {one.name: one.reason for one in found if isinstance(one, structure.Kept)}
    assert whole["a"] == "without its values the model does not run: no numbers"
    assert {one.name for one in found} - set(whole) == {"b", "c"}


def test_a_bug_of_ours_is_no_fault_of_the_tracer():
    def of(module: str) -> Exception:
        names = {"__name__": module}
        exec("def f(): return 1 // 0", names)
        with pytest.raises(ZeroDivisionError) as raised:
            names["f"]()
        return raised.value

    assert probing.foreign(of("torch_pruning.dependency"))
    assert not probing.foreign(of("pipeline.compression.channels"))


def test_a_copy_has_weights_of_its_own_and_shares_what_cannot_be_copied():
    net = locked()
    net.tied = net.b.weight
    other = copied(net)
    assert other.lock is net.lock
    assert other.b.weight is other.tied is not net.b.weight
    assert torch.equal(other.b.scale, net.b.scale)
    assert isinstance(copied(copy.deepcopy(Holder(nn.Conv2d(3, 16, 3)))), Holder)


def test_a_module_that_refuses_to_be_copied_is_one_line():
    class Single(Holder):
        def __deepcopy__(self, memo):
            raise TypeError("there is one only")

    with pytest.raises(UsageError, match="the model cannot be copied: there is one only"):
        copied(Single(nn.Conv2d(3, 16, 3)))


def test_where_nothing_can_go_the_budget_is_refused_with_the_reasons(tmp_path):
    from pipeline.stages import Job, prune

    kept = [structure.Kept("conv", 32, "split_with_sizes expects 32")]
    job = Job(stage="prune", settings={}, inputs={}, out=tmp_path, seed=0, user={})
    work = prune.Work(job, nn.Identity(), [], kept, [], [])
    with pytest.raises(
        UsageError, match=r"prune.macs = 0.5 cannot be met: no unit .* 'conv': split_with_sizes expects 32"
    ):
        prune.meet(work, lambda left: 10, 5, "prune.macs = 0.5")
