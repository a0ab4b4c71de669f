"""A model's manifest: what is none is said to be none, whatever is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from targets.base import MANIFEST, Model, TensorSpec, read_manifest, write_manifest

SPEC = TensorSpec("x", "float32", (None, 3))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.onnx").write_bytes(b"model")
    write_manifest(Model(tmp_path / "model.onnx", (SPEC,), (SPEC,), ("x",)))
    return tmp_path


def test_what_was_written_is_read(folder: Path) -> None:
    assert read_manifest(folder) == Model(folder / "model.onnx", (SPEC,), (SPEC,), ("x",))


@pytest.mark.parametrize(
    "change",
    [
        {"tensors": True},
        {"inputs": None},
        {"inputs": [3]},
        {"outputs": [{"name": "x"}]},
        {"file": None},
        {"file": "../other/model.onnx"},
        {"file": "/etc/passwd"},
    ],
)
def test_what_describes_no_model_is_refused_by_its_name(folder: Path, change: dict[str, Any]) -> None:
    record = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(record | change))
    with pytest.raises(ValueError, match=r"model\.json does not describe a model"):
        read_manifest(folder)


@pytest.mark.parametrize("text", ["", "[]", "3", "null", "[" * 100_000, '{"file": "model.onnx"}'])
def test_what_is_no_manifest_at_all_is_refused(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_text(text)
    with pytest.raises(ValueError, match="does not describe a model"):
        read_manifest(folder)
