"""The shipped example's data: what it is, that it is split by subject, and that its cache cannot harm."""

import hashlib
import importlib.metadata
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline import data, user
from pipeline.errors import UsageError
from pipeline.loader import loader

FOLDER = Path(__file__).parents[2] / "pipeline" / "recipes" / "watch"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "edge-deploy"


def made():
    return data.from_factory(user.call("data:splits", FOLDER), "data:splits")


def test_windows_are_split_by_subject_and_standardised_by_training(cache):
    splits = made().splits
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 927,
        "calibration": 186,
        "selection": 507,
        "gate": 749,
    }
    subjects = {name: set(split.groups) for name, split in splits.items()}
    assert subjects["train"] == subjects["calibration"] == {"1", "2", "3", "4", "5"}
    assert subjects["selection"] == {"6", "7"}
    assert subjects["gate"] == {"8", "9", "10"}
    train = splits["train"].inputs["input"]
    assert (train.shape[1:], train.dtype) == ((6, 100), np.float32)
    np.testing.assert_allclose(train.mean(axis=(0, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(train.std(axis=(0, 2)), 1, atol=1e-5)
    assert all(set(np.unique(split.labels)) == set(range(7)) for split in splits.values())


def test_declared_preprocessing_turns_raw_samples_into_the_splits(cache):
    made_data = made()
    rules = made_data.preprocessing["input"]
    with np.load(next(cache.glob("*.npz")), allow_pickle=False) as stored:
        first = int(np.flatnonzero(np.isin(stored["subject"], (6, 7)))[0])
        start = int(stored["lengths"][:first].sum())
        raw = stored["samples"][start : start + 100]
    np.testing.assert_array_equal(made_data.splits["selection"].inputs["input"][0], loader.prepare(raw, rules))
    assert made_data.raw_checked == 4
    assert len(rules["notes"]["axes"]) == len(rules["notes"]["units"]) == len(rules["mean"]) == 6
    assert made_data.labels == ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")


def test_the_cache_is_made_once_and_a_damaged_one_again(cache):
    first = made().splits["gate"].inputs["input"]
    file = next(cache.glob("*.npz"))
    good = hashlib.sha256(file.read_bytes()).hexdigest()
    assert [path.name for path in cache.iterdir()] == [file.name]
    file.write_bytes(file.read_bytes()[:5000])
    again = made().splits["gate"].inputs["input"]
    np.testing.assert_array_equal(first, again)
    assert hashlib.sha256(file.read_bytes()).hexdigest() == good


def installed(tmp_path, monkeypatch, content):
    """A folder on the path with a seglearn of our own in front of the real one."""
    package = tmp_path / "site"
    (package / "seglearn-1.2.5.dist-info").mkdir(parents=True)
    (package / "seglearn-1.2.5.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: seglearn\nVersion: 1.2.5\n"
    )
    if content is not None:
        (package / "seglearn" / "data").mkdir(parents=True)
        (package / "seglearn" / "data" / "watch_dataset.npy").write_bytes(content)
    monkeypatch.syspath_prepend(str(package))


@pytest.mark.parametrize(("content", "text"), [(b"a pickle from elsewhere", "SHA-256 differs"), (None, "is missing")])
def test_a_foreign_or_missing_file_is_refused_before_it_is_unpickled(cache, tmp_path, monkeypatch, content, text):
    installed(tmp_path, monkeypatch, content)
    with pytest.raises(UsageError, match=text) as caught:
        made()
    assert "pip install --no-deps --require-hashes -r " in str(caught.value)
    assert not cache.exists()


def test_without_the_package_the_error_has_the_command(cache, monkeypatch):
    real = importlib.metadata.distribution("seglearn")
    site = str(Path(str(real.locate_file(""))).resolve())
    monkeypatch.setattr(sys, "path", [path for path in sys.path if str(Path(path).resolve()) != site])
    with pytest.raises(UsageError, match="the package 'seglearn' is not installed: pip install --no-deps"):
        made()


def test_the_data_file_is_pinned_by_the_wheels_record():
    (file,) = [f for f in importlib.metadata.files("seglearn") or [] if f.name == "watch_dataset.npy"]
    source = (FOLDER / "data.py").read_text()
    assert hashlib.sha256(file.read_binary()).hexdigest() in source
