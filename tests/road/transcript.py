"""A newcomer's session with a transformers model, written into README.md: `make transcript`.

Commands run in an empty folder, with a store of its own; what they print is what the README shows.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
MARKS = "<!-- transcript: begin -->", "<!-- transcript: end -->"
FILES = {
    "net.py": """\
from transformers import MobileNetV2Config, MobileNetV2ForImageClassification


def build():
    return MobileNetV2ForImageClassification(
        MobileNetV2Config(num_labels=10, num_channels=1, image_size=32, depth_multiplier=0.35, output_stride=8)
    )
""",
    "data.py": """\
import numpy as np
from sklearn.datasets import load_digits


def splits():
    x, y = load_digits(return_X_y=True)
    x = np.kron(x.reshape(-1, 1, 8, 8) / 16, np.ones((4, 4))).astype(np.float32) - 0.5
    part = {"train": slice(0, 900), "calibration": slice(900, 1000), "selection": slice(1000, 1250)}
    return {name: (x[at], y[at]) for name, at in (part | {"gate": slice(1250, None)}).items()}
""",
}
NOISE = re.compile("torchao|torch/utils/_pytree")  # what importing transformers prints beside this torch
COMMANDS = (
    "ls",
    "cat net.py",
    "cat data.py",
    "deploy init --model net:build --data data:splits --target tflite",
    "deploy inspect net:build --shape 1x32x32",
    "deploy --target tflite --set stages=[] --set train.epochs=4 --set gate.margin_points=5",
    "deploy inspect deploy-out/tflite/model.tflite",
)


def session(folder: Path) -> str:
    """What a terminal would show. Raises CalledProcessError for a command that fails other than by the gate."""
    for name, text in FILES.items():
        (folder / name).write_text(text)
    environment = {**os.environ, "COLUMNS": "100", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment.pop("DEPLOY_STORE", None)
    lines = []
    for command in COMMANDS:
        done = subprocess.run(
            command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode not in (0, 1, 3):
            raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
        said = [line.rstrip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        lines += [f"$ {command}", *(line for line in said if not NOISE.search(line))]
        if done.returncode:
            lines.append(f"(exit code {done.returncode})")
    return "\n".join(lines)


def written(text: str, told: str) -> str:
    """The README with the session between its marks."""
    before, _, rest = text.partition(MARKS[0])
    return f"{before}{MARKS[0]}\n```console\n{told}\n```\n{MARKS[1]}{rest.partition(MARKS[1])[2]}"


def main() -> None:
    """Run, write."""
    with tempfile.TemporaryDirectory() as folder:
        (place := Path(folder) / "digits").mkdir()
        told = session(place)
    README.write_text(written(README.read_text(), told))
    print(told)


if __name__ == "__main__":
    main()
