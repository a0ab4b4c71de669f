"""Sound inputs of every kind that the command line reads, from one small network: what the mutations begin with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from targets.channels.local import run_agent

NET = """
from torch import nn


def build():
    first = nn.Conv2d(1, 4, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
"""

RECIPE = """name = "fuzz"
model = "net:build"
data = "all.npz"
checkpoint = "float.safetensors"
stages = []
targets = ["onnxruntime"]

[calibrate]
samples = 16
observers = ["minmax"]

[quantize]
candidates = ["ours-minmax"]

[race]
budget_s = 0.05
min_rounds = 5
processes = 6

[profile]
budget_s = 0.05
min_rounds = 5

[gate]
margin_points = 50.0
allow_chance = true
"""

MAKE = """
import numpy as np, torch, net
from pathlib import Path
from PIL import Image
from safetensors.torch import save_file
rng = np.random.default_rng(0)
arrays = {}
for split, n in (("train", 24), ("calibration", 16), ("selection", 40), ("gate", 40)):
    labels = rng.integers(0, 2, n)
    x = rng.normal(0, 0.3, (n, 1, 8, 8)).astype(np.float32) + labels[:, None, None, None].astype(np.float32)
    arrays |= {f"{split}_x": x, f"{split}_y": labels}
np.savez("all.npz", **arrays)
for label in ("dark", "light"):
    Path("images", label).mkdir(parents=True)
    for index in range(40):
        pixels = rng.integers(0, 120, (8, 8), np.uint8) + (120 if label == "light" else 0)
        Image.fromarray(pixels.astype(np.uint8)).save(f"images/{label}/{index}.png")
torch.manual_seed(0)
model = net.build()
optimizer = torch.optim.Adam(model.parameters(), 0.05)
x, y = torch.tensor(arrays["train_x"]), torch.tensor(arrays["train_y"])
for _ in range(150):
    optimizer.zero_grad(); torch.nn.functional.cross_entropy(model(x), y).backward(); optimizer.step()
model.eval()
save_file(model.state_dict(), "float.safetensors")
torch.save(model.state_dict(), "float.pt")
batch = torch.export.Dim("batch")
program = torch.export.export(model, (torch.zeros(2, 1, 8, 8),), dynamic_shapes=({0: batch},))
torch.export.save(program, "net.pt2")
torch.onnx.export(program, (), dynamo=True).save("net.onnx")
import openvino
openvino.save_model(openvino.convert_model("net.onnx"), "net.xml")
from targets.base import Program, TensorSpec
from targets.tflite.lowering import convert
specs = (TensorSpec("x", "float32", (None, 1, 8, 8)),), (TensorSpec("y", "float32", (None, 2)),)
Path("net.tflite").write_bytes(convert(Program(Path("net.pt2"), "pt2", *specs)))
"""

POLICY = "margin_points = 20.0\nallow_chance = true\nmax_size_bytes = 1000000\n"


LIAR = """#!{python}
import hashlib, sys
from pathlib import Path
body = (Path(sys.argv[0]).parent / "answer.json").read_bytes()
(Path(sys.argv[-1]).parent / "result.json").write_bytes(body)
print("DONE", hashlib.sha256(body).hexdigest())
"""
SURVEY = {"protocol": 1, "models": [], "tasks": [{"do": "survey"}], "result": "answer.json"}


def make(folder: Path) -> None:
    """Everything below an empty folder; a finished run of it in `deploy-out`. About a minute."""
    (folder / "net.py").write_text(NET)
    (folder / "deploy.toml").write_text(RECIPE)
    (folder / "policy.toml").write_text(POLICY)
    subprocess.run([sys.executable, "-c", MAKE], cwd=folder, check=True, capture_output=True, timeout=900)
    command = [sys.executable, "-c", "from pipeline.cli import main; main()"]
    done = subprocess.run(
        [*command, "--target", "onnxruntime"], cwd=folder, capture_output=True, text=True, check=False, timeout=900
    )
    if done.returncode:
        raise RuntimeError(f"the sound run ends with {done.returncode}: {done.stderr[-2000:]}")
    for name in ("encodings.json", "others.json"):
        listed = ("encodings", "show", "deploy-out", "--candidate", "ours-minmax", "--out", name)
        subprocess.run([*command, *listed], cwd=folder, capture_output=True, check=True, timeout=900)
    run_agent(dict(SURVEY), folder)
    (folder / "liar").write_text(LIAR.format(python=sys.executable))
    (folder / "liar").chmod(0o755)
