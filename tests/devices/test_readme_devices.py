"""Every command of the README's page on attached devices, in its order, against real servers of this machine."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.devices.brief import brief_folder
from tests.devices.servers import Adbd, Sshd
from tests.devices.test_runner import STAND_IN
from tests.road.newcomer import Folder

README = Path(__file__).parents[2] / "README.md"


def page() -> list[str]:
    """The indented `deploy ...` lines of the page, without their comments."""
    section = README.read_text().partition("\n## Attached devices\n")[2].partition("\n### ")[0]
    return [line.partition("  #")[0].strip() for line in section.splitlines() if line.startswith("    deploy ")]


@pytest.fixture
def words(sshd: Sshd, adbd: Adbd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the page's examples stand for here."""
    subprocess.run(["adb", "disconnect"], check=True, capture_output=True)  # what other tests left
    monkeypatch.setenv("DEPLOY_SSH_CONFIG", str(sshd.folder / "config"))

    def there(server: Sshd | Adbd, folder: str, python: str = sys.executable) -> str:
        return f"{server.uri}?python={python}&folder={quote(str(tmp_path / folder))}"

    return {
        "ssh://pi@raspberrypi.local": there(sshd, "pi"),
        "adb://R58M12345?python=/data/local/tmp/python/bin/python3": there(adbd, "phone"),
        "adb://R58M12345": there(adbd, "phone", "/no/python"),
        "local:///opt/other-environment/bin/python": f"local://{other_environment(tmp_path / 'other')}",
        "10m": "2s",
    }


def other_environment(folder: Path) -> Path:
    """The Python of a virtual environment that has what this one has."""
    venv.create(folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "here.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")) + "\n")
    return folder / "bin" / "python"


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_command_of_the_page_works(words: dict[str, str], tmp_path: Path) -> None:
    user = brief_folder(tmp_path / "bars")
    (user.path / "benchmark_model").write_text(STAND_IN)
    lines = page()
    assert len(lines) >= 12
    for line in lines:
        command = [words.get(word, word) for word in shlex.split(line)]
        assert not [word for word in command if re.search(r"raspberrypi|R58M|/opt/", word)], line
        give_model(user, command)
        done = user.deploy(*command[1:])
        assert done.returncode == 0, f"{line}\n{done.stderr}{done.stdout}"
    assert not (tmp_path / "pi").exists()  # the page ends its first part with --remove
    attached = {run["attached"] for run in user.report()["targets"]["onnxruntime"]["runs"]}
    assert attached == {None, words["local:///opt/other-environment/bin/python"]}


def give_model(user: Folder, command: list[str]) -> None:
    """The file that a command names, from the run before it."""
    for name, target in (("model.tflite", "tflite"), ("model.onnx", "onnxruntime")):
        if name in command and not (user.path / name).exists():
            (made,) = (user.path / "deploy-out" / target).glob(f"*{Path(name).suffix}")
            shutil.copy(made, user.path / name)
