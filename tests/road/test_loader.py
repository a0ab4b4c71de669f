"""What ships beside a model: raw input through loader.py and loader.hpp, against the pipeline's own result."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import api, data_files, recipe, user
from pipeline.data import Data, from_factory
from pipeline.store import Store
from targets import base, registry

TARGETS = ("openvino", "tflite", "onnxruntime")
RECIPES = Path(recipe.__file__).parent / "recipes"
SIZES = {"train": 16, "calibration": 24, "selection": 60, "gate": 60}
EXAMPLES = ("watch", "fashion", "images")

WORDS = ("best", "label", "probability")

NET = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    layer = nn.Conv1d if {channels} == 6 else nn.Conv2d
    pool = (nn.AdaptiveAvgPool1d if {channels} == 6 else nn.AdaptiveAvgPool2d)(1)
    body = layer({channels}, 8, 3, 2), nn.ReLU(), layer(8, 8, 3), pool
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(8, {classes}))
"""
SHIPPED = """
import sys
sys.path.insert(0, {folder!r})
import numpy as np
sys.modules["pipeline"] = sys.modules["targets"] = None   # nothing of the project
from loader import Loader
model = Loader({folder!r})
raw = np.load({raw!r})
found = [model.answer(sample) for sample in raw]
np.savez({out!r}, prepared=np.concatenate([next(iter(model.prepare(sample).values())) for sample in raw]),
         outputs=np.stack([one["outputs"]["output"] for one in found]), best=[one["class"] for one in found],
         probability=[one["probability"] for one in found], label=[one["label"] for one in found])
"""
MAIN = """
#include "loader.hpp"
#include <cstdio>
#include <iostream>

// RAW.bin: samples of {kind}, one after another; SCORES.bin: the model's outputs for them.
int main(int, char** argv) try {{
    deploy::check_files(argv[1]);
    std::ifstream raw(argv[2], std::ios::binary), scores(argv[3], std::ios::binary);
    const std::vector<long> shape = {{{shape}}};
    std::vector<{kind}> sample(deploy::count(shape));
    std::vector<{code}> output({classes});
    while (raw.read(reinterpret_cast<char*>(sample.data()), sample.size() * sizeof({kind})) &&
           scores.read(reinterpret_cast<char*>(output.data()), output.size() * sizeof({code}))) {{
        const deploy::Tensor made = deploy::prepare(deploy::inputs()[0], sample.data(), shape);
        const std::vector<{code}> codes = deploy::codes<{code}>(deploy::inputs()[0], made);
        std::fwrite(codes.data(), sizeof({code}), codes.size(), stdout);
        const deploy::Answer answer = deploy::decide(deploy::outputs()[0], output.data(), {classes});
        std::fprintf(stderr, "%ld %s %.6f\\n", answer.index, answer.label.c_str(), answer.probability);
    }}
}} catch (const std::exception& error) {{
    std::cerr << error.what() << '\\n';
    return 1;
}}
"""


def small_data(name: str, folder: Path) -> str:
    """A folder's `data`: the first samples of an example's splits, or images."""
    if name == "images":
        from PIL import Image

        rng = np.random.default_rng(0)
        for split, n in SIZES.items():
            for label in range(10):
                place = folder / "images" / split / f"class {label}"
                place.mkdir(parents=True)
                for index in range(-(-n // 10)):
                    Image.fromarray(rng.integers(0, 255, (14, 11, 3), np.uint8)).save(place / f"{index}.png")
        return "images/"
    (folder / "data.py").write_text(
        f"import sys\nfrom pipeline import user\nSIZES = {SIZES}\n"
        f"def splits():\n"
        f"    whole = user.call('data:splits', {str(RECIPES / name)!r})\n"
        "    cut = {split: tuple(array[:n] for array in whole[split]) for split, n in SIZES.items()}\n"
        "    return whole | cut\n"
    )
    return "data:splits"


@pytest.fixture(scope="module", params=EXAMPLES)
def shipped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Data, Any]:
    """A delivered run of a small network, its data, and the raw samples that the calibration split begins with."""
    name = request.param
    if name == "fashion" and not (user.call("data:folder", RECIPES / name) / "train-images-idx3-ubyte.gz").is_file():
        pytest.skip("no Fashion-MNIST here ('make fashion-mnist' fetches it)")
    folder = tmp_path_factory.mktemp(name)
    source = small_data(name, folder)
    returned = data_files.read(source, folder)
    data = from_factory(returned, source)
    channels = data.splits["gate"].inputs["input"].shape[1]
    (folder / "net.py").write_text(NET.format(channels=channels, classes=len(data.labels)))
    quick = {"budget_s": 0.1, "min_rounds": 5}
    table: dict[str, Any] = {
        "model": "net:build",
        "data": source,
        "pretrained": True,
        "stages": [],
        "targets": list(TARGETS),
        "weights": {"method": "none"},
        "calibrate": {"samples": 16, "observers": ["mse"], "strategies": ["default"]},
        "quantize": {"candidates": ["ours-mse"], "prefer": "size"},
        "race": quick,
        "profile": quick,
        "gate": {"margin_points": 90.0},
    }
    made = recipe.from_table(table, folder, "recipe")
    report = api.run(made, out=folder / "out", store=Store(folder / "store"), emit=lambda event: None)
    assert report is not None
    assert all(row.shipped for row in report.targets.values()), {n: r.reasons for n, r in report.targets.items()}
    return folder / "out", data, np.stack(returned["raw"])


@pytest.mark.slow
def test_raw_input_gives_the_pipelines_own_result(shipped: tuple[Path, Data, Any], tmp_path: Path) -> None:
    """In Python, with nothing of ours to import, on every runtime; in C++, around the same model's outputs."""
    out, data, raw = shipped
    inputs = {name: array[: len(raw)] for name, array in data.splits["calibration"].inputs.items()}
    np.save(tmp_path / "raw.npy", raw)
    kinds = {json.loads((out / name / "declared.json").read_text())["precision"] for name in TARGETS}
    assert "int8" in kinds
    for name in TARGETS:
        folder, found = out / name, tmp_path / f"{name}.npz"
        declared = json.loads((folder / "declared.json").read_text())
        script = SHIPPED.format(folder=str(folder), raw=str(tmp_path / "raw.npy"), out=str(found))
        subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)
        target, model = registry.load(name), base.read_manifest(folder)
        with target.open(
            model, base.find(target, model, "ours-mse" if declared["precision"] == "int8" else "float")
        ) as session:
            rows = [session.run({key: array[[i]] for key, array in inputs.items()}) for i in range(len(raw))]
        own = np.concatenate([row["output"] for row in rows])
        with np.load(found) as told:
            np.testing.assert_allclose(told["outputs"], own, rtol=1e-5, atol=1e-5)
            assert told["best"].tolist() == own.argmax(1).tolist()
            assert told["label"].tolist() == [data.labels[k] for k in own.argmax(1)]
            shares = np.exp(own - own.max(1, keepdims=True))
            np.testing.assert_allclose(told["probability"], (shares / shares.sum(1, keepdims=True)).max(1), rtol=1e-5)
            prepared = told["prepared"]
            words = [f"{k} {label} {p:.6f}" for k, label, p in zip(*(told[n] for n in WORDS), strict=True)]
        spec, end = declared["inputs"][0]["model"], declared["outputs"][0]["model"]
        if not spec["scale"]:  # float inputs: exactly the split's own
            np.testing.assert_array_equal(prepared, base.to_model_layout(inputs, model.inputs)["input"])
        raw.tofile(tmp_path / "raw.bin")
        scores = np.rint(own / np.float32(end["scale"])) + end["zero_point"] if end["scale"] else own
        scores.astype(end["dtype"]).tofile(tmp_path / "scores.bin")
        program = compiled(tmp_path, folder, raw, prepared.dtype, own.shape[1])
        command = [str(program), str(folder), str(tmp_path / "raw.bin"), str(tmp_path / "scores.bin")]
        done = subprocess.run(command, check=True, capture_output=True)
        assert done.stdout == prepared.tobytes()
        assert done.stderr.decode().splitlines() == words


def compiled(place: Path, folder: Path, raw: Any, code: Any, classes: int) -> Path:
    """The program MAIN around the artifact's own header, warnings being errors."""
    kinds = {"uint8": "std::uint8_t", "float32": "float", "int8": "std::int8_t"}
    shape = ", ".join(map(str, raw.shape[1:]))
    text = MAIN.format(kind=kinds[str(raw.dtype)], shape=shape, code=kinds[str(code)], classes=classes)
    (place / "main.cpp").write_text(text)
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{folder}"]
    subprocess.run([compiler(), *flags, str(place / "main.cpp"), "-o", str(place / "main")], check=True)
    return place / "main"


def compiler() -> str:
    found = shutil.which("g++") or shutil.which("clang++")
    if found is None:
        pytest.skip("no C++ compiler")
    return found


@pytest.mark.slow
def test_another_model_and_another_shape_are_refused_in_one_line(
    shipped: tuple[Path, Data, Any], tmp_path: Path
) -> None:
    out, _, raw = shipped
    folder = tmp_path / "copy"
    shutil.copytree(out / "onnxruntime", folder)
    np.save(tmp_path / "raw.npy", raw[0][1:])
    command = [sys.executable, str(folder / "loader.py"), str(tmp_path / "raw.npy")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("loader: input 'input' has shape")
    assert "declared is" in done.stderr
    raw.tofile(tmp_path / "raw.bin")
    program = compiled(tmp_path, folder, raw[:, 1:], np.dtype("float32"), 10)
    (tmp_path / "scores.bin").write_bytes(bytes(4 * 10 * len(raw)))
    arguments = [str(program), str(folder), str(tmp_path / "raw.bin"), str(tmp_path / "scores.bin")]
    done = subprocess.run(arguments, check=False, capture_output=True, text=True, errors="replace")
    assert done.returncode == 1
    assert "input 'input' has shape" in done.stderr
    model = next(folder.glob("*.onnx"))
    model.write_bytes(model.read_bytes()[:-1] + b"\x07")
    for run in (command, arguments):
        done = subprocess.run(run, check=False, capture_output=True, text=True)
        assert done.returncode == 1
        assert "model.onnx has SHA-256" in done.stderr
        assert len(done.stderr.splitlines()) == 1
