"""A foreign .pt2 runs nothing: for each way in which torch would run what lies in one, torch runs it and we refuse."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline import inspection, pt2
from pipeline.errors import UsageError

WEIGHTS, CONSTANTS = "data/weights/model_weights_config.json", "data/constants/model_constants_config.json"
GRAPH, INPUTS = "models/model.json", "data/sample_inputs/model.pt"
Members = dict[str, bytes]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x[:, : x.shape[1] // 2]) + torch.tensor([0.5, 1.0, 2.0])


class Runs:
    """Pickled, it runs code when it is read."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> Any:
        return eval, (self.code,)


def saved(
    module: nn.Module, example: tuple[Tensor, ...], file: Path, shapes: Any = None
) -> torch.export.ExportedProgram:
    exported = torch.export.export(module.eval(), example, dynamic_shapes=shapes)
    torch.export.save(exported, file)
    return exported


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Members:
    """What an honest file holds: a program with a free batch and a constant."""
    file = tmp_path_factory.mktemp("good") / "good.pt2"
    saved(Net(), (torch.zeros(2, 12),), file, ({0: torch.export.Dim("n", min=1, max=64)},))
    with zipfile.ZipFile(file) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def pickled(code: str) -> bytes:
    content = io.BytesIO()
    torch.save(Runs(code), content)
    return content.getvalue()


def entry(table: str, **changed: Any) -> Callable[[Members, str], Members]:
    """The first tensor's row of a table is changed; its payload becomes a pickle."""

    def change(members: Members, code: str) -> Members:
        config = json.loads(members[table])
        row = next(iter(config["config"].values()))
        row.update(changed)
        payload = pickle.dumps(Runs(code)) if row["path_name"].startswith("opaque") else pickled(code)
        payload += bytes(-len(payload) % 8)  # whole numbers of elements, whatever the path in it
        return members | {table: json.dumps(config).encode(), f"{table.rpartition('/')[0]}/{row['path_name']}": payload}

    return change


def member(name: str) -> Callable[[Members, str], Members]:
    return lambda members, code: members | {name: pickled(code)}


def graph(put: Callable[[Any, str], object]) -> Callable[[Members, str], Members]:
    """The graph is changed in place."""

    def change(members: Members, code: str) -> Members:
        whole = json.loads(members[GRAPH])
        put(whole, code)
        return members | {GRAPH: json.dumps(whole).encode()}

    return change


def size(whole: Any, code: str) -> None:
    value = whole["graph_module"]["graph"]["tensor_values"]["x"]
    value["sizes"][0] = {"as_expr": {"expr_str": f"{code} or 2", "hint": None}}


def enum_key(whole: Any, _: str) -> None:
    key = json.dumps([{"__enum__": True, "fqn": "it_ran_module:A", "name": "x"}])
    call = whole["graph_module"]["module_call_graph"][0]["signature"]
    leaf = {"type": None, "context": None, "children_spec": []}
    call["out_spec"] = json.dumps([1, {"type": "builtins.dict", "context": key, "children_spec": [leaf]}])


def factory(whole: Any, _: str) -> None:
    what = {"default_factory_module": "it_ran_module", "default_factory_name": "x", "dict_context": []}
    call = whole["graph_module"]["module_call_graph"][0]["signature"]
    call["out_spec"] = json.dumps([1, {"type": "collections.defaultdict", "context": what, "children_spec": []}])


def rename(name: str) -> Callable[[Any, str], None]:
    """The input's name becomes Python, which stands in the source that torch compiles."""

    def put(whole: Any, code: str) -> None:
        text = json.dumps(whole).replace('"x"', json.dumps(name.format(code=code)))
        whole.clear()
        whole.update(json.loads(text))

    return put


def old_format(members: Members, code: str) -> Members:
    parts = {f"serialized_{part}.pt": pickled(code) for part in ("state_dict", "constants", "example_inputs")}
    return {"": b"", "version": b"8.20", "serialized_exported_program.json": members[GRAPH], **parts}


WAYS: dict[str, tuple[Callable[[Members, str], Members], str]] = {
    "a weight": (entry(WEIGHTS, use_pickle=True), "'fc.weight' in its weights is a pickled tensor (use_pickle)"),
    "a constant": (entry(CONSTANTS, use_pickle=True), "in its constants is a pickled tensor (use_pickle)"),
    "an opaque object": (entry(CONSTANTS, path_name="opaque_obj_0", use_pickle=True), "is a pickled tensor"),
    "an opaque object that denies it": (
        entry(CONSTANTS, path_name="opaque_obj_0"),
        "is an object, not a tensor (opaque_obj_0)",
    ),
    "all weights as one": (member("data/weights/model.pt"), "data/weights/model.pt is a pickle of all its tensors"),
    "all constants as one": (member("data/constants/model.pt"), "data/constants/model.pt is a pickle"),
    "sample inputs": (member(INPUTS), "data/sample_inputs/model.pt holds pickled objects"),
    "the format of torch 2.7": (old_format, "it is in the format of torch 2.7 and older, of pickles"),
    "a size": (graph(size), "in 'expr_str'"),
    "an enum among keys": (graph(enum_key), "in 'out_spec'"),
    "a default factory": (graph(factory), "in 'out_spec'"),
}


def written(folder: Path, members: Members) -> Path:
    file = folder / "foreign.pt2"
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            if name:
                archive.writestr(name if "" in members else f"foreign/{name}", content)
    return file


@pytest.mark.parametrize("way", WAYS)
def test_what_torch_would_run_is_refused_before_it_runs(
    members: Members, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "it-ran"
    code = f"__import__('pathlib').Path({str(ran)!r}).touch()"
    (tmp_path / "it_ran_module.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "it_ran_module", raising=False)
    change, says = WAYS[way]
    file = written(tmp_path, change(members, code))
    with pytest.raises(UsageError, match="which could run code: save it again from plain tensors") as refused:
        pt2.load(file)
    assert says in str(refused.value)
    with pytest.raises(UsageError, match="which could run code"):
        inspection.examine(file.name, tmp_path)
    assert not ran.exists()
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.load(file)
    assert ran.exists(), "torch runs nothing here: the case proves nothing"


@pytest.mark.parametrize(
    ("put", "says"),
    [
        (graph(rename("x=[{code}]")), "has the name"),
        (graph(lambda whole, _: whole["graph_module"]["graph"]["nodes"][0].update(target="torch.os.system")), "target"),
        (
            graph(
                lambda whole, _: whole["graph_module"]["graph"]["nodes"][0].update(target="torch.ops.aten.from_file")
            ),
            "target",
        ),
        (
            graph(lambda whole, _: whole["graph_module"]["graph"]["inputs"].append({"as_custom_obj": {"name": "a"}})),
            "its graph holds a custom object",
        ),
        (
            graph(
                lambda whole, _: whole["graph_module"]["graph"]["nodes"][0]["inputs"].append(
                    {"name": "", "kind": 1, "arg": {"as_operator": "torch.os.system"}}
                )
            ),
            "'torch.os.system' in 'as_operator'",
        ),
        (entry(CONSTANTS, path_name="custom_obj_0"), "is an object, not a tensor (custom_obj_0)"),
        (entry(WEIGHTS, path_name="../../weight_0"), "is an object, not a tensor"),
    ],
)
def test_what_no_honest_program_holds_is_refused(
    members: Members, put: Callable[[Members, str], Members], says: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="which could run code") as refused:
        pt2.load(written(tmp_path, put(members, "None")))
    assert says in str(refused.value)


def test_two_members_of_one_name_are_refused(members: Members, tmp_path: Path) -> None:
    file = written(tmp_path, members)
    with warnings.catch_warnings(), zipfile.ZipFile(file, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr(f"foreign/{GRAPH}", b"{}")
    with pytest.raises(UsageError, match="two of its members have one name"):
        pt2.load(file)


def test_guards_which_torch_compiles_are_left_out(members: Members, tmp_path: Path) -> None:
    file = written(tmp_path, graph(lambda whole, _: whole.update(guards_code=["1 / 0"]))(members, ""))
    assert pt2.load(file)._guards_code == []


class Several(nn.Module):
    """Attention, a convolution, a tied weight, a constant, sizes computed from sizes, a dict of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.filter = nn.Conv1d(8, 8, 3, padding="same")
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)
        self.two.weight = self.one.weight
        self.register_buffer("scale", torch.arange(8.0))

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        x = self.attend(x, x, x)[0] + self.filter(x.mT).mT
        x = nn.functional.pad(x, (0, 0, 0, 1)).roll(1, dims=1) * self.scale
        best, where = self.two(self.one(x)).max(1)
        return {"a": best + y.clamp(min=-1).flip(1), "b": where, "c": x.reshape(x.shape[0], -1, 4).mean(1)}


@pytest.mark.parametrize("free", [False, True])
def test_an_honest_program_answers_as_before_and_gives_equal_bytes(free: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    example = (torch.randn(2, 6, 8), torch.randn(2, 8))
    batch = torch.export.Dim("n", min=1, max=64)
    length = torch.export.Dim("length", min=2, max=32)
    shapes = ({0: batch, 1: 2 * length}, {0: batch}) if free else None
    exported = saved(Several(), example, tmp_path / "net.pt2", shapes)
    read = pt2.load(tmp_path / "net.pt2")
    wanted, found = exported.module()(*example), read.module()(*example)
    assert {name: tensor.tolist() for name, tensor in found.items()} == {k: v.tolist() for k, v in wanted.items()}
    assert pt2.clean(tmp_path / "net.pt2") == pt2.clean(tmp_path / "net.pt2")
    assert read.range_constraints == exported.range_constraints


@pytest.mark.parametrize("content", [b"", b"PK", b"no archive", pickle.dumps({"a": 1})])
def test_what_is_no_archive_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.pt2").write_bytes(content)
    with pytest.raises(UsageError, match="is no exported program") as refused:
        pt2.load(tmp_path / "x.pt2")
    assert "\n" not in str(refused.value)


def encrypted(file: Path) -> None:
    """Says of a member that it needs a password."""
    content = bytearray(file.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1  # a flag of the last row of the archive's directory
    file.write_bytes(content)


@pytest.mark.parametrize("damage", ["structure", "encrypted"])
def test_what_is_damaged_is_one_line(members: Members, tmp_path: Path, damage: str) -> None:
    def short(whole: Any, _: str) -> None:
        for call in whole["graph_module"]["module_call_graph"]:
            call["signature"] = {**(call["signature"] or {}), "in_spec": "[1]"}

    file = written(tmp_path, graph(short)(members, "") if damage == "structure" else members)
    if damage == "encrypted":
        encrypted(file)
    with pytest.raises(UsageError, match="is no exported program"):
        pt2.clean(file)
