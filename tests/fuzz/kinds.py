"""Each kind of input: the file that is mutated, how, the commands that read it, and the exit codes that are right."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass

from tests.fuzz import mutations
from tests.fuzz.mutations import BYTES, Mutation

RUNS = frozenset({0, 2})  # it is still sound, or the user can mend it
JUDGES = RUNS | {1, 3}  # a verdict is possible
DATA = ("--target", "onnxruntime", "--only", "data")
POLICY = ("gate", "--policy", "policy.toml")
ROOMY = ("--flash", "1M", "--ram", "1M")
LOAD = ("--target", "onnxruntime", "--only", "load")


@dataclass(frozen=True)
class Kind:
    """`file` is mutated below a copy of the corpus, then one of `commands` runs there. `patch`: key -> value in the
    recipe's head."""

    file: str
    mutate: tuple[Mutation, ...]
    commands: tuple[tuple[str, ...], ...]
    codes: frozenset[int] = RUNS
    data: str = ""  # what the recipe names in place of all.npz
    checkpoint: str = ""
    weight: int = 1


TEXT = (*BYTES, mutations.lines, mutations.lines)
KINDS: dict[str, Kind] = {
    "recipe": Kind("deploy.toml", (*TEXT, *[mutations.in_toml] * 12), (DATA,), weight=4),
    "set": Kind("", (), (DATA,), weight=4),
    "policy": Kind("policy.toml", (*TEXT, *[mutations.in_toml] * 6), (POLICY,), JUDGES, weight=2),
    "safetensors": Kind("float.safetensors", BYTES, (("storage", "float.safetensors"), LOAD)),
    "pt": Kind("float.pt", (*BYTES, mutations.in_zip), (("storage", "float.pt"), LOAD), checkpoint="float.pt"),
    "onnx": Kind("net.onnx", BYTES, (("inspect", "net.onnx", "--json"),), weight=3),
    "tflite": Kind(
        "net.tflite", BYTES, (("inspect", "net.tflite"), ("fit", "net.tflite", *ROOMY)), JUDGES, weight=3
    ),
    "pt2": Kind("net.pt2", (*BYTES, *[mutations.in_zip] * 5), (("inspect", "net.pt2"),), weight=2),
    "xml": Kind("net.xml", TEXT, (("inspect", "net.xml"),)),
    "bin": Kind("net.bin", BYTES, (("inspect", "net.xml"),)),
    "npz": Kind("all.npz", (*BYTES, *[mutations.in_zip] * 5), (DATA,), weight=2),
    "image": Kind("images/dark/3.png", BYTES, (DATA,), data="images"),
    "report": Kind(
        "deploy-out/report.json",
        (*BYTES[:4], *[mutations.in_json] * 12),
        (("gate",), ("report",), ("compare", "deploy-out", "deploy-out"), ("explain", "--json"), ("verify",)),
        JUDGES | {5},
        weight=4,
    ),
    "manifest": Kind(
        "deploy-out/onnxruntime/model.json", (*BYTES, *[mutations.in_json] * 8), (("gate",), ("verify",)), JUDGES
    ),
    "model": Kind("deploy-out/onnxruntime/model.onnx", BYTES, (("gate",),), JUDGES),
    "evidence": Kind("deploy-out/onnxruntime/evidence/samples-1.npz", (*BYTES, mutations.in_zip), (("gate",),), JUDGES),
    "encodings": Kind(
        "encodings.json",
        (*BYTES, *[mutations.in_json] * 8),
        (("encodings", "diff", "encodings.json", "others.json"), ("encodings", "show", "encodings.json")),
        JUDGES,
    ),
    "device": Kind(
        "answer.json",
        (*BYTES[:3], *[mutations.in_json] * 12),
        (("devices", "local://{here}/liar"),),
        frozenset({0, 4}),
        weight=2,
    ),
}  # fmt: skip


def setting(keys: list[str], rng: random.Random) -> str:
    """A KEY=VALUE for --set: a key of the recipe, or nearly one, and an odd value."""
    key = rng.choice(keys)
    if rng.random() < 0.15:
        key = rng.choice((key + "s", key.upper(), key.partition(".")[0], "." + key, key + ".x", ""))
    value = rng.choice(mutations.ODD)
    text = value if isinstance(value, str) else json.dumps(value)
    return f"{key}={text}".replace("\x00", "").encode(errors="replace").decode()
