"""The user's modules beside ours and Python's: none stands in for another, and none ends the run without a word."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import ours, user, user_modules
from pipeline.errors import DeployError, UsageError
from pipeline.stages import Job
from pipeline.worker import invoke, run_isolated

ROOT = Path(__file__).parents[2]
STRAYS = ("pipeline.py", "targets.py", "calibration/__init__.py", "queue.py", "onnx.py", "tempfile.py")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Other tests find the import system as it was."""
    path, loaded, finders = [*sys.path], {*sys.modules}, [*sys.meta_path]
    yield
    sys.path[:], sys.meta_path[:] = path, finders
    user_modules.FOLDER.__init__()  # type: ignore[misc]
    for name in {*sys.modules} - loaded:
        if name.partition(".")[0] in ("net", "blocks", "parts"):
            del sys.modules[name]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in STRAYS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise RuntimeError('a stray was imported')\n")
    return tmp_path


def net(folder: Path, code: str, name: str = "net") -> Path:
    (folder / f"{name}.py").write_text(code)
    return folder


def test_strays_in_the_recipes_folder_are_never_imported(folder: Path) -> None:
    (folder / "net.py").write_text("import blocks\nbuild = blocks.build\n")
    (folder / "blocks.py").write_text("def build():\n    return __file__\n")
    assert user.call("net:build", folder) == str(folder / "blocks.py")
    for name in ("queue", "onnx", "tempfile", "targets.registry", "calibration.errors"):
        assert not str(importlib.import_module(name).__file__).startswith(str(folder))


@pytest.mark.parametrize(
    ("name", "whose"),
    [
        ("pipeline", "a package of edge-deploy, 'pipeline'"),
        ("targets", "a package of edge-deploy, 'targets'"),
        ("calibration", "a package of edge-deploy, 'calibration'"),
        ("queue", "a module of Python's own, 'queue'"),
        ("onnx", "a library that is used here, 'onnx'"),
    ],
)
def test_a_taken_name_is_refused_by_name_and_nothing_is_lost(name: str, whose: str, folder: Path) -> None:
    before = sys.modules["pipeline"]
    net(folder, f"import {name}\ndef build(): return 1\n")
    for reference in (f"{name}:build", "net:build"):
        with pytest.raises(UsageError, match=f"has the name of {whose}: rename it") as refused:
            user.call(reference, folder)
        assert "\n" not in str(refused.value)
    assert sys.modules["pipeline"] is before


def test_the_table_of_libraries_has_what_we_import() -> None:
    import ast

    found = set()
    for package in ours.PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            if "recipes" not in file.parts:
                for node in ast.walk(ast.parse(file.read_text())):
                    names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
                    names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
                    found |= {name.partition(".")[0] for name in names}
    assert found - sys.stdlib_module_names - {*ours.PACKAGES} - user_modules.LIBRARIES <= {"", "__future__"}


def test_each_recipe_has_modules_of_its_own(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        net(tmp_path / name, "from blocks import NAME\ndef build(): return NAME\n")
        (tmp_path / name / "blocks.py").write_text(f"NAME = {name!r}\n")
    assert [user.call("net:build", tmp_path / name) for name in ("one", "two", "one")] == ["one", "two", "one"]


def test_a_folder_without_init_and_an_import_at_call_time_work(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    net(tmp_path / "parts", "def build():\n    import importlib\n    return importlib.import_module('blocks').NAME\n")
    (tmp_path / "blocks.py").write_text("NAME = 'late'\n")
    assert user.call("parts.net:build", tmp_path) == "late"


ENDS = {
    "import sys\nsys.exit(0)\ndef build(): ...\n": r"sys.exit\(0\) would end the run \(net.py:2\): return instead",
    "def build():\n    raise SystemExit('bye')\n": r"sys.exit\('bye'\) would end the run \(net.py:2\)",
    "def build():\n    quit()\n": r"sys.exit\(None\) would end the run \(net.py:2\)",
    "import os\nos._exit(0)\n": r"os._exit\(0\) would end the run \(net.py:2\)",
    "def build():\n    from os import _exit\n    _exit(3)\n": r"os._exit\(3\) would end the run \(net.py:3\)",
    "def build():\n    return {}['a']\n": r"KeyError: 'a' \(net.py:2\)",
    "import json\njson.loads('{')\n": r"JSONDecodeError: .* \(net.py:2\)",
    "def build(:\n": r"SyntaxError: .* \(net.py:1\)",
}


@pytest.mark.parametrize("code", ENDS)
def test_the_users_code_never_ends_the_run_without_its_line(code: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=ENDS[code]) as refused:
        user.call("net:build", net(tmp_path, code))
    assert "\n" not in str(refused.value)


def test_os_exit_still_ends_everybody_elses_process(tmp_path: Path) -> None:
    script = f"import os\nfrom pipeline import user\nuser.call('net:build', {str(tmp_path)!r})\nos._exit(7)\n"
    net(tmp_path, "def build(): return 1\n")
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 7


def at_work(job: Job) -> dict[str, str]:
    """A stage in which the user's own function is called, without `user.call`'s care."""
    import queue

    function = user.resolve("net:build", job.user["folder"])
    return {"found": str(function()), "queue": queue.__file__, "pipeline": ours.__file__}


def job(folder: Path) -> Job:
    return Job(stage="load", settings={}, inputs={}, out=folder, seed=0, user={"folder": str(folder)})


def test_a_worker_imports_nothing_from_the_current_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", f"{folder / 'x'}{os.pathsep}{ROOT}")  # `tests`, for the stage above
    net(folder, "def build(): return 'mine'\n")
    found = run_isolated("tests.unit.test_user_modules:at_work", job(folder))
    assert found["found"] == "mine"
    assert found["pipeline"] == ours.__file__
    assert not found["queue"].startswith(str(folder))


@pytest.mark.parametrize(
    ("code", "exit_code", "says"),
    [
        (
            "import sys\ndef build(): sys.exit(0)\n",
            2,
            "load: the recipe's code: sys.exit(0) would end the run (net.py:2)",
        ),
        (
            "import os\ndef build(): os._exit(0)\n",
            2,
            "load: the recipe's code: os._exit(0) would end the run (net.py:2)",
        ),
        ("def build(): return [][1]\n", 2, "load: the recipe's code: IndexError: list index out of range (net.py:1)"),
        ("import torch\ndef build(): torch.nn.Linear(2, 2)(torch.zeros(3))\n", 5, "(net.py:2)"),
    ],
)
def test_a_stage_blames_the_users_line(code: str, exit_code: int, says: str, tmp_path: Path) -> None:
    with pytest.raises(DeployError) as failed:
        invoke("tests.unit.test_user_modules:at_work", job(net(tmp_path, code)))
    assert failed.value.exit_code == exit_code
    assert says in str(failed.value)


def test_our_packages_are_found_from_python_beside_modules_of_their_names(folder: Path) -> None:
    for name in ("pipeline", "queue", "tempfile"):  # these are Python's to find, whose session it is
        (folder / f"{name}.py").unlink()
    script = "import pipeline, targets.registry, calibration.errors as found; print(found.__file__)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{ROOT / 'calibration' / 'errors.py'}\n"


@pytest.mark.parametrize("safe", ["", "1"])
def test_python_m_takes_nothing_from_the_current_folder(safe: str, folder: Path) -> None:
    (folder / "pipeline.py").unlink()  # this one is Python's to find
    (folder / "typer.py").write_text("raise RuntimeError('a stray was imported')\n")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": safe}
    command = [sys.executable, "-m", "pipeline.cli", "--version"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_module_that_has_our_name_already_is_named(tmp_path: Path) -> None:
    (tmp_path / "targets.py").write_text("")
    done = subprocess.run([sys.executable, "-c", "import targets\nimport pipeline"], cwd=tmp_path, capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert "targets.py has the name of a package of edge-deploy: rename it" in done.stderr.splitlines()[-1]
