"""Digests of code: what is reached changes them, what is not does not."""

from pathlib import Path

from pipeline import source


def project(folder: Path) -> Path:
    (folder / "pkg").mkdir()
    (folder / "net.py").write_text("import torch\nfrom pkg import layers\nfrom pkg.more import x\n")
    (folder / "pkg" / "__init__.py").write_text("")
    (folder / "pkg" / "layers.py").write_text("from . import helper\n")
    (folder / "pkg" / "helper.py").write_text("def late():\n    import deep\n")
    (folder / "pkg" / "more.py").write_text("x = 1\n")
    (folder / "deep.py").write_text("")
    (folder / "unrelated.py").write_text("")
    return folder


def test_imports_are_followed(tmp_path: Path) -> None:
    found = source.reachable("net", [project(tmp_path)])
    assert set(found) == {"net", "pkg", "pkg.layers", "pkg.helper", "pkg.more", "deep"}


def test_only_what_is_reached_changes_the_digest(tmp_path: Path) -> None:
    roots = [project(tmp_path)]
    before = source.digest("net", roots)
    (tmp_path / "unrelated.py").write_text("y = 2\n")
    assert source.digest("net", roots) == before
    (tmp_path / "deep.py").write_text("y = 2\n")
    assert source.digest("net", roots) != before


def test_a_syntax_error_is_left_for_the_import_to_report(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("def (\n")
    assert set(source.reachable("net", [tmp_path])) == {"net"}


def test_our_own_stages_reach_their_code() -> None:
    root = Path(source.__file__).parent.parent
    found = source.reachable("pipeline.stages.race", [root], ("pipeline", "targets", "calibration"))
    assert {"pipeline.stages.measure", "targets.timing", "calibration.metrics", "targets.agent"} <= set(found)
    assert not any(name.startswith("numpy") for name in found)


def test_data_files(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.npz").write_bytes(b"1")
    (tmp_path / "b.txt").write_bytes(b"2")
    assert set(source.digest_files(["d", "*.txt"], tmp_path)) == {"d/a.npz", "b.txt"}
