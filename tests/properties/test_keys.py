"""Stage keys: equal for equal dependencies however they are spelled, different when any one differs."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import source
from pipeline.artifact import Artifact, sha256_json
from pipeline.runner import OUR_PACKAGES, OURS, Runner, target_code
from pipeline.stages.table import STAGES
from pipeline.store import Store

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
SETTINGS = st.dictionaries(st.text(min_size=1, max_size=6).filter(lambda key: key != "target"), VALUES, max_size=5)
DIGEST = st.text("0123456789abcdef", min_size=64, max_size=64)


def shuffled(value: Any) -> Any:
    """The same value with every dictionary built in the opposite order."""
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(value)}
    return [shuffled(item) for item in value] if isinstance(value, list) else value


def runner(folder: Path, seed: int = 0) -> Runner:
    return Runner(Store(folder / "store"), folder, {"model": "net:build", "data": "data:splits"}, "", seed)


def key(folder: Path, digest: str, given_settings: dict[str, Any], seed: int = 0, stage: str = "prune") -> str:
    artifact = Artifact("data", "k", folder, digest, {}, 0.0)
    return runner(folder, seed).key(stage, {"data": artifact}, given_settings, {})


@given(VALUES, VALUES)
def test_values_have_one_digest_and_different_values_have_two(first: Any, second: Any) -> None:
    assert sha256_json(first) == sha256_json(shuffled(first))
    if repr(first) != repr(shuffled(second)) and first != second:
        assert sha256_json(first) != sha256_json(second)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(SETTINGS, DIGEST, DIGEST, st.integers(0, 9))
def test_every_dependency_counts(tmp_path: Path, chosen: dict[str, Any], digest: str, other: str, seed: int) -> None:
    base = key(tmp_path, digest, chosen, seed)
    assert key(tmp_path, digest, shuffled(chosen), seed) == base
    assert key(tmp_path, digest, chosen | {"another": 1}, seed) != base
    assert key(tmp_path, digest, chosen, seed + 1) != base
    assert key(tmp_path, digest, chosen, seed, "distill") != base
    assert (key(tmp_path, other, chosen, seed) == base) == (other == digest)


def test_the_users_source_counts_and_what_it_does_not_reach_does_not(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("import layers\n")
    (tmp_path / "layers.py").write_text("width = 1\n")
    base = key(tmp_path, "0" * 64, {})
    (tmp_path / "notes.py").write_text("x = 1\n")
    assert key(tmp_path, "0" * 64, {}) == base
    (tmp_path / "layers.py").write_text("width = 22\n")
    assert key(tmp_path, "0" * 64, {}) != base


def test_nan_is_no_setting(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"NaN|Out of range float"):
        key(tmp_path, "0" * 64, {"lr": float("nan")})


def test_the_data_file_counts_whatever_its_name_is(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    for name in ("all[1].npz", "*.npz", str(tmp_path / "elsewhere" / "all.npz")):
        (tmp_path / name).write_bytes(b"1")
        first = Runner(Store(tmp_path / "s"), tmp_path, {"model": "net:build", "data": name}, "", 0).key(
            "data", {}, {}, {}
        )
        (tmp_path / name).write_bytes(b"2")
        again = Runner(Store(tmp_path / "s"), tmp_path, {"model": "net:build", "data": name}, "", 0).key(
            "data", {}, {}, {}
        )
        assert first != again


# What of ours is in a stage's key, beside the plain modules and stages of `pipeline`: a change there makes it again,
# nothing else does. It is small on purpose: what is not there, such as reports and the command line, is not in it.
NETWORKS = {"pipeline.compression"}
SCORES = {"pipeline.release.evidence", "pipeline.release.scores", "pipeline.release.statistics"}
TASKS = NETWORKS | SCORES
PROGRAMS = NETWORKS | {"calibration"}
SAYS = {"pipeline.release.bootstrap", "pipeline.release.metrics", "pipeline.release.samples"}
CHANCE = SAYS | {"pipeline.release.chance"}
MEASURES = SCORES | SAYS | {"calibration", "targets.channels"}
CALIBRATES = {"calibration", "pipeline.explain", "targets.tflite"}
REACH = {
    "data": set(),
    # a file from outside is looked at by what `deploy inspect` looks with
    "bring": TASKS | CHANCE | CALIBRATES | {"targets.channels", "targets.cortex_m"},
    "load": TASKS,
    "train": TASKS,
    "reference": TASKS | CHANCE,
    "rewrite": TASKS,
    "sensitivity": TASKS,
    "prune": TASKS | MEASURES,
    "soft-labels": TASKS,
    "shapes": TASKS,
    "device-profile": TASKS | MEASURES,
    "prune-measured": TASKS | MEASURES,
    "distill": TASKS,
    "export-pt2": PROGRAMS,
    "weights": PROGRAMS,
    "export-onnx": PROGRAMS,
    "lower": PROGRAMS,
    "observe": CALIBRATES,
    "quantize": CALIBRATES,
    "keep": CALIBRATES | MEASURES,
    "screen": MEASURES,
    "race": MEASURES,
    "verify": TASKS | CHANCE | MEASURES,
    "older-cpus": MEASURES,
    "profile": MEASURES,
}
EVERYWHERE = {"pipeline", "pipeline.loader", "pipeline.release", "pipeline.stages", "targets"}


def reached(stage: str) -> dict[str, Path]:
    return source.reachable(STAGES[stage].function.partition(":")[0], [OURS], OUR_PACKAGES)


def area(module: str) -> str:
    """The package that a module is in; of what judges, the module."""
    return module if module.startswith("pipeline.release.") else ".".join(module.split(".")[:-1]) or module


@pytest.mark.parametrize("stage", STAGES)
def test_the_key_of_a_stage_holds_these_parts_of_ours_and_no_others(stage: str) -> None:
    found = reached(stage)
    assert {area(module) for module in found} - EVERYWHERE == REACH[stage]
    assert STAGES[stage].function.partition(":")[0] in found


def test_a_change_in_what_people_see_makes_no_stage_again() -> None:
    seen = (
        "pipeline.cli",
        "pipeline.console",
        "pipeline.release.html",
        "pipeline.release.report",
        "pipeline.release.gate",
    )
    for stage in STAGES:
        assert not [module for module in reached(stage) if module.startswith(seen)]
    assert len(reached("data")) < 25
    assert len(reached("train")) < 40


def test_a_target_counts_with_its_adapter_and_its_kernels() -> None:
    board = source.reachable("targets.cortex_m", [OURS], OUR_PACKAGES)
    assert not [module for module in board if module.startswith("targets.onnxruntime")]
    assert {path.suffix for path in source.native(board["targets.cortex_m"].parent)} == {".c", ".h", ".ld"}
    assert len(target_code("cortex-m")) == 2  # its adapter is opened by its path: no import says so
    assert len(target_code("openvino")) == 1
