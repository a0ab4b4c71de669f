"""Targets by name."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from targets import registry
from targets.base import Target, TargetError


def test_built_in_targets_come_through_the_door():
    assert {"onnxruntime", "openvino", "tflite"} <= set(registry.names())
    for name in registry.names():
        target = registry.load(name)
        assert isinstance(target, Target)
        assert target.name == name


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(TargetError, match="unknown target 'openvno': did you mean 'openvino'") as caught:
        registry.load("openvno")
    assert caught.value.kind == "unsupported"
    with pytest.raises(TargetError, match=r"known are .*onnxruntime"):
        registry.entry("zzzz")


def test_missing_packages_are_named_with_the_command():
    target = SimpleNamespace(name="toy", packages=("numpy", "no-such-distribution-1"), extra="toys")
    lacking = registry.missing(target)
    assert lacking == ["no-such-distribution-1"]
    error = registry.missing_error(target, lacking)
    assert error.kind == "missing"
    assert str(error).endswith("no-such-distribution-1, not installed here: " + registry.remedy(lacking))
    assert registry.remedy(lacking).endswith("-m pip install no-such-distribution-1")


def test_loading_targets_imports_nothing_heavy():
    code = (
        "import sys; from targets import registry; [registry.load(n) for n in registry.names()]; "
        "print(*{'torch', 'onnx', 'onnxruntime', 'openvino', 'nncf', 'litert_torch', 'ai_edge_litert', 'jax', 'scipy'}"
        " & set(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == ""
