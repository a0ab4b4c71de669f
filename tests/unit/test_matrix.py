"""The conformance matrix is whole: a built-in target that cannot run here fails this test instead of leaving it."""

import pytest

from targets import registry


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "tflite"])
def test_a_built_in_target_is_published_and_ready(name: str) -> None:
    assert name in registry.names()
    assert registry.missing(registry.load(name)) == []
