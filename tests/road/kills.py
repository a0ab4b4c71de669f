"""Runs that are killed at random moments, delivery included: nothing is lost, nothing is left over, the bytes are the
same. `make test-kills`: python -m tests.road.kills [KILLS] [SEED].
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline import delivery

TARGET = "onnxruntime"
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}
LINES = {signal.SIGTERM: "deploy: terminated; ", signal.SIGINT: "deploy: interrupted; "}
RECIPE = """
name = "{name}"
model = "{name}.onnx"
data = "{name}.npz"
targets = ["onnxruntime"]
large_batch = 2

[quantize]
prefer = "size"
candidates = ["ours-minmax"]

[race]
budget_s = 0.05
min_rounds = 20
processes = 6

[profile]
budget_s = 0.05
min_rounds = 60
processes = 6

[gate]
margin_points = 50.0
"""
MINE = {"notes.txt": "mine", "mine/model.tflite": "mine", "openvino/code.py": "mine"}  # the user's, in the same folder


def write_model(file: Path, seed: int) -> None:
    """One linear layer, [n, 8] to [n, 4], and beside it data whose labels are its own answers."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(seed).normal(size=(8, 4)).astype(np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="layer")
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("x", 8), ("y", 4))]
    graph = helper.make_graph([node], "net", sides[:1], sides[1:], [numpy_helper.from_array(weights, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), file)
    rng, arrays = np.random.default_rng(7), {}
    for name, n in {"train": 8, "calibration": 40, "selection": 60, "gate": 120}.items():
        arrays[f"{name}_x"] = rng.normal(size=(n, 8)).astype(np.float32)
        arrays[f"{name}_y"] = (arrays[f"{name}_x"] @ weights).argmax(1)
    np.savez(file.with_suffix(".npz"), **arrays)


@dataclass
class Ground:
    """A user's folder with two recipes, whose runs go to one folder `out`; a store, and a place for temporary files."""

    home: Path
    versions: tuple[str, ...]
    whole: dict[str, dict[str, bytes]] = field(default_factory=dict)  # version -> what an undisturbed run delivers
    figures: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.token = self.home.name + str(os.getpid())
        self.out, self.store, self.temporary = (self.home / name for name in ("out", "store", "tmp"))
        self.temporary.mkdir(parents=True)
        for seed, name in enumerate(self.versions):
            write_model(self.home / f"{name}.onnx", seed)
            (self.home / f"{name}.toml").write_text(RECIPE.format(name=name))
        for name, text in MINE.items():
            (self.out / name).parent.mkdir(parents=True, exist_ok=True)
            (self.out / name).write_text(text)

    def start(self, version: str, out: str = "out") -> "subprocess.Popen[str]":
        words = ["--target", "all", "--recipe", f"{version}.toml", "--out", out]
        variables = {"DEPLOY_STORE": str(self.store), "TMPDIR": str(self.temporary), "KILLS": self.token}
        return subprocess.Popen(
            # what runs in a shell's background ignores Ctrl-C, and so would what it starts
            ["env", "--default-signal=INT", sys.executable, "-m", "pipeline.cli", *words],
            cwd=self.home,
            env=os.environ | variables,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def undisturbed(self, version: str) -> None:
        """A run to its end: all right, the same bytes as ever, and nothing of killed runs is left."""
        run = self.start(version)
        _, said = run.communicate()
        assert run.returncode == 0, said
        assert self.delivered() == version
        self.nothing_left()

    def nothing_left(self) -> None:
        """Of runs that have ended: no process, no temporary file, nothing half made."""
        assert {path.name for path in self.out.glob(".*")} == {delivery.LISTING}
        left = [path for name in ("building", "scratch", "locks") for path in (self.store / name).iterdir()]
        assert [*left, *self.temporary.iterdir(), *self.processes()] == []

    def processes(self) -> list[int]:
        """Those that a run started, however deep."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if f"KILLS={self.token}".encode() in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
        return found

    def delivered(self) -> str:
        """Which version lies there, whole; "" for none."""
        with delivery.settled(self.out):
            for name, text in MINE.items():
                assert (self.out / name).read_text() == text
            if not (self.out / "report.json").exists():
                assert not (self.out / TARGET).exists()
                return ""
            version: str = json.loads((self.out / "report.json").read_text())["recipe"]["name"]
            files = {path.name: path.read_bytes() for path in (self.out / TARGET).rglob("*") if path.is_file()}
            assert self.whole.setdefault(version, files) == files
            assert version in (self.out / "report.md").read_text()
        return version

    def kill(self, version: str, by: signal.Signals, moment: Iterator[None]) -> str:
        """A run that is killed at a moment; what lies there then."""
        run = self.start(version)
        while run.poll() is None and not _listens(run.pid):
            time.sleep(0.001)  # Python itself begins
        next(moment)
        self.figures["of these in delivery"] += run.poll() is None and any(self.out.glob(".delivery-*"))
        run.send_signal(by)
        _, said = run.communicate()
        self.figures[by.name] += 1
        self.figures["ended before" if run.returncode == 0 else "killed"] += 1
        if run.returncode:
            assert run.returncode == CODES[by], (by, run.returncode, said)
            if by in LINES:
                assert said.splitlines()[-1].startswith(LINES[by]), said
        assert "Traceback" not in said
        while self.processes():
            time.sleep(0.05)  # the children of what was killed see that it is gone
        if by != signal.SIGKILL:
            assert [*self.temporary.iterdir()] == []
        return self.delivered()


def _listens(process: int) -> bool:
    """Whether a process has a handler of its own for SIGTERM."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1)
    return False


def within(seconds: float, rng: random.Random) -> Iterator[None]:
    """Any moment of so many seconds."""
    time.sleep(rng.uniform(0, seconds))
    yield


def delivering(ground: Ground, rng: random.Random) -> Iterator[None]:
    """A moment of the delivery: a little after it is seen to have begun."""
    ends = time.monotonic() + 60
    while not any(ground.out.glob(".delivery-*")) and time.monotonic() < ends:
        time.sleep(0.0005)
    time.sleep(rng.choice((0.0, rng.uniform(0, 0.01), rng.uniform(0, 0.2))))
    yield


def at_once(ground: Ground, version: str, count: int = 4, cold: bool = True) -> None:
    """Several runs into one folder, from an empty store (`cold`): all end well."""
    if cold:
        shutil.rmtree(ground.store)
    runs = [ground.start(version) for _ in range(count)]
    said = [run.communicate()[1] for run in runs]
    assert [run.returncode for run in runs] == [0] * count, said
    assert ground.delivered() == version
    ground.nothing_left()


def campaign(ground: Ground, kills: int, seed: int, cold: float = 1 / 3) -> None:
    """So many kills, a share of them while results are made; after each of the others a run to its end."""
    rng = random.Random(seed)
    began = time.monotonic()
    for version in ground.versions:
        ground.undisturbed(version)
    lasts = (time.monotonic() - began) / len(ground.versions)
    began = time.monotonic()
    ground.undisturbed(ground.versions[0])
    again = time.monotonic() - began
    for number in range(kills):
        version, by = rng.choice(ground.versions), rng.choice(SIGNALS)
        if number < cold * kills:
            if rng.random() < 0.2:
                shutil.rmtree(ground.store, ignore_errors=True)
            ground.kill(version, by, within(0.7 * lasts, rng))
        else:
            moment = delivering(ground, rng) if rng.random() < 0.6 else within(again, rng)
            ground.kill(version, by, moment)
            ground.undisturbed(rng.choice(ground.versions))
        print(f"{number + 1} of {kills}: {by.name}", file=sys.stderr, flush=True)
    for version in ground.versions:
        ground.undisturbed(version)


def main() -> None:
    kills, seed = (int(word) for word in (sys.argv[1:] + ["60", "1"][len(sys.argv) - 1 :])[:2])
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        ground = Ground(Path(name), ("one", "two"))
        began = time.monotonic()
        campaign(ground, kills, seed)
        at_once(ground, "one")
        told = ", ".join(f"{count} {what}" for what, count in sorted(ground.figures.items()))
        print(f"seed {seed}: {kills} kills: {told}; 4 at once: all 0; {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
