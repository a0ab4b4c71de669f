"""The command line's manners: what it imports, what it refuses, with which exit code and how many lines."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("numpy", "torch", "rich", "pydantic", "scipy", "onnx", "onnxruntime", "openvino", "nncf", "filelock")


def deploy(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    script = (
        "import sys\nsys.argv = ['deploy', '--help']\nfrom pipeline.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "LOADED []" in done.stdout
    assert "--target" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "name a target"),
        (("--target", "openvin"), "did you mean 'openvino'?"),
        (("--target", "openvino", "profile"), "--target before 'profile' has no effect: put it after the sub-command"),
        (("--seed", "3", "gate", "x"), "--seed before 'gate' has no effect"),
        (("--target", "openvino", "--recipe", "none.toml"), "no recipe at none.toml"),
        (("--target", "openvino", "--set", "prune.macs"), "expected KEY=VALUE"),
        (("--target", "openvino", "--set", "prune.mcs=1"), "did you mean 'prune.macs'?"),
        (("--target", "openvino", "--only", "quantise"), "no stage 'quantise'"),
        (("--target", "openvino", "--out", "/proc/nowhere"), "cannot write to /proc/nowhere"),
        (("gate", "nowhere"), "no finished run at nowhere"),
        (("verify", "nowhere"), "no finished run at nowhere"),
        (("gate", "--plan"), "name the number of gate samples with --n"),
        (("gate", "--plan", "--n", "0"), "--n is 0"),
        (("gate", "--plan", "--n", "100", "--drop", "6"), "a drop of 6 points needs at least as many flips"),
        (("gate", "--margin", "2"), "belong to --plan"),
    ],
)
def test_bad_usage_is_one_line_and_exit_2(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    done = deploy(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("no deploy.toml here")]
    assert len(lines) == 1
    assert lines[0].startswith("deploy: ")
    assert done.stdout == ""


def test_unknown_options_exit_2(tmp_path: Path) -> None:
    done = deploy("--tarket", "openvino", cwd=tmp_path)
    assert done.returncode == 2
    assert "No such option" in done.stderr


def test_the_store_shows_and_prunes(tmp_path: Path) -> None:
    from pipeline.store import Store

    results = Store(tmp_path / ".deploy")
    of = {"recipe": "[bars]", "title": "train again"}
    results.put("train", "ab" * 32, lambda out: {"n": (out / "x").write_bytes(b"123")}, of)
    half = tmp_path / ".deploy" / "building" / ("cd" * 32 + "-12345678") / "files"
    half.mkdir(parents=True)
    (half / "x").write_bytes(b"12345")
    shown = deploy("store", cwd=tmp_path)
    assert "1 results, 3 B" in shown.stdout
    assert "building/: 1, 5 B, 0 in use" in shown.stdout
    assert "[bars] train again 3" in " ".join(shown.stdout.split())
    assert "removed 0 of 1 results and 1 leftovers" in deploy("store", "--prune", cwd=tmp_path).stderr
    assert "removed 1 of 1" in deploy("store", "--prune", "--days", "0", cwd=tmp_path).stderr
    assert results.entries() == []


def test_the_published_schema_is_the_one_in_force() -> None:
    from pipeline.release import report

    published = Path(report.__file__).parent / "report.schema.json"
    assert published.read_text() == report.schema_json(), "run 'make schema'"
