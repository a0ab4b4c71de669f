"""Which of several outputs a finished program is judged by, .onnx and .pt2 alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from pipeline import beginning, data, recipe
from pipeline.data import Split
from pipeline.errors import UsageError
from pipeline.stages import Job, bring

RNG = np.random.default_rng(0)
BODY = RNG.normal(size=(4, 6)).astype(np.float32)
HEAD = RNG.normal(size=(6, 3)).astype(np.float32)


class Net(nn.Module):
    """An embedding first, the scores of three classes second."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Parameter(torch.tensor(BODY)), nn.Parameter(torch.tensor(HEAD))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        embedding = x @ self.body
        return {"embedding": embedding, "scores": embedding @ self.head}


def splits() -> data.Data:
    def one(n: int) -> Split:
        x = RNG.normal(size=(n, 4)).astype(np.float32)
        return Split({"x": x}, (x @ BODY @ HEAD).argmax(1))

    return data.Data({name: one(40) for name in data.SPLITS})


def write_program(path: Path) -> None:
    if path.suffix == ".pt2":
        example, batch = torch.zeros(2, 4), torch.export.Dim("batch", min=1, max=64)
        torch.export.save(torch.export.export(Net(), (example,), dynamic_shapes=({0: batch},)), path)
        return
    nodes = [
        helper.make_node("MatMul", ["x", "body"], ["embedding"]),
        helper.make_node("MatMul", ["embedding", "head"], ["scores"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width])
        for name, width in (("x", 4), ("embedding", 6), ("scores", 3))
    ]
    weights = [numpy_helper.from_array(BODY, "body"), numpy_helper.from_array(HEAD, "head")]
    graph = helper.make_graph(nodes, "two", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def brought(folder: Path, suffix: str, **task: str) -> dict[str, object]:
    write_program(folder / f"two.{suffix}")
    data.save(splits(), folder / "data")
    settings = {"model": f"two.{suffix}", "task": {"metric": "accuracy", "loss": "auto", **task}}
    (folder / "out").mkdir()
    return bring.run(Job("bring", settings, {"data": folder / "data"}, folder / "out", 0, {"folder": str(folder)}))


@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_a_program_is_judged_by_the_output_that_fits(tmp_path: Path, suffix: str) -> None:
    found = brought(tmp_path, suffix)
    assert found["output"] == "scores"
    assert found["outputs"] == ["embedding", "scores"]
    gate: Any = found["gate"]
    assert (gate["n"], gate["metric"]) == (40, 1.0)
    assert gate["chance"]["gain_low"] > 0


@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
@pytest.mark.parametrize(
    ("output", "says"),
    [("logits", "no output 'logits', only 'embedding' [n, 6], 'scores' [n, 3]"), ("x", "has no output 'x'")],
)
def test_a_named_output_must_be_there(tmp_path: Path, suffix: str, output: str, says: str) -> None:
    with pytest.raises(UsageError) as raised:
        brought(tmp_path, suffix, output=output)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ('[task]\noutput = "scores"\n', "scores"),
        ('[task]\nmetric = "accuracy@scores"\n', "scores"),
        ('[task]\nmetric = "macro_f1"\n', ""),
    ],
)
def test_a_recipe_names_the_judged_output(tmp_path: Path, text: str, output: str) -> None:
    (tmp_path / "deploy.toml").write_text('model = "two.onnx"\ndata = "d:s"\ntargets = ["onnxruntime"]\n' + text)
    found = recipe.load(tmp_path)
    assert found.task.output == output
    assert "@" not in found.task.metric


def test_two_names_for_the_judged_output_are_refused(tmp_path: Path) -> None:
    text = 'model = "two.onnx"\ndata = "d:s"\ntargets = ["onnxruntime"]\n[task]\nmetric = "mae@a"\noutput = "b"\n'
    (tmp_path / "deploy.toml").write_text(text)
    with pytest.raises(UsageError, match="name two outputs"):
        recipe.load(tmp_path)


def test_a_new_recipe_names_the_judged_output(tmp_path: Path) -> None:
    write_program(tmp_path / "two.onnx")
    made = splits()
    arrays = {f"{name}_x": split.inputs["x"] for name, split in made.splits.items()}
    np.savez(tmp_path / "data.npz", **arrays, **{f"{name}_y": split.labels for name, split in made.splits.items()})
    path, read = beginning.write(tmp_path, "two.onnx", "data.npz", ["onnxruntime"])
    told = beginning.check(path, read)
    assert "[task] output = 'scores': the one that is judged of embedding, scores" in told
    assert recipe.load(path).task.output == "scores"
    path, read = beginning.write(tmp_path, "two.onnx", "data.npz", ["onnxruntime"])
    with pytest.raises(UsageError, match="no output 'logits'"):
        beginning.check(path, read, output="logits")
