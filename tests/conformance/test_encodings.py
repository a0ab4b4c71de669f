"""What stands in each target's own file is what was asked for, and can be edited and asked for again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from calibration.encodings import apply, encoding, read, to_json
from calibration.schemes import SCHEMES
from targets import encodings

from .case import Case


@pytest.mark.parametrize("network", ["conv_bn_relu", "linear"])
@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "tflite"])
def test_files_hold_what_was_asked(
    case_of: Callable[[str, str], Case], target: str, network: str, tmp_path: Path
) -> None:
    case = case_of(target, network)
    candidate = case.ours[0]
    assert candidate.scheme is not None
    scheme = SCHEMES[candidate.scheme].activation
    asked = case.ranges(candidate)
    assert asked is not None
    found = encodings.read(case.artifact(candidate).path)
    shared = {name: one for name, one in found.activations.items() if name in asked}
    assert case.model.inputs[0].name in shared
    assert len(shared) >= 2
    for name, one in shared.items():
        want = encoding(asked[name].scale, asked[name].zero_point, scheme.bits, scheme.signed)
        assert one.offset == want.offset, name
        assert one.scale == pytest.approx(want.scale, rel=1e-6), name

    edited = {case.model.inputs[0].name: encoding(0.125, 100, 8, False)}
    file = tmp_path / "edited.json"
    file.write_text(to_json(type(found)(edited, {})))
    again = case.quantize(candidate, apply(asked, read(file).activations, scheme))
    stored = encodings.read(again.path).activations
    assert {name: stored[name] for name in edited} == edited
    assert all(stored[name] == one for name, one in shared.items() if name not in edited)
