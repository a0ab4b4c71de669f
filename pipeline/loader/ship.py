"""Writes what ships beside a model so that raw input becomes an answer: `declared.json` and its loaders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.artifact import sha256_file
from targets import base

SOURCE = Path(__file__).parent
DECLARED, PYTHON, CPP = "declared.json", "loader.py", "loader.hpp"


def write(folder: Path, data: Path, precision: str, activation: str, judged: str = "") -> None:
    """Add `declared.json`, `loader.py` and `loader.hpp` to the delivered model in `folder`.

    `data`: the data stage's folder, whose `declared.json` says what the factory declared. `precision`: the candidate's.
    `activation`: what makes probabilities of the first output, where the factory does not say: "softmax" or "none".
    `judged`: the output that tells the answer: it comes first.
    """
    said = json.loads((data / DECLARED).read_text())
    model = base.read_manifest(folder)
    codes = _codes(model.path)
    declared = {
        "version": 1,
        "files": {file.name: sha256_file(file) for file in base.model_files(model.path)},
        "precision": precision,
        "inputs": [
            {
                **said["preprocessing"].get(spec.name, {}),
                **_varies(spec.name, said.get("lengths")),
                "name": spec.name,
                "dtype": spec.dtype,
                "shape": list(_plain_shape(spec)[1:]),
                "model": _place(spec, codes),
            }
            for spec in model.inputs
        ],
        "outputs": [
            {"name": spec.name, "shape": list(_plain_shape(spec)[1:]), "model": _place(spec, codes)}
            for spec in sorted(model.outputs, key=lambda spec: spec.name != judged)
        ],
        "activation": said.get("activation") or activation,
        "labels": said["labels"],
    }
    (folder / DECLARED).write_text(json.dumps(declared, indent=1) + "\n")
    shutil.copy(SOURCE / PYTHON, folder / PYTHON)
    (folder / CPP).write_text((SOURCE / CPP).read_text().replace("@TABLES@", tables(declared)))


def _varies(name: str, lengths: Mapping[str, Any] | None) -> dict[str, Any]:
    if lengths is None or name not in lengths["inputs"]:
        return {}
    return {"varies": {"axis": lengths["inputs"][name], "min": lengths["min"], "max": lengths["max"]}}


def _plain_shape(spec: base.TensorSpec) -> tuple[int | None, ...]:
    """In the network's layout."""
    if spec.permutation is None:
        return spec.shape
    return tuple(spec.shape[spec.permutation.index(axis)] for axis in range(len(spec.shape)))


def _place(spec: base.TensorSpec, codes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """An input or output as the deployed file has it."""
    own = {"dtype": spec.dtype, "scale": 0.0, "zero_point": 0, **codes.get(spec.name, {})}
    return {"shape": list(spec.shape), "permutation": spec.permutation and list(spec.permutation), **own}


def _codes(path: Path) -> dict[str, dict[str, Any]]:
    """Inputs and outputs that a file holds as integers, by their names: only TFLite has such."""
    if path.suffix != ".tflite":
        return {}
    from targets.tflite import flatbuffer

    inputs, outputs = flatbuffer.interface(flatbuffer.read(path))
    return {
        one.name: {
            "dtype": one.type.lower(),
            "scale": 0.0 if one.scale is None else float(one.scale[0]),
            "zero_point": 0 if one.zero_point is None else int(one.zero_point[0]),
        }
        for one in (*inputs, *outputs)
    }


def tables(declared: Mapping[str, Any]) -> str:
    """The declaration as C++ tables, for the end of loader.hpp."""
    inputs = [_cpp_input(spec) for spec in declared["inputs"]]
    outputs = [_braced([_text(spec["name"]), *_cpp_place(spec["model"])]) for spec in declared["outputs"]]
    files = [_braced([_text(name), _text(digest)]) for name, digest in declared["files"].items()]
    rows = {
        "std::vector<Input>& inputs": inputs,
        "std::vector<Output>& outputs": outputs,
        "std::vector<File>& files": files,
        "std::vector<std::string>& labels": [_text(label) for label in declared["labels"]],
    }
    made = [
        f"inline const {head}() {{\n    static const {head.partition('&')[0]} table = {{\n"
        + "".join(f"        {row},\n" for row in values)
        + "    };\n    return table;\n}\n"
        for head, values in rows.items()
    ]
    activation = f"static const std::string name = {_text(declared['activation'])};"
    made.append(f"inline const std::string& activation() {{\n    {activation}\n    return name;\n}}\n")
    return "\n".join(made)


def _cpp_input(spec: Mapping[str, Any]) -> str:
    before, _, after = (part.strip() for part in (spec.get("layout") or "").partition("->"))
    varies = spec.get("varies") or {"axis": 0, "min": 0, "max": 0}
    scaled = any(spec.get(key) is not None for key in ("divide_by", "mean", "std"))
    fields = [
        _text(spec["name"]),
        _text(before),
        _text(after),
        _numbers(spec.get("resize")),
        _numbers(spec.get("crop")),
        str(scaled).lower(),
        repr(float(spec.get("divide_by", 1.0))),
        _numbers(spec.get("mean", 0.0), float),
        _numbers(spec.get("std", 1.0), float),
        *(str(value) for value in (varies["axis"] - 1, varies["min"], varies["max"])),
        str(not spec["dtype"].startswith("float")).lower(),
        _numbers([-1 if size is None else size for size in spec["shape"]]),
        *_cpp_place(spec["model"]),
    ]
    return _braced(fields)


def _cpp_place(model: Mapping[str, Any]) -> list[str]:
    return [_numbers(model["permutation"]), f"static_cast<float>({model['scale']!r})", str(model["zero_point"])]


def _numbers(values: Any, kind: type = int) -> str:
    if values is None:
        return "{}"
    return _braced([repr(kind(value)) for value in (values if isinstance(values, Sequence) else [values])])


def _braced(fields: Sequence[str]) -> str:
    return "{" + ", ".join(fields) + "}"


def _text(value: str) -> str:
    """A C++ string literal; what is not ASCII as octal bytes of UTF-8, which end after three digits."""
    made = (chr(b) if 32 <= b < 127 and b not in b'"\\?' else f"\\{b:03o}" for b in value.encode())
    return 'std::string("' + "".join(made) + '")'
