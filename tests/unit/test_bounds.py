"""Files of somebody else's: what is no file, too large, or larger than it looks ends in one line, unread."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.lib import format as npy
from onnx import TensorProto, helper, numpy_helper

from pipeline import bounds, data_files, fits, foreign, inspection
from pipeline.errors import UsageError
from pipeline.stages import Job
from pipeline.worker import run_isolated


@pytest.fixture(autouse=True)
def found_by_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage functions below, which a worker does not find by itself."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


def hog(job: Job) -> dict[str, object]:
    return {"taken": len(np.ones(job.settings["bytes"], np.uint8))}


def spin(job: Job) -> dict[str, object]:
    while True:
        sum(range(10_000))


def asked(**settings: object) -> Job:
    return Job("read", settings, {}, Path(), 0)


def test_a_reader_is_held_to_its_memory_and_its_time():
    limits = bounds.Limits(bounds.GIB, 60)
    assert run_isolated("tests.unit.test_bounds:hog", asked(bytes=2**20), limits) == {"taken": 2**20}
    with pytest.raises(UsageError, match=r"read: reading the model takes more than 1.0 GiB of memory: is it one\?"):
        run_isolated("tests.unit.test_bounds:hog", asked(bytes=2**31), limits)
    with pytest.raises(UsageError, match=r"read: reading the model takes more than 2 s of computing: is it one\?"):
        run_isolated("tests.unit.test_bounds:spin", asked(), bounds.Limits(bounds.GIB, 2))


@pytest.mark.parametrize("name", ["m.onnx", "m.tflite", "m.pt2", "m.xml"])
def test_pipes_devices_and_giants_are_never_opened(tmp_path, name):
    for wrong, words in ((os.mkfifo, "is a pipe"), (os.mkdir, "is a folder")):
        wrong(tmp_path / name)
        with pytest.raises(UsageError, match=words):
            inspection.examine(name, tmp_path)
        (Path.unlink if wrong is os.mkfifo else Path.rmdir)(tmp_path / name)
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(UsageError, match="is a device"):
        inspection.examine(name, tmp_path)
    (tmp_path / name).unlink()
    with (tmp_path / name).open("wb") as stream:
        stream.truncate(2**42)  # of nothing
    with pytest.raises(UsageError, match=r"has 4096.0 GiB, more than the [\d.]+ that can be read of a model"):
        inspection.examine(name, tmp_path)


def test_fit_reads_no_pipe(tmp_path):
    os.mkfifo(tmp_path / "m.tflite")
    with pytest.raises(UsageError, match="is a pipe"):
        fits.fit(tmp_path / "m.tflite", None, None, None)


def bomb(known: bool) -> onnx.ModelProto:
    """A few bytes that are 64 GiB once a runtime folds its constants; `known`: shape inference sees it."""
    size = numpy_helper.from_array(np.array([2**34]), "size")
    nodes = [helper.make_node("ConstantOfShape", ["size"], ["zeros"])]
    if not known:
        size = numpy_helper.from_array(np.array([2.0**34], np.float32), "real")
        nodes.insert(0, helper.make_node("Cast", ["real"], ["size"], to=TensorProto.INT64))
    nodes += [helper.make_node("ReduceSum", ["zeros"], ["z"], keepdims=0), helper.make_node("Add", ["x", "z"], ["y"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [size])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def bring(job: Job) -> dict[str, object]:
    foreign.brought(Path(job.settings["file"]), {"x": np.zeros((2, 4), np.float32)})
    return {}


@pytest.mark.parametrize(
    ("known", "words"), [(True, "64.0 GiB a sample: no device holds that"), (False, "m.onnx does not run")]
)
def test_a_bomb_is_refused_whether_or_not_its_size_can_be_seen(tmp_path, known, words):
    file = tmp_path / "m.onnx"
    onnx.save(bomb(known), file)
    with pytest.raises(UsageError, match=words) as caught:
        run_isolated("tests.unit.test_bounds:bring", asked(file=str(file)), bounds.of_model(file))
    assert "\n" not in str(caught.value)


def test_machines_of_many_cores_have_room_for_their_threads(tmp_path, monkeypatch):
    (tmp_path / "m.onnx").write_bytes(b"")
    monkeypatch.setattr(bounds, "memory", lambda: 512 * bounds.GIB)
    room = []
    for cores in (2, 128):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        room.append(bounds.of_model(tmp_path / "m.onnx").memory)
    assert room[1] - room[0] >= 126 * 2 * 8 * 2**20  # two pools of threads with stacks of 8 MiB


def header(shape: tuple[int, ...], dtype: str = "<f4") -> bytes:
    stream = io.BytesIO()
    npy.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue()


@pytest.mark.parametrize(
    ("member", "words"),
    [
        (
            header((2**40,)) + b"1234",
            r"is of \[1099511627776\] float32 by its header, and 132 bytes are there",
        ),
        (header((-1,)), "train_x"),
        (header((2,), "|O"), "'train_x' holds Python objects, which are not read"),
        (b"no array", "cannot be read"),
        (header((2,)), "cannot be read|is of"),
    ],
    ids=["giant", "negative", "pickled", "none", "short"],
)
def test_an_npz_that_says_what_it_does_not_hold_is_refused(tmp_path, member, words):
    with zipfile.ZipFile(tmp_path / "all.npz", "w") as archive:
        archive.writestr("train_x.npy", member)
    with pytest.raises(UsageError, match=words) as caught:
        data_files.read("all.npz", tmp_path)
    assert "\n" not in str(caught.value)


def test_an_npz_that_unpacks_to_more_than_the_memory_is_refused(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "all.npz", train_x=np.zeros(2**22, np.uint8))
    assert (tmp_path / "all.npz").stat().st_size < 2**14
    monkeypatch.setattr(bounds, "memory", lambda: 2**20)
    with pytest.raises(UsageError, match="unpacks to"):
        data_files.read("all.npz", tmp_path)


@pytest.mark.parametrize("spoil", [lambda f: f.write_bytes(b"PK no zip"), lambda f: f.write_bytes(b""), os.mkfifo])
def test_what_is_no_npz_is_one_line(tmp_path, spoil):
    spoil(tmp_path / "all.npz")
    with pytest.raises(UsageError, match=r"all\.npz (cannot be read|is a pipe)"):
        data_files.read("all.npz", tmp_path)


def test_pictures_have_bounds_too(tmp_path, monkeypatch):
    from PIL import Image

    folder = tmp_path / "cats"
    folder.mkdir()
    Image.new("L", (40, 40)).save(folder / "a.png")
    monkeypatch.setattr(data_files, "MOST_PIXELS", 1000)
    with pytest.raises(UsageError, match=r"a.png is of 40 x 40 pixels: 1,000 at most"):
        data_files.read("cats/..", tmp_path)
    (folder / "a.png").unlink()
    os.mkfifo(folder / "a.png")
    with pytest.raises(UsageError, match=r"a\.png is a pipe"):
        data_files.read("cats/..", tmp_path)
