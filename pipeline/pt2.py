"""A `.pt2` file of somebody else's, read without running anything that lies in it.

`torch.export.load` unpickles what an archive asks it to, evaluates sizes as Python (sympy), writes Python source with
the names in the graph, and imports modules that a structure names. So the archive is never handed to it: `clean` reads
the members that make up one program, refuses whatever is more than plain tensors and plain words, and writes them into
an archive of its own, which `load` gives to torch.
"""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UsageError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

AGAIN = "save it again from plain tensors: torch.export.save(torch.export.export(model, args), path)"
GRAPH = "models/model.json"
SAMPLE_INPUTS = "data/sample_inputs/model.pt"
PAYLOADS = {  # folder -> its table, and the prefix of raw tensors
    "weights": ("data/weights/model_weights_config.json", "weight_"),
    "constants": ("data/constants/model_constants_config.json", "tensor_"),
}
PICKLED_WHOLE = ("data/weights/model.pt", "data/constants/model.pt")  # one pickle of all tensors, before torch 2.9
OLD = "serialized_exported_program.json"  # torch 2.7 and older: every part is a pickle
HEAD = {"archive_format": b"pt2", ".data/version": b"6", "byteorder": b"little"}

NAMESPACES = ("aten", "prims", "quantized", "quantized_decomposed", "torchvision", "higher_order")
OPERATOR = re.compile(rf"torch\.ops\.(?:{'|'.join(NAMESPACES)})\.\w+(?:\.\w+)?")
ON_SIZES = re.compile(
    r"math\.trunc|torch\.sym_\w+|torch\._sym_\w+|_operator\.(?!attrgetter|itemgetter|methodcaller)\w+"
)
READS_FILES = "torch.ops.aten.from_file"
FUNCTIONS = {  # what torch writes into sizes (sympy's srepr, and torch.utils._sympy.functions)
    "Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Max", "Min", "Abs", "Mod", "floor", "ceiling",
    "Eq", "Ne", "Equality", "Unequality", "Lt", "Le", "Gt", "Ge", "StrictLessThan", "LessThan", "StrictGreaterThan",
    "GreaterThan", "And", "Or", "Not", "Piecewise", "ExprCondPair", "FloorDiv", "ModularIndexing", "Where", "PythonMod",
    "CleanDiv", "CeilToInt", "FloorToInt", "CeilDiv", "LShift", "RShift", "PowByNatural", "FloatPow", "FloatTrueDiv",
    "IntTrueDiv", "IsNonOverlappingAndDenseIndicator", "TruncToFloat", "TruncToInt", "RoundToInt", "RoundDecimal",
    "ToFloat", "Identity", "IntInfinity", "NegativeIntInfinity",
}  # fmt: skip
SIZE_NODES = (
    ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.Tuple, ast.BinOp, ast.UnaryOp,
    ast.Compare, ast.operator, ast.unaryop, ast.cmpop,
)  # fmt: skip
PLAIN = re.compile(r"\w+|[\d.e+-]+")
CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")
DAMAGED = (  # what zipfile, json and a graph of another form raise; RuntimeError: encrypted, of a later zip, too deep
    OSError, EOFError, zipfile.BadZipFile, ValueError, LookupError, TypeError, AttributeError, RuntimeError,
)  # fmt: skip
NAMES = ("name", "as_name")  # keys whose values torch writes into source


def load(path: Path) -> ExportedProgram:
    """The program in a file. Raises UsageError where it is none, is damaged, or holds what could run code."""
    return loaded(clean(path), path)


def loaded(archive: bytes, path: Path) -> ExportedProgram:
    """The program in an archive that `clean` wrote of the file at `path`."""
    import torch
    from torch.export.pt2_archive._package import load_pt2  # torch.export.load hides causes, and tries older formats

    try:
        return load_pt2(io.BytesIO(archive)).exported_programs["model"]
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise UsageError(
            f"{path} is no exported program of this torch, {torch.__version__}: {text}; {AGAIN}"
        ) from error


def clean(path: Path) -> bytes:
    """The file's program as an archive of plain tensors and plain words; equal bytes for equal programs.

    Raises UsageError naming the first thing in it that could run code, before anything is unpickled or evaluated.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive)
            return _written(_program(members))
    except _RefusedError as refused:
        raise UsageError(f"{path}: {refused}, which could run code: {AGAIN}") from None
    except DAMAGED as error:
        text = " ".join(str(error).split())[:200]
        raise UsageError(f"{path} is no exported program: {type(error).__name__}: {text}; {AGAIN}") from error


class _RefusedError(Exception):
    """Something in an archive that is more than tensors and words."""


def _members(archive: zipfile.ZipFile) -> dict[str, bytes]:
    """The members below the archive's folder. Stored as they are, so together no larger than the file."""
    names = archive.namelist()
    if len(set(names)) != len(names):
        raise _RefusedError("two of its members have one name")
    if OLD in names:
        raise _RefusedError("it is in the format of torch 2.7 and older, of pickles")
    if any(one.compress_type != zipfile.ZIP_STORED for one in archive.infolist()):
        raise ValueError("its members are compressed")
    root = names[0].partition("/")[0] + "/" if names else ""
    found = {name.removeprefix(root): archive.read(name) for name in names if name.startswith(root)}
    if found.get("archive_format") != HEAD["archive_format"] or GRAPH not in found:
        raise ValueError(f"there is no {GRAPH} in it")
    if found.get("byteorder", HEAD["byteorder"]) != HEAD["byteorder"]:
        raise ValueError("its tensors are big-endian")
    return found


def _program(members: Mapping[str, bytes]) -> dict[str, bytes]:
    """The members that make up the program, each read and written again."""
    for name in PICKLED_WHOLE:
        if name in members:
            raise _RefusedError(f"{name} is a pickle of all its tensors")
    graph = json.loads(members[GRAPH])
    _plain(graph)
    graph["guards_code"] = []  # Python source; the run checks sizes by itself
    found = {**HEAD, "archive_version": members["archive_version"], GRAPH: _json(graph)}
    for folder, (table, prefix) in PAYLOADS.items():
        config = json.loads(members[table])
        found[table] = _json(config)
        for name, entry in config["config"].items():
            file = _payload(name, entry, folder, prefix)
            found[file] = members[file]
    found[SAMPLE_INPUTS] = _sample_inputs(members.get(SAMPLE_INPUTS, b""))
    return found


def _payload(name: str, entry: Mapping[str, Any], folder: str, prefix: str) -> str:
    """The member that holds a tensor's bytes."""
    file = entry["path_name"]
    if entry["use_pickle"] is not False:
        raise _RefusedError(f"'{name}' in its {folder} is a pickled tensor (use_pickle)")
    if not file.startswith(prefix) or not PLAIN.fullmatch(file):
        raise _RefusedError(f"'{name}' in its {folder} is an object, not a tensor ({file})")
    return f"data/{folder}/{file}"


def _sample_inputs(content: bytes) -> bytes:
    """Sample inputs that torch reads without unpickling objects; where it cannot, `torch.export.load` would go on."""
    import torch

    try:
        if content:
            torch.load(io.BytesIO(content), weights_only=True)
    except MemoryError:
        raise  # of a process that is held to limits: those are told
    except Exception:
        raise _RefusedError(f"{SAMPLE_INPUTS} holds pickled objects") from None
    return content


def _plain(value: Any, key: str = "") -> None:
    """Raise _RefusedError where a graph holds more than words: `value` is a part of it, called `key`."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name == "as_custom_obj" or (name in ("custom_obj", "custom_obj_values") and inner):
                raise _RefusedError("its graph holds a custom object")
            _plain(inner, name)
    elif isinstance(value, list):
        for inner in value:
            _plain(inner, key)
    elif isinstance(value, str):
        if key in NAMES and value and not value.isidentifier():
            raise _RefusedError(f"its graph has the name {value[:60]!r}, no identifier")
        if (check := CHECKS.get(key)) is not None and not check(value):
            raise _RefusedError(f"its graph has {value[:60]!r} in '{key}'")


def _operator(target: str) -> bool:
    known = OPERATOR.fullmatch(target) or ON_SIZES.fullmatch(target)
    return bool(known) and not target.startswith(READS_FILES)


def _size(text: str) -> bool:
    """An expression of numbers, names and the functions that torch writes into sizes."""
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    called = [node.func for node in nodes if isinstance(node, ast.Call)]
    return (
        all(isinstance(node, SIZE_NODES) for node in nodes)
        and all(isinstance(function, ast.Name) and function.id in FUNCTIONS for function in called)
        and all(PLAIN.fullmatch(str(node.value)) for node in nodes if isinstance(node, ast.Constant))
    )


def _structure(text: str) -> bool:
    """A nest of tuples, lists and dicts: other types, and enums among their keys, are found by importing a module."""

    def nodes(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        yield node
        for child in node["children_spec"]:
            yield from nodes(child)

    def words(context: Any) -> bool:
        said = json.loads(context) if isinstance(context, str) else context
        return said is None or (isinstance(said, list) and all(isinstance(one, str | int) for one in said))

    return all(node["type"] in CONTAINERS and words(node["context"]) for node in nodes(json.loads(text)[1]))


CHECKS = {
    "target": _operator,
    "as_operator": _operator,
    "expr_str": _size,
    "in_spec": _structure,
    "out_spec": _structure,
}


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _written(members: Mapping[str, bytes]) -> bytes:
    """An archive of these members, stored, without times."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(f"program/{name}"), content)
    return written.getvalue()
