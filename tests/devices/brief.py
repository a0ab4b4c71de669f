"""A newcomer's folder whose run is short: recovery and timing are as brief as the recipe allows."""

import subprocess
import sys
from pathlib import Path

from tests.road.newcomer import RECIPE, TRAIN, Folder, write_folder

TIMING = """
[race]
budget_s = 1.0
processes = 6

[profile]
budget_s = 1.0
processes = 6
"""


def brief_folder(path: Path) -> Folder:
    """The folder, with its trained checkpoint."""
    user = write_folder(path)
    recipe = RECIPE.replace("epochs = 4", "epochs = 1") + TIMING
    (user.path / "deploy.toml").write_text(recipe)
    subprocess.run([sys.executable, "-c", TRAIN], cwd=user.path, check=True)
    return user
