"""A target that lives outside: its wheel is built, installed, found, and held to the suite of the built-in ones."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
SUITE = Path(__file__).with_name("test_targets.py")
BUILT_IN, OUTSIDE = "onnxruntime", "numpy"


def run(*command: str, path: Path | None = None) -> str:
    environment = {**os.environ, **({"PYTHONPATH": str(path)} if path else {})}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=TESTS.parent)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.mark.slow
def test_a_target_from_a_wheel_passes_the_whole_suite(tmp_path: Path) -> None:
    source, site = tmp_path / "source", tmp_path / "site"
    shutil.copytree(TESTS / "plugin", source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "-q")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(tmp_path), str(source))
    (wheel,) = tmp_path.glob("*.whl")
    run(*pip, "install", "--no-deps", "--no-index", "--target", str(site), str(wheel))
    shutil.rmtree(source)

    pytest_ = (sys.executable, "-m", "pytest", str(SUITE), "-q", "-p", "no:cacheprovider")
    listed = run(*pytest_, "--collect-only", "-k", BUILT_IN)
    expected = sum("::" in line for line in listed.splitlines())
    report = tmp_path / "report.xml"
    run(*pytest_, "-k", OUTSIDE, f"--junitxml={report}", path=site)
    counts = ElementTree.parse(report).getroot().find("testsuite")
    assert counts is not None
    assert {name: int(counts.attrib[name]) for name in ("tests", "failures", "errors", "skipped")} == {
        "tests": expected,
        "failures": 0,
        "errors": 0,
        "skipped": 0,
    }
