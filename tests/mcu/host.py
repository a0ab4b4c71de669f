"""Generated C built for this machine under the sanitizers, and TFLite Micro beside it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from targets.cortex_m import emit, program

STRICT = ["-Wall", "-Wextra", "-Wconversion", "-Werror", "-pedantic"]
FIXED_ADDRESSES = ["setarch", "-R"]  # gcc 12's ASan loops for ever under some random address layouts
SANITIZE = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

# Reads whole inputs from stdin until it ends, writes whole outputs; the arena is exactly as large as promised.
MAIN = """
#include <stdio.h>
#include <stdlib.h>
#include "model.h"
int main(void)
{{
    int8_t *arena = malloc(MODEL_ARENA_BYTES);
    if (arena == NULL) return 1;
    for (;;) {{
        {reads}
        model_run(arena);
        {writes}
    }}
    free(arena);
    return 0;
}}
"""


def generate(content: bytes, folder: Path) -> program.Program:
    """The C folder `folder/c` of a model's bytes."""
    (folder / "model.tflite").write_bytes(content)
    made = program.compile_file(folder / "model.tflite")
    emit.write(made, folder / "c")
    return made


def build(made: program.Program, folder: Path, *flags: str, compiler: str = "gcc") -> Path:
    """An executable that maps inputs on stdin to outputs on stdout."""
    reads = "\n".join(
        f"if (fread(model_input_{i}(arena), 1, {v.size}, stdin) != {v.size}) break;"
        for i, v in enumerate(made.graph.inputs)
    )
    writes = "\n".join(
        f"fwrite(model_output_{i}(arena), 1, {v.size}, stdout);" for i, v in enumerate(made.graph.outputs)
    )
    (folder / "main.c").write_text(MAIN.format(reads=reads, writes=writes))
    sources = sorted(str(p) for p in (folder / "c").glob("*.c"))
    command = [compiler, "-std=c99", "-O1", *STRICT, *(flags or SANITIZE), f"-I{folder / 'c'}"]
    subprocess.run([*command, str(folder / "main.c"), *sources, "-o", str(folder / "host")], check=True)
    return folder / "host"


def run(executable: Path, made: program.Program, inputs: list[np.ndarray]) -> np.ndarray:
    """All output bytes, [samples, bytes]; `inputs` one array [samples, ...] for each input of the model."""
    return _piped([*FIXED_ADDRESSES, str(executable)], made, inputs)


def tflm(model: Path, made: program.Program, inputs: list[np.ndarray]) -> np.ndarray:
    """What TFLite Micro answers, in the same form."""
    oracle = [sys.executable, str(Path(__file__).with_name("oracle.py")), str(model)]
    values = [*made.graph.inputs, *made.graph.outputs]
    ports = [f"{','.join(map(str, v.shape))}:{v.scale[0]!s}:{v.zero_point[0]}" for v in values]
    return _piped([*oracle, str(len(inputs[0])), str(len(made.graph.outputs)), *ports], made, inputs)


def _piped(command: list[str], made: program.Program, inputs: list[np.ndarray]) -> np.ndarray:
    stdin = b"".join(x[i].tobytes() for i in range(len(inputs[0])) for x in inputs)
    done = subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    size = sum(v.size for v in made.graph.outputs)
    return np.frombuffer(done.stdout, np.int8).reshape(len(inputs[0]), size)


def samples(made: program.Program, count: int, seed: int) -> list[np.ndarray]:
    """Random inputs; each sample from a random range of codes, the first two all lowest and all highest."""
    rng = np.random.default_rng(seed)
    results = []
    for value in made.graph.inputs:
        low = rng.integers(-128, 100, (count, *[1] * len(value.shape)))
        high = low + 1 + rng.integers(1, 156, low.shape) % (128 - low)
        drawn = rng.integers(low, np.minimum(high, 127) + 1, (count, *value.shape))
        drawn[0], drawn[min(1, count - 1)] = -128, 127
        results.append(drawn.astype(np.int8))
    return results
