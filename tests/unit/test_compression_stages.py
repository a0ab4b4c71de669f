"""train, load, prune, distill on a small problem: results, determinism, and bad input in one line each."""

import hashlib
import json
import math
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline import data, models
from pipeline.compression import training
from pipeline.compression.criteria import CRITERIA
from pipeline.errors import StageError, UsageError
from pipeline.stages import Job, distill, load, prune, silent, train

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes=3, width=32):
        super().__init__()
        self.a, self.na = nn.Conv1d(2, width, 3), nn.BatchNorm1d(width)
        self.b, self.nb = nn.Conv1d(width, 48, 3), nn.BatchNorm1d(48)
        self.drop, self.head = nn.Dropout(0.1), nn.Linear(48, classes)

    def forward(self, x):
        x = torch.relu(self.na(self.a(x)))
        return self.head(self.drop(torch.relu(self.nb(self.b(x))).mean(2)))

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(40, 40), nn.Linear(40, 40)
        self.outer.weight = self.inner.weight
        self.head = nn.Linear(40, 3)

    def forward(self, x):
        return self.head(torch.relu(self.outer(torch.relu(self.inner(x.flatten(1))))))

class Named(Net):
    def forward(self, x):
        return {"embedding": x.flatten(1), "scores": super().forward(x)}

def named():
    return Named()

def build():
    return Net()

class Steps(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(2, 24, num_layers=2, batch_first=True)
        self.mid, self.head = nn.Linear(24, 32), nn.Linear(32, 3)

    def forward(self, x):
        return self.head(torch.relu(self.mid(self.rnn(x.transpose(1, 2))[1][-1])))

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv1d(16, 16, 3, padding=1), nn.Conv1d(16, 16, 1)

    def forward(self, x):
        return x + self.b(torch.relu(self.a(x)))

class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.blocks = nn.Conv1d(2, 16, 3), nn.Sequential(Block(), Block(), Block())
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean(2))

class Uneven(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv1d(2, 32, 3), nn.Linear(32, 3)

    def forward(self, x):
        a, b = torch.split(self.conv(x), [20, 12], 1)
        return self.head(torch.cat([a * torch.sigmoid(a), torch.tanh(b)], 1).mean(2))

def uneven():
    return Uneven()

def deep():
    return Deep()

def steps():
    return Steps()

def tied():
    return Tied()

def small():
    return Net(width=8)

def five():
    return Net(classes=5)

def wide():
    return Net(width=33)

def raises():
    raise ValueError("no weights today")

def nothing():
    return None

def breaks():
    return nn.Linear(7, 3)

def same(inputs, rng):
    return inputs

def flip(inputs, rng):
    return {"input": inputs["input"] * rng.choice([-1.0, 1.0])}
"""


def some(n, rng):
    labels = rng.integers(0, 3, n)
    time = np.arange(20) / 20
    wave = np.sin(2 * np.pi * (labels[:, None] + 1) * time + rng.uniform(0, 6.28, (n, 1)))
    inputs = np.stack([wave, np.roll(wave, 3, axis=1)], axis=1) + rng.normal(0, 0.4, (n, 2, 20))
    return inputs.astype(np.float32), labels


@pytest.fixture
def place(tmp_path):
    """A recipe folder with its data split and written, and a way to run stages in it."""
    (tmp_path / "net.py").write_text(NET)
    rng = np.random.default_rng(0)
    sizes = {"train": 301, "calibration": 20, "selection": 150, "gate": 30}
    splits = data.from_factory({name: some(n, rng) for name, n in sizes.items()} | {"labels": "abc"}, "data:splits")
    data.save(splits, tmp_path / "data")
    return tmp_path


FLOAT = {"epochs": 4, "lr": 3e-3, "batch_size": 50, "weight_decay": 0.01, "label_smoothing": 0.1}
PRUNE = {"macs": 0.25, "criterion": "l2", "align": 8}
DISTILL = {**FLOAT, "epochs": 3, "method": "auto", "temperature": 2.0, "alpha": 0.5}


def do(stage, place, out, settings, inputs=None, *, model="net:build", seed=0, emit=silent):
    folders = {"data": place / "data"} | {role: place / name for role, name in (inputs or {}).items()}
    return stage.run(Job("stage", settings, folders, place / out, seed, {"model": model, "folder": str(place)}, emit))


def owner(place, model="net:build"):
    return {"model": model, "folder": str(place)}


def digest(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


def test_whole_layers_go_and_come_back_from_the_record(place):
    do(train, place, "float", FLOAT | {"epochs": 1}, model="net:deep")
    settings = PRUNE | {"granularity": ["layer"], "macs": 0.5, "criterion": "taylor"}
    inputs = {"model": "float", "float": "float"}
    cut = do(prune, place, "small", settings, inputs, model="net:deep")
    assert cut["macs_share"] <= 0.5
    assert [row["name"] for row in cut["layers"]] == ["blocks.0", "blocks.1", "blocks.2"]
    assert sum(row["after"] for row in cut["layers"]) == 1
    model = models.load(owner(place, "net:deep"), place / "small")
    assert training.evaluate(model, data.load_split(place / "data", "selection"))[0] == cut["metric"]
    with pytest.raises(UsageError, match=r"prune.macs = 0.02 cannot be met by whole layers: without its 3 blocks"):
        do(prune, place, "none", settings | {"macs": 0.02}, inputs, model="net:deep")
    with pytest.raises(UsageError, match="'fpgm' has no score for a whole layer"):
        do(prune, place, "none", settings | {"criterion": "fpgm"}, inputs, model="net:deep")


def test_hidden_units_go_and_come_back_from_the_record(place):
    do(train, place, "float", FLOAT | {"epochs": 1}, model="net:steps")
    settings = PRUNE | {"granularity": ["hidden", "channel"], "criterion": "taylor"}
    cut = do(prune, place, "small", settings, {"model": "float", "float": "float"}, model="net:steps")
    assert cut["macs_share"] <= 0.25
    assert {row["name"]: row["before"] for row in cut["layers"]} == {"rnn": 24, "mid": 32}
    assert [one["name"] for one in cut["kept"]] == ["head"]
    model = models.load(owner(place, "net:steps"), place / "small")
    assert model.rnn.hidden_size == next(row["after"] for row in cut["layers"] if row["name"] == "rnn") < 24
    assert training.evaluate(model, data.load_split(place / "data", "selection"))[0] == cut["metric"]
    done = do(
        distill,
        place,
        "done",
        DISTILL | {"epochs": 1, "method": "finetune"},
        {"model": "small", "teacher": "float"},
        model="net:steps",
    )
    assert done["macs"] == cut["macs"]


def test_a_student_of_another_architecture_learns_from_several_teachers(place):
    first = do(train, place, "float", FLOAT)
    do(train, place, "other", FLOAT, seed=1)
    fresh = do(load, place, "fresh", {"checkpoint": "", "factory": "net:small"})
    assert models.factory_of(place / "fresh") == "net:small"
    assert fresh["params"] < first["params"]
    settings = DISTILL | {"method": "distill", "epochs": 6}
    inputs = {"model": "fresh", "teacher0": "float", "teacher1": "other"}
    told = do(distill, place, "student", settings, inputs)
    assert (told["params"], told["before_metric"]) == (fresh["params"], fresh["metric"])
    assert told["metric"] > 0.8
    selection = data.load_split(place / "data", "selection")
    teachers = [models.load(owner(place), place / name) for name in ("float", "other")]
    soft = sum(torch.softmax(training.predict(one, selection) / 2.0, 1) for one in teachers)
    labels = torch.from_numpy(selection.labels)
    assert told["teacher_metric"] == pytest.approx(float((soft.argmax(1) == labels).float().mean()), abs=1e-6)
    student = models.load(owner(place), place / "student")  # the record knows its factory
    same = training.predict(student, selection).argmax(1) == soft.argmax(1)
    assert told["teacher_agreement"] == pytest.approx(float(same.float().mean()), abs=1e-6)
    # What was learned is pruned and recovered like any other.
    cut = do(prune, place, "cut", PRUNE | {"macs": 0.2}, {"model": "student", "float": "float"})
    assert models.factory_of(place / "cut") == "net:small"
    back = do(distill, place, "back", settings | {"epochs": 1}, {"model": "cut", "teacher": "float"})
    assert back["macs"] == cut["macs"] < fresh["macs"]


def test_a_teacher_need_not_call_its_outputs_as_the_student_does(place):
    named = {"task": {"output": "scores"}}
    do(load, place, "teacher", {"checkpoint": "", "factory": "net:small"} | named)
    do(load, place, "float", {"checkpoint": ""} | named, model="net:named")
    settings = DISTILL | {"method": "distill", "epochs": 1} | named
    told = do(distill, place, "student", settings, {"model": "float", "teacher": "teacher"}, model="net:named")
    assert 0 < told["teacher_metric"] < 1
    with pytest.raises(UsageError, match="the model has no output 'scores', only 'output'"):
        do(load, place, "other", {"checkpoint": ""} | named)


def test_a_pruned_network_learns_another_task(place):
    do(train, place, "float", FLOAT)
    cut = do(prune, place, "small", PRUNE, {"model": "float", "float": "float"})
    do(distill, place, "done", DISTILL | {"method": "finetune"}, {"model": "small", "teacher": "float"})
    rng = np.random.default_rng(5)
    sizes = {"train": 301, "calibration": 20, "selection": 150, "gate": 30}
    other = {name: some(n, rng) for name, n in sizes.items()}
    other = {name: (x[:, ::-1].copy(), np.array([4, 1, 3])[y]) for name, (x, y) in other.items()}  # of five classes
    data.save(data.from_factory(other | {"labels": "abcde"}, "data:other"), place / "other" / "data")
    (place / "other" / "net.py").write_text(NET)
    settings = FLOAT | {"start": str(place / "done"), "fresh": ["head"], "epochs": 1, "lr": 1e-9}
    with pytest.raises(UsageError, match=r"train.fresh: the model has no layer 'tail' with weights"):
        do(train, place / "other", "bad", settings | {"fresh": ["tail"]}, model="net:five")
    with pytest.raises(UsageError, match=r"wrong shape \(2\): head.weight is \[3, "):
        do(train, place / "other", "bad", settings | {"fresh": []}, model="net:five")
    do(train, place / "other", "start", settings, model="net:five")
    start, source = (models.load(owner(place / "other", "net:five"), place / "other" / "start"), place / "done")
    kept = models.load(owner(place), source).state_dict()
    for key, values in start.named_parameters():
        if not key.startswith("head"):
            torch.testing.assert_close(values.detach(), kept[key], atol=1e-6, rtol=0)
    told = do(train, place / "other", "five", settings | {"epochs": 12, "lr": 1e-2}, model="net:five")
    assert told["metric"] > 0.5
    macs = {row["name"]: row["after"] for row in cut["layers"]}
    assert models.load(owner(place / "other", "net:five"), place / "other" / "five").a.out_channels == macs["a"]


def test_a_teacher_with_other_classes_ends_in_one_line(place):
    with pytest.raises(UsageError, match=r"'net:five': inputs .* give \[2, 5\], expected logits \[2, 3\]"):
        do(load, place, "teacher", {"checkpoint": "", "factory": "net:five"})


def test_the_road_trains_prunes_and_recovers(place):
    events = []
    first = do(train, place, "float", FLOAT, emit=events.append)
    assert first["metric"] > 0.8
    assert [event["done"] for event in events] == [1, 2, 3, 4]
    assert all(math.isfinite(event["loss"]) and event["left_s"] >= 0 for event in events)

    cut = do(prune, place, "small", PRUNE, {"model": "float", "float": "float"})
    assert 0.95 * 0.25 <= cut["macs_share"] <= 0.25
    assert cut["macs"] / cut["float_macs"] == pytest.approx(cut["macs_share"], abs=1e-6)
    assert {row["name"]: row["before"] for row in cut["layers"]} == {"a": 32, "b": 48}
    assert [one["name"] for one in cut["kept"]] == ["head"]

    events.clear()
    back = do(distill, place, "done", DISTILL, {"model": "small", "teacher": "float"}, emit=events.append)
    assert back["metric"] >= max(cut["metric"], 0.8)
    assert back["metric"] == max(row["metric"] for row in back["tried"])
    assert [row["method"] for row in back["tried"]] == ["distill", "finetune"]
    assert (back["params"], back["macs"]) == (cut["params"], cut["macs"])
    assert [(event["done"], event["total"]) for event in events] == [(i, 6) for i in range(1, 7)]
    model = models.load(owner(place), place / "done")
    assert training.evaluate(model, data.load_split(place / "data", "selection"))[0] == back["metric"]

    # Pruned once more: the budget still counts from the float model, and both records are replayed.
    again = do(prune, place, "tiny", PRUNE | {"macs": 0.1}, {"model": "done", "float": "float"})
    assert again["macs"] <= 0.1 * again["float_macs"]
    assert len(models.edits_of(place / "tiny")) == 2
    models.load(owner(place), place / "tiny")


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(place):
    for tag in ("1", "2"):
        do(train, place, f"float{tag}", FLOAT | {"augment": "net:flip"})
        told = do(prune, place, f"small{tag}", PRUNE, {"model": f"float{tag}", "float": f"float{tag}"})
        do(distill, place, f"done{tag}", DISTILL, {"model": f"small{tag}", "teacher": f"float{tag}"})
        torch.rand(7)  # whatever else draws random numbers must not matter
    for stage in ("float", "small", "done"):
        assert digest(place / f"{stage}1") == digest(place / f"{stage}2")
    do(train, place, "float3", FLOAT | {"augment": "net:flip"}, seed=1)
    assert digest(place / "float3") != digest(place / "float1")
    assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_training_leaves_torch_as_it_was(place):
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    do(train, place, "float", FLOAT | {"epochs": 1})
    assert torch.equal(state, torch.random.get_rng_state())
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == (threads, False)


def test_training_never_ends_worse_than_it_began(place):
    do(train, place, "float", FLOAT)
    before = training.evaluate(models.load(owner(place), place / "float"), data.load_split(place / "data", "selection"))
    wild = DISTILL | {"lr": 5.0, "epochs": 1, "method": "finetune"}
    told = do(distill, place, "done", wild, {"model": "float", "teacher": "float"})
    assert told["metric"] >= before[0]


def test_patience_stops(place):
    events = []
    settings = FLOAT | {"epochs": 50, "patience": 2, "lr": 1e-2}
    told = do(train, place, "float", settings, emit=events.append)
    assert told["epochs_run"] == told["epoch"] + 2 == len(events) < 50


@pytest.mark.parametrize("method", ["distill", "finetune"])
def test_one_method_alone(place, method):
    do(train, place, "float", FLOAT | {"epochs": 1})
    told = do(distill, place, "done", DISTILL | {"method": method, "epochs": 1}, {"model": "float", "teacher": "float"})
    assert [row["method"] for row in told["tried"]] == [method] == [told["method"]]


def test_tied_tensors_stay_tied(place):
    do(train, place, "float", FLOAT | {"epochs": 1}, model="net:tied")
    model = models.load(owner(place, "net:tied"), place / "float")
    assert model.inner.weight is model.outer.weight
    assert json.loads((place / "float" / "edits.json").read_text())["tied"] == {"outer.weight": "inner.weight"}
    before = digest(place / "float")
    models.save(model, [], place / "again")
    assert digest(place / "again") == before
    save_file(load_plain(place / "float"), place / "plain.safetensors")
    do(load, place, "loaded", {"checkpoint": str(place / "plain.safetensors")}, model="net:tied")
    assert digest(place / "loaded") == before


def load_plain(folder):
    from safetensors.torch import load_file

    return load_file(folder / "weights.safetensors")


@pytest.mark.parametrize("form", ["safetensors", "plain", "state_dict", "model", "pth"])
def test_load_takes_every_form_of_checkpoint(place, form):
    told = do(train, place, "float", FLOAT)
    state = load_plain(place / "float")
    path = place / f"model.{form if form in ('safetensors', 'pth') else 'pt'}"
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save({form: state, "epoch": 3} if form in ("state_dict", "model") else state, path)
    loaded = do(load, place, "loaded", {"checkpoint": str(path)})
    assert digest(place / "loaded") == digest(place / "float")
    assert {key: loaded[key] for key in ("metric", "loss", "params", "macs")} == {
        key: told[key] for key in ("metric", "loss", "params", "macs")
    }


class Anything:
    """Not a tensor: only a full unpickle could bring it back."""


def with_first(value):
    def spoil(tensor):
        tensor.view(-1)[0] = value
        return tensor

    return spoil


SPOILED = {
    "nan": ("a.weight", with_first(float("nan"))),
    "nan in a buffer": ("na.running_mean", with_first(float("nan"))),
    "infinite": ("a.bias", with_first(float("-inf"))),
    "infinite buffer": ("na.running_var", with_first(float("inf"))),
    "complex": ("a.weight", lambda tensor: tensor.to(torch.complex64)),
    "integers": ("a.weight", lambda tensor: (100 * tensor).to(torch.int8)),
}


def checkpoint(place, kind):
    torch.manual_seed(0)
    models_state = models.build(owner(place)).state_dict()
    path = place / f"{kind}.pt"
    if kind == "pickled":
        torch.save(models.build(owner(place)), path)
    elif kind == "bare pickle":
        path.write_bytes(pickle.dumps({"a.weight": Anything()}))
    elif kind == "foreign":
        renamed = {f"conv{name[1:]}" if name[:2] == "a." else name: tensor for name, tensor in models_state.items()}
        torch.save(renamed, path)
    elif kind == "shape":
        torch.save(models.build(owner(place, "net:wide")).state_dict(), path)
    elif kind == "damaged":
        path = path.with_suffix(".safetensors")
        path.write_bytes(b"not this")
    elif kind == "garbage":
        path.write_bytes(b"")
    elif kind == "list":
        torch.save([1, 2], path)
    elif kind in SPOILED:
        name, spoil = SPOILED[kind]
        torch.save(models_state | {name: spoil(models_state[name].clone())}, path)
    elif kind == "numbers":
        torch.save({"epoch": 3, "lr": 0.1}, path)
    return path


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("absent", "no checkpoint at .*absent.pt"),
        ("pickled", r"it is a whole pickled net\.Net, which could run code: save the weights alone"),
        ("bare pickle", "holds pickled objects|cannot be read as a checkpoint"),
        ("foreign", r"missing \(2\): a.weight, a.bias; unexpected \(2\): conv.weight, conv.bias"),
        ("shape", r"wrong shape \(7\): a.weight is \[33, 2, 3\], the model has \[32, 2, 3\]"),
        ("damaged", "cannot be read as a checkpoint: SafetensorError"),
        ("garbage", "cannot be read as a checkpoint"),
        ("list", "holds a list, expected a state dict"),
        ("nan", r"'a.weight' has NaN in 1 of 192 values"),
        ("nan in a buffer", r"'na.running_mean' has NaN in 1 of"),
        ("infinite", r"'a.bias' has infinity in 1 of 32 values"),
        ("infinite buffer", r"'na.running_var' has infinity in 1 of"),
        ("complex", r"'a.weight' is complex \(torch.complex64\)"),
        ("integers", r"'a.weight' is torch.int8, where the model has torch.float32"),
        ("numbers", r"holds a dict with the keys \['epoch', 'lr'\], expected a state dict"),
    ],
)
def test_bad_checkpoints_end_in_one_line(place, kind, text):
    with pytest.raises(UsageError, match=text) as caught:
        do(load, place, "out", {"checkpoint": str(checkpoint(place, kind))})
    assert "\n" not in str(caught.value)
    assert not (place / "out").exists()


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("net:raises", r"ValueError: no weights today \(net.py:\d+\)"),
        ("net:nothing", "returned NoneType, expected a torch.nn.Module"),
        ("net:absent", "has no function 'absent'"),
        ("nowhere:build", "nowhere"),
        ("net:breaks", r"the model fails on inputs \[\[2, 2, 20\]\]: RuntimeError"),
        ("net:five", r"give \[2, 5\], expected logits \[2, 3\] for the data's 3 classes"),
    ],
)
def test_bad_models_end_in_one_line_before_training(place, model, text):
    events = []
    with pytest.raises(UsageError, match=text) as caught:
        do(train, place, "out", FLOAT, model=model, emit=events.append)
    assert "\n" not in str(caught.value)
    assert not events
    assert not (place / "out").exists()


def test_a_model_that_changed_since_it_was_saved(place):
    do(train, place, "float", FLOAT | {"epochs": 1})
    do(prune, place, "small", PRUNE, {"model": "float", "float": "float"})
    with pytest.raises(UsageError, match="layer 'a' has 33 channels"):
        models.load(owner(place, "net:wide"), place / "small")
    with pytest.raises(UsageError, match="does not fit the model"):
        models.load(owner(place, "net:wide"), place / "float")


def test_divergence_says_where(place):
    with pytest.raises(StageError, match=r"train: the loss is (nan|inf) in epoch \d+, batch \d+ of 6: lower train.lr"):
        do(train, place, "out", FLOAT | {"lr": 1e30, "epochs": 5})
    assert not (place / "out").exists()


def test_a_budget_that_cannot_be_met_names_what_stays_whole(place):
    do(train, place, "float", FLOAT | {"epochs": 1})
    with pytest.raises(UsageError, match=r"prune.macs = 0.0001 cannot be met: .*'head': its channels are the model's"):
        do(prune, place, "out", PRUNE | {"macs": 0.0001}, {"model": "float", "float": "float"})
    assert not (place / "out").exists()


def test_a_network_of_which_nothing_can_go_is_one_line_that_says_what_to_do(place):
    do(train, place, "float", FLOAT | {"epochs": 1}, model="net:uneven")
    settings, roles, heard = PRUNE | {"macs": 0.5}, {"model": "float", "float": "float"}, []
    says = r"no unit of the network can go, so leave 'prune' out .*: 'conv': [^\n]*\[20, 12\]; 'head'"
    with pytest.raises(UsageError, match=says):
        do(prune, place, "out", settings, roles, model="net:uneven", emit=heard.append)
    assert heard[0]["message"].startswith("stays whole: 'conv': ")
    assert not (place / "out").exists()


def test_an_augmentation_that_fails_is_the_users(place):
    with pytest.raises(UsageError, match="has no function 'absent'"):
        do(train, place, "out", FLOAT | {"augment": "net:absent"})
    with pytest.raises(UsageError, match=r"train\.augment raised TypeError"):
        do(train, place, "out", FLOAT | {"augment": "net:build"})


def test_a_last_batch_of_one_is_left_out(place):
    # 301 samples in batches of 50 leave one, on which batch normalisation cannot train with one position.
    assert training._starts(301, 50) == [0, 50, 100, 150, 200, 250]
    assert training._starts(302, 50)[-1] == 300
    assert training._starts(1, 50) == [0]


@pytest.mark.parametrize("criterion", [name for name in CRITERIA if name not in ("l1", "l2")])
def test_every_criterion_prunes_to_the_budget_the_same_way_each_time(place, criterion):
    do(train, place, "float", FLOAT | {"epochs": 1})
    settings = PRUNE | {"criterion": criterion, "samples": 24}
    told = do(prune, place, "one", settings, {"model": "float", "float": "float"})
    do(prune, place, "two", settings, {"model": "float", "float": "float"})
    assert 0.95 * 0.25 <= told["macs_share"] <= 0.25
    assert (told["rounds"] > 1) == (criterion == "contribution")
    assert digest(place / "one") == digest(place / "two")


@pytest.mark.parametrize("schedule", ["global", "greedy"])
def test_every_schedule_meets_the_budget(place, schedule):
    do(train, place, "float", FLOAT | {"epochs": 1})
    told = do(prune, place, "out", PRUNE | {"schedule": schedule}, {"model": "float", "float": "float"})
    assert 0.95 * 0.25 <= told["macs_share"] <= 0.25
    models.load(owner(place), place / "out")


def test_given_ratios_are_what_is_cut(place):
    do(train, place, "float", FLOAT | {"epochs": 1})
    settings = PRUNE | {"schedule": "groups", "groups": {"b": 0.5}}
    told = do(prune, place, "out", settings, {"model": "float", "float": "float"})
    assert {row["name"]: row["after"] for row in told["layers"]} == {"a": 32, "b": 24}
    with pytest.raises(UsageError, match=r"prune\.groups: no group head, nix can be cut; there are a, b"):
        do(prune, place, "bad", settings | {"groups": {"nix": 0.5, "head": 0.5}}, {"model": "float", "float": "float"})
    assert not (place / "bad").exists()


def test_the_surgeon_leaves_corrected_weights(place):
    do(train, place, "float", FLOAT)
    told = {}
    for criterion in ("obs", "l2"):
        settings = PRUNE | {"criterion": criterion, "macs": 0.5, "samples": 128}
        told[criterion] = do(prune, place, criterion, settings, {"model": "float", "float": "float"})
    assert told["obs"]["loss"] < told["l2"]["loss"]
