"""The example `fashion`: its network, and its data where they have been fetched."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import recipe, user
from pipeline.errors import UsageError

FOLDER = Path(recipe.__file__).parent / "recipes" / "fashion"


def test_the_recipe_is_valid() -> None:
    assert recipe.load(FOLDER / "deploy.toml").targets == ("openvino", "tflite", "onnxruntime")


def test_the_network_has_the_parameters_that_the_readme_says() -> None:
    net = user.call("net:build", FOLDER)
    assert sum(p.numel() for p in net.parameters()) == 173_842
    assert net(torch.zeros(3, 1, 28, 28)).shape == (3, 10)


def test_files_that_are_not_there_or_not_the_published_ones_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = tmp_path / "edge-deploy" / "fashion-mnist"
    cache.mkdir(parents=True)
    with pytest.raises(UsageError, match="make fashion-mnist"):
        user.call("data:splits", FOLDER)
    (cache / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(16 + 60_000 * 784), 1))
    with pytest.raises(UsageError, match="SHA-256 differs"):
        user.call("data:splits", FOLDER)


def test_splits_are_the_published_images() -> None:
    if not (user.call("data:folder", FOLDER) / "train-images-idx3-ubyte.gz").is_file():
        pytest.skip("no Fashion-MNIST here ('make fashion-mnist' fetches it)")
    splits = user.call("data:splits", FOLDER)
    sizes = {"train": 54_500, "calibration": 500, "selection": 5_000, "gate": 10_000}
    for name, n in sizes.items():
        images, labels = splits[name]
        assert images.shape == (n, 1, 28, 28)
        assert images.dtype == np.float32
        assert labels.shape == (n,)
    assert np.bincount(splits["gate"][1]).tolist() == [1_000] * 10
    assert abs(float(splits["train"][0].mean())) < 1e-3
    assert abs(float(splits["train"][0].std()) - 1) < 1e-3
