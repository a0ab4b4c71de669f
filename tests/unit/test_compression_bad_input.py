"""Networks that pruning meets in the wild: each is cut rightly, or refused in one line with nothing half-written."""

import pytest
import torch
from safetensors.torch import save_file

from pipeline import models
from pipeline.compression import structure
from pipeline.compression.criteria import CRITERIA
from pipeline.errors import UsageError
from pipeline.stages import distill, load, prune, train
from tests.unit.test_compression_stages import DISTILL, FLOAT, PRUNE, do, owner, place  # noqa: F401

WILD = """

class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.na = nn.Conv1d(2, 16, 3, padding=1), nn.BatchNorm1d(16)
        self.b, self.nb = nn.Conv1d(16, 16, 3, padding=1), nn.BatchNorm1d(16)
        self.c, self.nc = nn.Conv1d(16, 24, 1), nn.BatchNorm1d(24)
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(24, 3)

    def forward(self, x):
        x = self.relu(self.na(self.a(x)))
        y = self.nb(self.b(x))
        y += x
        return self.head(self.relu(self.nc(self.c(self.relu(y)))).mean(2).mul_(0.5))

class Branches(nn.Module):
    limit = 1e9

    def __init__(self):
        super().__init__()
        self.a, self.rare, self.head = nn.Linear(40, 24), nn.Linear(24, 24), nn.Linear(24, 3)

    def forward(self, x):
        x = torch.relu(self.a(x.flatten(1)))
        return self.head(self.rare(x) if len(x) > self.limit else x)

class Sometimes(Branches):
    limit = 2  # the two samples of a trace go another way

class Silent(Net):
    def forward(self, x):
        return super().forward(x).detach()

def in_place():
    return InPlace()

def branches():
    return Branches()

def sometimes():
    return Sometimes()

def silent():
    return Silent()

def compiled():
    return torch.compile(Net())

def partly_compiled():
    net = Net()
    net.b, net.head = torch.compile(net.b), torch.compile(net.head)
    net.compile()
    return net
"""
INPUTS = {"model": "float", "float": "float"}


@pytest.fixture
def wild(place):  # noqa: F811
    """The folder with these networks beside the usual ones, and `fresh`: one of them as the float model, untrained."""
    with (place / "net.py").open("a") as file:
        file.write(WILD)

    def fresh(build):
        torch.manual_seed(0)
        models.save(models.build(owner(place, build)), [], place / "float")
        return models.load(owner(place, build), place / "float")

    return place, fresh


@pytest.mark.parametrize("criterion", sorted(CRITERIA))
def test_in_place_operations_change_nothing(wild, criterion):
    place, fresh = wild  # noqa: F811
    model = fresh("net:in_place")
    told = do(prune, place, "small", PRUNE | {"criterion": criterion, "samples": 32}, INPUTS, model="net:in_place")
    assert {row["name"] for row in told["layers"]} == {"a", "c"}
    assert told["macs_share"] <= 0.25
    if CRITERIA[criterion].update:  # the weights that stay were corrected
        return
    edits = models.edits_of(place / "small")[0]
    structure.zero(model, edits)
    cut, x = models.load(owner(place, "net:in_place"), place / "small"), torch.randn(4, 2, 20)
    torch.testing.assert_close(cut(x.clone()), model(x.clone()), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile's own, of torch.jit
@pytest.mark.parametrize("build", ["net:compiled", "net:partly_compiled"])
def test_compiled_modules_are_taken_as_they_were_before(wild, build):
    place, fresh = wild  # noqa: F811
    model = fresh(build)
    assert [name for name, _ in model.named_modules()] == [n for n, _ in fresh("net:build").named_modules()]
    assert all(module._compiled_call_impl is None for module in model.modules())
    told = do(prune, place, "small", PRUNE, INPUTS, model=build)
    assert {row["name"] for row in told["layers"]} == {"a", "b"}
    state = {f"_orig_mod.{name}": tensor for name, tensor in model.state_dict().items()}
    save_file(state, place / "compiled.safetensors")  # as torch.save of a compiled module's state would name them
    do(load, place, "loaded", {"checkpoint": str(place / "compiled.safetensors")}, model=build)
    loaded = models.load(owner(place, build), place / "loaded").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())


def test_a_layer_that_was_not_run_is_named_before_work_starts(wild):
    place, fresh = wild  # noqa: F811
    fresh("net:branches")
    heard = []
    told = do(prune, place, "small", PRUNE | {"macs": 0.5}, INPUTS, model="net:branches", emit=heard.append)
    assert {one["name"]: one["reason"] for one in told["kept"]}["rare"] == "it was not run on the first samples"
    assert heard[0]["event"] == "note"
    assert "stays whole: 'head': its channels are the model's output; 'rare': it was not" in heard[0]["message"]


def test_control_flow_that_depends_on_the_data_is_refused(wild):
    place, fresh = wild  # noqa: F811
    fresh("net:sometimes")
    with pytest.raises(UsageError, match=r"does not run on the selection split: .*depends on the data .*'rare'"):
        do(prune, place, "small", PRUNE | {"macs": 0.5}, INPUTS, model="net:sometimes")
    assert not (place / "small").exists()


@pytest.mark.parametrize("criterion", ["l2", "taylor"])
def test_a_network_without_gradients_names_every_layer(wild, criterion):
    place, fresh = wild  # noqa: F811
    fresh("net:silent")
    with pytest.raises(UsageError, match=r"cannot be met: .*'a': no gradient runs through it to the model's outputs"):
        do(prune, place, "small", PRUNE | {"criterion": criterion}, INPUTS, model="net:silent")
    assert not (place / "small").exists()


def test_no_group_is_pruned_to_nothing(place):  # noqa: F811
    do(train, place, "float", FLOAT | {"epochs": 1})
    given = PRUNE | {"schedule": "groups", "groups": {"a": 0.001, "b": 0.001}}
    told = do(prune, place, "small", given, INPUTS)
    assert [row["after"] for row in told["layers"]] == [1, 1]
    assert do(distill, place, "done", DISTILL | {"epochs": 1}, {"model": "small", "teacher": "float"})["params"] > 0


def test_tied_layers_stay_whole_and_are_named(place):  # noqa: F811
    do(train, place, "float", FLOAT | {"epochs": 1}, model="net:tied")
    with pytest.raises(UsageError, match=r"cannot be met.*'inner': it reaches '(inner|outer)', which shares a param"):
        do(prune, place, "small", PRUNE, INPUTS, model="net:tied")
    assert not (place / "small").exists()
