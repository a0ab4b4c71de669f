"""Storage: bit for bit in every format, sizes against their formulas, codebooks against definitions."""

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pipeline import stored_weights
from pipeline.compression import codebook, storage
from pipeline.errors import UsageError

KINDS = [(name, zstd) for name in storage.FORMATS for zstd in (False, True)]


def same(a, b):
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


@st.composite
def tensors(draw):
    dtype = draw(st.sampled_from(["float32", "float16", "int8", "int64"]))
    shape = draw(array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=9))
    array = draw(arrays(dtype, shape))  # NaN, -0.0 and denormals among them
    return np.where(draw(arrays(bool, shape)), array, 0).astype(dtype)


@given(tensors())
@settings(deadline=None, max_examples=60)
def test_every_format_is_lossless(array):
    for name, zstd in KINDS:
        data = storage.encode(array, name, zstd)
        assert data is None or same(storage.decode(data), array), name


def sparse(share, shape=(96, 200), seed=0, dtype=np.int8):
    rng = np.random.default_rng(seed)
    values = np.clip(np.round(rng.normal(0, 30, shape)), -127, 127)
    values[np.abs(values) < 1] = 1
    return np.where(rng.random(shape) < share, 0, values).astype(dtype)


def test_sizes_are_their_formulas():
    array = sparse(0.9)
    n, kept = array.size, int((array != 0).sum())
    sizes = storage.measure("w", array)[0].bytes_by
    head = 4 + 4 * 2
    assert sizes["dense"] == head + 5 + n
    assert sizes["bitmap"] == head + 10 + n // 8 + kept
    assert sizes["csr"] == head + 15 + 2 * kept + 2 * 97  # columns fit a byte, row pointers two
    assert sizes["csc"] == head + 15 + 2 * kept + 2 * 201
    assert sizes["coo"] == head + 15 + 3 * kept
    assert sizes["runs"] == pytest.approx(head + 10 + 2 * kept, abs=5)  # no run is longer than 254


def test_long_runs_go_on():
    array = np.zeros(5000, np.float32)
    array[[0, 254, 255, 511, 1021, 4999]] = 7
    assert same(storage.decode(storage.encode(array, "runs", False)), array)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 1.0])
def test_the_smallest_is_chosen_and_the_bound_is_below_it(share):
    row, data = storage.measure("w", sparse(share, (200, 900)))
    assert len(data) == row.bytes_by[row.best] == min(row.bytes_by.values())
    assert row.bound_bytes <= len(data)


def test_ninety_percent_zeros_of_int8_come_close_to_the_bound():
    row, data = storage.measure("w", sparse(0.9, (200, 864)))  # 172.8 KB
    assert row.dense_bytes == 172_800
    assert len(data) <= 29_000
    assert len(data) <= 1.16 * row.bound_bytes


def test_the_bound_is_the_entropy_of_the_histogram():
    array = sparse(0.7)
    counts = np.unique(array, return_counts=True)[1]
    shares = counts / counts.sum()
    assert storage.bound(array) == pytest.approx(-(shares * np.log2(shares)).sum() * array.size / 8)
    assert storage.bound(np.ones(100, np.float32)) == 4  # one value, once
    assert storage.bound(np.arange(1, 101, dtype=np.int64)) == 800


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_floats_come_close_to_the_bound_and_not_below(share):
    rng = np.random.default_rng(0)
    shape = (200, 300)
    weights = np.where(rng.random(shape) < share, 0, rng.normal(0, 0.1, shape)).astype(np.float32)
    row, data = storage.measure("w", weights)
    assert row.bound_bytes <= len(data) <= 1.25 * row.bound_bytes  # sign and exponent straddle bytes
    clustered, data = storage.measure("w", codebook.kmeans(weights, 4))
    assert clustered.bound_bytes <= len(data) < 0.2 * row.dense_bytes


def test_a_whole_model_packs_and_comes_back():
    model = {"a.weight": sparse(0.9, dtype=np.float32), "a.bias": np.arange(9.0), "steps": np.array(3)}
    data = storage.pack(model)
    back = storage.unpack(data, "model.edgew")
    assert list(back) == list(model)
    assert all(same(back[name], np.asarray(model[name])) for name in model)
    assert len(data) < sum(array.nbytes for array in model.values()) / 2


@pytest.mark.parametrize("harm", ["short", "long", "foreign", "flipped"])
def test_damage_is_one_line(harm):
    data = storage.pack({"w": sparse(0.9)})
    bad = {
        "short": data[:-9],
        "long": data + b"x",
        "foreign": b"PK" + data,
        "flipped": data[:30] + bytes(20) + data[50:],
    }
    with pytest.raises(UsageError, match=r"model\.edgew is (damaged|not a file of packed weights)") as caught:
        storage.unpack(bad[harm], "model.edgew")
    assert "\n" not in str(caught.value)


def test_a_dtype_without_a_format_is_named():
    with pytest.raises(UsageError, match="no format for tensors of complex64"):
        storage.encode(np.zeros(3, np.complex64), "dense", False)


def test_kmeans_has_few_values_keeps_zeros_and_no_move_lowers_its_error():
    rng = np.random.default_rng(0)
    weights = np.where(rng.random(4000) < 0.3, 0, rng.normal(0, 1, 4000)).astype(np.float32)
    clustered = codebook.kmeans(weights, 4)
    assert len(np.unique(clustered)) <= 16
    assert np.array_equal(clustered == 0, weights == 0)
    centres = np.unique(clustered[clustered != 0])
    live = weights[weights != 0]
    nearest = centres[np.abs(live[:, None] - centres).argmin(1)]
    np.testing.assert_allclose(nearest, clustered[weights != 0], atol=1e-6)  # each at its nearest centre
    for centre in centres:  # each centre the mean of its own
        assert centre == pytest.approx(live[nearest == centre].mean(), abs=1e-4)
    row, _ = storage.measure("w", clustered)
    assert row.bytes_by["codebook"] <= 4000 / 2 + 16 * 4 + 20


def test_powers_of_two_are_the_nearest_levels():
    weights = np.random.default_rng(1).normal(0, 0.3, 999).astype(np.float32)
    found = codebook.powers_of_two(weights, 4)
    top = round(np.log2(np.abs(weights).max()))
    levels = np.array([0.0] + [sign * 2.0**e for e in range(top - 6, top + 1) for sign in (1, -1)])
    assert set(found.tolist()) <= set(levels.tolist())
    np.testing.assert_allclose(np.abs(found - weights), np.abs(weights[:, None] - levels).min(1), atol=1e-7)
    assert np.array_equal(codebook.powers_of_two(np.zeros(3), 4), np.zeros(3))


def test_few_values_are_kept_as_they_are():
    weights = np.array([0.0, 1.5, -2.0, 1.5])
    assert same(codebook.kmeans(weights, 3), weights)


@pytest.fixture
def checkpoint(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "model.safetensors"
    model = {"conv.weight": sparse(0.9, (64, 16, 3, 3), dtype=np.float32) / 50, "conv.bias": np.ones(64, np.float32)}
    save_file(model, path)
    return path, model


def command(*words):
    from typer.testing import CliRunner

    from pipeline.cli import app

    return CliRunner().invoke(app, ["storage", *map(str, words)])


def test_the_command_prints_bytes_beside_dense_and_the_bound(checkpoint, tmp_path):
    import json

    path, model = checkpoint
    packed = tmp_path / "model.edgew"
    done = command(path, "--out", packed, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["totals"]["dense_bytes"] == sum(array.nbytes for array in model.values())
    smallest = [row["bytes_by"][row["best"]] for row in told["tensors"]]
    assert told["totals"]["smallest_bytes"] == sum(smallest) < told["totals"]["dense_bytes"] / 4
    assert told["sqnr_db"] is None
    back = storage.unpack(packed.read_bytes(), "it")
    assert all(same(back[name], model[name]) for name in model)
    assert json.loads(command(packed, "--json").stdout)["totals"] == told["totals"]
    assert "bound" in command(path).stdout


def test_int8_and_levels_say_what_they_cost(checkpoint):
    import json

    path, _ = checkpoint
    eight = json.loads(command(path, "--int8", "--json").stdout)
    assert [row["dtype"] for row in eight["tensors"]] == ["float32", "int8", "float32"]
    codes = next(row for row in eight["tensors"] if row["dtype"] == "int8")
    assert codes["zeros"] >= 0.89
    assert eight["sqnr_db"] > 35
    few = json.loads(command(path, "--levels", "kmeans:3", "--json").stdout)
    assert 5 < few["sqnr_db"] < eight["sqnr_db"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["none.safetensors"], "no checkpoint at none.safetensors"),
        (["{model}", "--levels", "kmeans:9"], "--levels kmeans:9: expected KIND:BITS"),
        (["{model}", "--out", "/nowhere/x"], "cannot write /nowhere/x"),
        (["{folder}"], "no finished run at"),
        (["{several}"], "holds a network for each target: name one of "),
    ],
)
def test_bad_input_of_the_command_is_one_line(checkpoint, tmp_path, words, text):
    places = {"model": checkpoint[0], "folder": tmp_path / "empty", "several": tmp_path / "several"}
    places["folder"].mkdir()
    for target in ("openvino", "tflite"):
        (places["several"] / "pytorch" / target).mkdir(parents=True)
        shutil.copy(checkpoint[0], places["several"] / "pytorch" / target / "weights.safetensors")
    done = command(*[word.format(**places) for word in words])
    assert done.exit_code == 2
    assert text in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_int8_weights_with_nine_zeros_in_ten_come_near_their_entropy():
    """172,800 weights, magnitude pruned: 29 KB at most where the entropy of zeros and values is 25."""
    rng = np.random.default_rng(0)
    shapes = {"a": (96, 96, 3, 3), "b": (80, 48, 3, 3), "c": (48, 64, 3, 3), "d": (96, 288)}
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    cut = np.quantile(np.abs(np.concatenate([array.ravel() for array in weights.values()])), 0.9)
    for array in weights.values():
        array[np.abs(array) <= cut] = 0
    both, _ = stored_weights.reshape(weights, None, int8=True)
    codes = {name: array for name, array in both.items() if name in shapes}
    totals = stored_weights.totals(stored_weights.rows(codes))
    packed = storage.pack(codes)
    assert totals["dense_bytes"] == 172_800
    assert 24_500 < totals["bound_bytes"] < 26_000
    assert totals["bound_bytes"] < totals["smallest_bytes"] <= len(packed) <= 27_000  # asked for: 29,000
    back = storage.unpack(packed, "it")
    assert all(same(back[name], codes[name]) for name in codes)


def test_inspect_storage_is_the_same_command(checkpoint):
    from typer.testing import CliRunner

    from pipeline.cli import app

    path, _ = checkpoint
    both = [
        CliRunner().invoke(app, words).stdout for words in (["storage", str(path)], ["inspect", str(path), "--storage"])
    ]
    assert both[0] == both[1]
    assert "bitmap, runs, codebook, zstd: storage only, it runs dense weights; int8: storage; time as the" in both[0]
