"""Encodings: AIMET's JSON there and back, hand-edited files, differences."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.encodings import Encoding, Encodings, apply, diff, encoding, read, to_json, to_qparams
from calibration.errors import CalibrationError
from calibration.qparams import dequantize, from_range, limits
from calibration.schemes import SCHEMES, Granularity, TensorScheme

U8, S8 = SCHEMES["u8s8"].activation, SCHEMES["s8s8"].activation
S16 = TensorScheme(16, True, True, Granularity.PER_TENSOR)
ends = st.floats(-1e6, 1e6, width=32)


@given(ends, ends, st.sampled_from([U8, S8, S16]))
def test_there_and_back_is_the_same_number_for_every_code(a: float, b: float, scheme: TensorScheme) -> None:
    asked = from_range(min(a, b), max(a, b), scheme)
    one = encoding(asked.scale, asked.zero_point, scheme.bits, scheme.signed)
    back = to_qparams("t", one, scheme)
    codes = np.array([scheme.qmin, 0 if scheme.signed else 128, scheme.qmax])
    assert (dequantize(codes, back) == dequantize(codes, asked)).all()
    low, high = one.ends[0]
    assert (low, high) == pytest.approx(tuple(map(float, limits(asked))), rel=1e-6, abs=1e-30)


def test_files_are_read_as_written(tmp_path: Path) -> None:
    made = Encodings(
        {"x": encoding(0.1, 3, 8, False), "conv/1:0": encoding(1e-3, 0, 8, True)},
        {"w": encoding([0.1, 0.2], [0, 0], 8, True)},
    )
    assert made.parameters["w"].symmetric
    assert made.parameters["w"].offset == (-128, -128)
    file = tmp_path / "e.json"
    file.write_text(to_json(made))
    assert read(file) == made
    row = json.loads(file.read_text())["param_encodings"][0]
    assert (row["enc_type"], row["bw"], row["is_sym"]) == ("PER_CHANNEL", 8, True)


def test_the_older_format_and_float_entries(tmp_path: Path) -> None:
    old = {
        "bitwidth": 8,
        "dtype": "int",
        "is_symmetric": "False",
        "max": 2.45,
        "min": -0.1,
        "offset": -10,
        "scale": 0.01,
    }
    record = {
        "version": "0.6.1",
        "activation_encodings": {"x": [old], "half": [{"bitwidth": 16, "dtype": "float"}]},
        "param_encodings": {"w": [old | {"is_symmetric": "True", "offset": -128}] * 3},
    }
    file = tmp_path / "e.json"
    file.write_text(json.dumps(record))
    found = read(file)
    assert found.activations == {"x": Encoding(8, False, (0.01,), (-10,))}
    assert found.parameters == {"w": Encoding(8, True, (0.01,) * 3, (-128,) * 3)}
    assert found.activations["x"].ends[0] == pytest.approx((-0.1, 2.45))


GOOD = {"name": "x", "dtype": "INT", "enc_type": "PER_TENSOR", "bw": 8, "is_sym": False, "scale": [0.1], "offset": [-3]}


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        ({"scale": [0.0]}, "scales must be positive"),
        ({"scale": [float("nan")]}, "scales must be positive"),
        ({"scale": []}, "0 scales"),
        ({"offset": [3]}, "offsets must be whole numbers"),
        ({"offset": [-2.5]}, "offsets must be whole numbers"),
        ({"bw": 99}, "99 bits"),
        ({"scale": [0.1, 0.2], "offset": [-1, -2, -3]}, "do not go together"),
        ({"scale": "wide"}, "not encodings"),
    ],
)
def test_bad_entries_are_named(tmp_path: Path, harm: dict[str, object], says: str) -> None:
    file = tmp_path / "e.json"
    file.write_text(json.dumps({"version": "1.0.0", "activation_encodings": [GOOD | harm], "param_encodings": []}))
    with pytest.raises(CalibrationError, match=says):
        read(file)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"activation_encodings": 3, "param_encodings": []}'])
def test_other_files_are_no_encodings(tmp_path: Path, text: str) -> None:
    file = tmp_path / "e.json"
    file.write_text(text)
    with pytest.raises(CalibrationError, match="not encodings"):
        read(file)


def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "e.json"
    file.write_text(json.dumps({"activation_encodings": [GOOD, GOOD], "param_encodings": []}))
    with pytest.raises(CalibrationError, match="'x' stands there twice"):
        read(file)


def test_edited_ranges_take_the_place_of_found_ones() -> None:
    ranges = {"a": from_range(-1, 1, U8), "b": from_range(0, 4, U8)}
    edited = apply(ranges, {"b": encoding(0.5, 10, 8, False)}, U8)
    assert edited["a"] is ranges["a"]
    assert (float(edited["b"].scale), int(edited["b"].zero_point)) == (0.5, 10)
    signed = apply({"b": from_range(0, 4, S8)}, {"b": encoding(0.5, 10, 8, False)}, S8)
    assert int(signed["b"].zero_point) == 10 - 128  # the same real numbers
    with pytest.raises(CalibrationError, match="1 of 2 encodings are of another graph: it has no tensor 'c'"):
        apply(ranges, {"b": encoding(0.5, 10, 8, False), "c": encoding(1, 0, 8, False)}, U8)
    with pytest.raises(CalibrationError, match="16 bits, but the scheme's activations have 8"):
        apply(ranges, {"b": encoding(0.5, 10, 16, True)}, U8)
    with pytest.raises(CalibrationError, match="2 scales, but activations take one"):
        apply(ranges, {"b": encoding([0.5, 1], 10, 8, False)}, U8)


def test_diff_names_what_differs_and_what_is_on_one_side() -> None:
    one, two = encoding(0.5, 10, 8, False), encoding(0.25, 10, 8, False)
    left = Encodings({"same": one, "moved": one, "gone": one}, {"w": one})
    right = Encodings({"same": one, "moved": two, "new": one}, {"w": one})
    assert [(row.name, row.left, row.right) for row in diff(left, right)] == [
        ("moved", one, two),
        ("gone", one, None),
        ("new", None, one),
    ]
    assert diff(left, left) == []
