"""Fixtures around the newcomer's folder."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.road.newcomer import TRAIN, Folder, write_folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The newcomer's trained float model."""
    folder = write_folder(tmp_path_factory.mktemp("training"))
    subprocess.run([sys.executable, "-c", TRAIN], cwd=folder.path, check=True)
    return folder.path / "float.safetensors"


@pytest.fixture
def folder(tmp_path: Path, checkpoint: Path) -> Folder:
    """A fresh newcomer's folder, nothing run yet."""
    made = write_folder(tmp_path / "bars")
    (made.path / "float.safetensors").write_bytes(checkpoint.read_bytes())
    return made


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Folder:
    """The newcomer's folder after `deploy --target all`: shared, so tests must not change what is in it."""
    made = write_folder(tmp_path_factory.mktemp("newcomer") / "bars")
    (made.path / "float.safetensors").write_bytes(checkpoint.read_bytes())
    done = made.deploy("--target", "all", "--json")
    assert done.returncode == 0, done.stderr + done.stdout
    assert json.loads(done.stdout) == made.report()
    return made
