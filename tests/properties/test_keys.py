"""Stage keys: equal for equal dependencies however they are spelled, different when any one differs."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.artifact import Artifact, sha256_json
from pipeline.runner import Runner
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
